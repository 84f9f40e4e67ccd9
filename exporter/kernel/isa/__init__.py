"""Exit reasons of each instruction set."""
