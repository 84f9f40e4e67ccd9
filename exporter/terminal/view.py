"""The state of the live view, the keys that change it, and the texts of its help."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from exporter.readings.grouping import GROUPS, SORT_KEYS


@dataclass(frozen=True)
class TopView:
    """Which rows the live view shows, and in which order."""

    sort: str = "time"
    reverse: bool = False
    group: str = "vcpu"
    idle: bool = True
    userspace: bool = False
    total: bool = False
    paused: bool = False
    help: bool = False
    scroll: int = 0


# A key or a column with its text must fit into a line of 80 columns.
KEYS = (
    ("s S", "sort by the next or the previous key: " + " ".join(SORT_KEYS[:4])),
    ("", " ".join(SORT_KEYS[4:])),
    ("r", "reverse the order; idle reasons stay last"),
    ("g 1 2 3", "group by the next of these, by vCPU, by VM, by reason"),
    ("i", "hide or show idle reasons (WFx, HLT: the guest has nothing to do)"),
    ("u", "show returns to the VMM (KVM_EXIT_*), or exits from the guest"),
    ("t", "show totals since the start instead of the last interval, or not"),
    ("p space", "pause: the screen stands still, counting goes on"),
    ("up down", "scroll; also j k, page up, page down, home, end"),
    ("h ?", "this help"),
    ("q", "quit, like Ctrl-C; then the table of the whole run is printed"),
)

COLUMNS = (
    ("RATE/s", "exits per second"),
    ("TIME%", "share of the vCPUs' time that was lost, including exits in progress"),
    ("WAIT%", "share of the vCPUs' time that the thread was ready, but had no CPU"),
    ("SLEEP%", "share in which the thread slept; the rest of TIME% was on a CPU"),
    ("VMM%", "share in the VMM, after KVM_RUN returned; contains WAIT%, SLEEP%"),
    ("AVG", "mean of the completed intervals from an exit to the next entry"),
    ("P50 P99", "upper bound of the bucket with the percentile; a bucket is 19 % wide"),
    ("MAX", "upper bound of the highest bucket that is not empty"),
    ("1us..16s", "histogram of the completed intervals, from 1 us to 16 s"),
)

_SCROLLS = {"up": -1, "k": -1, "down": 1, "j": 1}


def press(view: TopView, key: str, *, page: int, rows: int) -> TopView | None:
    """Return the view after a key; None means quit. An unknown key changes nothing.

    `page` is the number of rows on the screen, `rows` the number of all rows.
    """
    if key in ("q", "Q"):
        return None
    if key in ("h", "?"):
        return replace(view, help=not view.help)
    if view.help:
        return replace(view, help=False)
    if key in ("p", " "):
        return replace(view, paused=not view.paused)
    scrolled = _scrolled(view.scroll, key, page, rows)
    if scrolled is not None:
        return replace(view, scroll=scrolled)
    changed = _changed(view, key)
    return view if changed is view else replace(changed, scroll=0)


def _scrolled(scroll: int, key: str, page: int, rows: int) -> int | None:
    last = max(0, rows - page)
    if key in _SCROLLS:
        scroll += _SCROLLS[key]
    elif key == "page up":
        scroll -= page
    elif key == "page down":
        scroll += page
    elif key in ("home", "end"):
        scroll = last if key == "end" else 0
    else:
        return None
    return min(max(scroll, 0), last)


def _changed(view: TopView, key: str) -> TopView:
    if key in ("s", "S"):
        step = 1 if key == "s" else -1
        return replace(view, sort=SORT_KEYS[(SORT_KEYS.index(view.sort) + step) % len(SORT_KEYS)])
    if key == "g":
        return replace(view, group=GROUPS[(GROUPS.index(view.group) + 1) % len(GROUPS)])
    if key in ("1", "2", "3"):
        return replace(view, group=GROUPS[int(key) - 1])
    flags = {"r": "reverse", "i": "idle", "u": "userspace", "t": "total"}
    if key in flags:
        change: dict[str, Any] = {flags[key]: not getattr(view, flags[key])}
        return replace(view, **change)
    return view
