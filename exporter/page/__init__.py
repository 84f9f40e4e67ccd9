"""The page at /. A reading passes through totals.py, view.py, markup.py (with drawing.py) and page.py."""
