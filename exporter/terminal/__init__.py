"""The view of top: screen, tables, keys."""
