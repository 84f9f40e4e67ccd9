"""The command line. Each command has one file with its flags, its help and the code that runs it."""
