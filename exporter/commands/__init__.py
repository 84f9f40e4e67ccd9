"""The command line: one file for each command, with its flags, its help and its run."""
