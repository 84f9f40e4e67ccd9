"""The kernel side: BPF programs and what loads them, tracepoint formats, instruction sets, privileges, preflight."""
