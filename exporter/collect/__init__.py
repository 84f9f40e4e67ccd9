"""From the bytes of the BPF maps to records."""
