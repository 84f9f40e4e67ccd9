"""The configuration: options and their defaults, what a value may be, and how a file and flags are read."""
