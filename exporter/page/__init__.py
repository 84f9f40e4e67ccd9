"""The page at /: HTML made of readings."""
