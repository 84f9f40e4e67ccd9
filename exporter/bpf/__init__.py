"""The BPF program, the headers it is compiled with, and the bpf(2) calls made beside bcc."""
