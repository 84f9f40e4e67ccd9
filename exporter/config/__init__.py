"""The configuration: the options with their defaults and allowed values, and the code that reads a file and flags."""
