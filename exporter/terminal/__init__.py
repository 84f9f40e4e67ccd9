"""`top` on the terminal: the sources of its readings, the live view, tables, CSV and JSON."""
