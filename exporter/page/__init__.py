"""The page at /. A reading goes through totals.py, view.py, markup.py with drawing.py, and page.py."""
