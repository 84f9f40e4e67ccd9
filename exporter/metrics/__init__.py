"""Records become metric families, and families become pages in the wire formats."""
