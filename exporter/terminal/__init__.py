"""`top` on the terminal: where its readings come from, the live view, tables, CSV and JSON."""
