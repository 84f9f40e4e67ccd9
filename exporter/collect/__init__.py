"""The bytes of the BPF maps become records."""
