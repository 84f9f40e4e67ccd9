"""One file for each instruction set: its exit codes, their names and classes, and how the kernel reports them."""
