"""The kernel side: BPF programs, the loader, tracepoint formats, instruction sets, privileges, preflight."""
