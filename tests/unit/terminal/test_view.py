"""The keys of the live view: their effects and their help."""

from __future__ import annotations

from exporter.terminal.view import COLUMNS, KEYS, TopView, press


def test_the_help_fits_into_80_columns_and_23_lines() -> None:
    assert all(len(f"  {name:<9} {words}") <= 80 for name, words in (*KEYS, *COLUMNS))
    assert len(KEYS) + len(COLUMNS) + 2 <= 23


def test_scrolling_stays_within_the_rows() -> None:
    view = TopView()
    for key, scroll in (("up", 0), ("down", 1), ("end", 3), ("j", 3), ("page up", 0), ("page down", 3), ("home", 0)):
        changed = press(view, key, page=4, rows=7)
        assert changed
        view = changed
        assert view.scroll == scroll, key
    assert press(TopView(scroll=3), "s", page=4, rows=7) == TopView(sort="count")
    assert press(TopView(), "end", page=40, rows=7) == TopView()
