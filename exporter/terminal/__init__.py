"""`top`: the numbers on a terminal. Nothing here is imported by the daemon."""
