"""Makes the lines of the live view for a screen of a given size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from exporter.common.text import count, printable, seconds
from exporter.readings.difference import Difference, ReasonDifference
from exporter.readings.grouping import grouped, ordered
from exporter.readings.reading import EXIT, USERSPACE
from exporter.terminal.text import ASCII_BLOCKS, BLOCKS, left, right, sparkline, width
from exporter.terminal.view import COLUMNS, KEYS, TopView


class Style(Enum):
    """How a line is displayed."""

    PLAIN = 0
    TITLE = 1
    HEADER = 2
    DIM = 3


Line = tuple[str, Style]

_ABOVE, _BELOW = 4, 1
"""Lines of the screen above and below the rows."""

_GROUP_WORDS = {"vcpu": "vCPU", "vm": "VM", "reason": "reason"}


@dataclass(frozen=True)
class Frame:
    """The data that the screen shows until the next refresh."""

    clock: str
    """Local time of the reading."""
    source: str
    """Name of the source."""
    interval: Difference | None
    """The exits since the previous frame; None before the end of the first interval."""
    total: Difference
    """The exits since the start of the run."""
    trouble: str = ""
    """The reason why the source returned no newer reading; "" if there is no problem."""


class _Column(NamedTuple):
    title: str
    least: int
    """Smallest width."""
    most: int
    """Greatest width. A column is wider than `least` only if its cells need it and the screen has room."""
    cell: Callable[[ReasonDifference], str]
    rank: int
    """On a narrow screen the columns of the highest ranks are left out."""
    groups: str = "vcpu vm reason"
    """Groupings that have the column."""
    number: bool = True
    part: str = ""
    """The member of TimeParts in the column. Such a column is left out where the exporter cannot tell its numbers."""


def page_rows(height: int) -> int:
    """Number of rows that fit on a screen of `height` lines."""
    return max(1, height - _ABOVE - _BELOW)


def chosen(frame: Frame, view: TopView, limit: int | None) -> list[ReasonDifference]:
    """The rows that the view selects, in their order."""
    difference = frame.total if view.total else frame.interval
    if difference is None:
        return []
    rows = ordered(grouped(difference, _kind(view), view.group), view.sort, reverse=view.reverse)
    return [row for row in rows if view.idle or not row.idle][:limit]


def lines(
    frame: Frame, view: TopView, rows: Sequence[ReasonDifference], height: int, columns: int, *, unicode: bool = True
) -> list[Line]:
    """All lines of the screen from top to bottom: `height` lines of exactly `columns`."""
    made = _help() if view.help else _body(frame, view, rows, (height, columns), unicode)
    keys = "q quit  h help  s sort  g group  p pause  i idle  u userspace  t total"
    made = [*made[: max(0, height - 1)], *[("", Style.PLAIN)] * (height - 1 - len(made)), (keys, Style.PLAIN)]
    return [(left(_plain(text, unicode), columns), style) for text, style in made[:height]]


def _kind(view: TopView) -> str:
    return USERSPACE if view.userspace else EXIT


def _plain(text: str, unicode: bool) -> str:
    return text if unicode else text.encode("ascii", "backslashreplace").decode()


def _clean(text: str, unicode: bool) -> str:
    return _plain(printable(text), unicode)


def _body(
    frame: Frame, view: TopView, rows: Sequence[ReasonDifference], size: tuple[int, int], unicode: bool
) -> list[Line]:
    height, columns = size
    difference = frame.total if view.total else frame.interval
    said = f"top  {frame.clock}{'  PAUSED' if view.paused else ''}  {_clean(frame.source, unicode)}"
    head: list[Line] = [
        (said, Style.TITLE),
        (_summary(difference) if difference else "", Style.PLAIN),
        (_state(view, difference, len(rows), _clean(frame.trouble, unicode)), Style.PLAIN),
    ]
    page = page_rows(height)
    start = max(0, min(view.scroll, len(rows) - page))
    seen = rows[start : start + page]
    shown = _fitted(seen, view, columns, unicode)
    head.append((" ".join(_title(column, at) for column, at in shown), Style.HEADER))
    if not seen:
        return [*head, ("no exits" if difference else "waiting for the first interval", Style.PLAIN)]
    return [*head, *((_line(row, shown, unicode), Style.DIM if row.idle else Style.PLAIN) for row in seen)]


def _summary(difference: Difference) -> str:
    rows = difference.rows()
    time = difference.elapsed_ns * len(difference.vcpus) or 1
    lost = sum(row.time_ns for row in rows if not row.idle)
    idle = sum(row.time_ns for row in rows if row.idle)
    guest = sum(vcpu.guest_ns for vcpu in difference.vcpus)
    rate = sum(row.exits for row in rows) * 1e9 / (difference.elapsed_ns or 1)
    shares = [("guest", guest), ("lost", lost), ("idle", idle)]
    waited = [vcpu.wait_ns for vcpu in difference.vcpus if vcpu.wait_ns is not None]
    if waited:
        shares.append(("wait", sum(waited)))
    parts = "  ".join(f"{name} {min(100.0, 100 * ns / time):.1f} %" for name, ns in shares)
    return f"{len(difference.vcpus)} vCPUs  {count(rate)} exits/s  {parts}"


def _state(view: TopView, difference: Difference | None, rows: int, trouble: str) -> str:
    what = "returns to the VMM" if view.userspace else "exits"
    period = (
        "" if difference is None else f" of {'all' if view.total else 'the last'} {difference.elapsed_ns / 1e9:.1f} s"
    )
    order = f"{view.sort}{' (reversed)' if view.reverse else ''}"
    idle = "" if view.idle else ", idle hidden"
    said = f"{what}{period} by {_GROUP_WORDS[view.group]}, sorted by {order}{idle}, {rows} rows"
    return f"{trouble}  {said}" if trouble else said


def _help() -> list[Line]:
    made: list[Line] = [("Keys", Style.TITLE)]
    made += [(f"  {keys:<9} {text}", Style.PLAIN) for keys, text in KEYS]
    made.append(("Columns", Style.TITLE))
    made += [(f"  {title:<9} {text}", Style.PLAIN) for title, text in COLUMNS]
    return made


def _named(text: str) -> str:
    return text or "-"


def _part(title: str, part: str, rank: int) -> _Column:
    width = max(5, len(title))
    return _Column(title, width, width, lambda row: f"{100 * row.part_share(part):.1f}", rank, part=part)


_COLUMNS = (
    _Column("VM", 10, 40, lambda row: row.vm, 3, "vcpu vm", number=False),
    _Column("PID", 8, 8, lambda row: str(row.pid), 16, "vcpu vm"),
    _Column("VCPU", 4, 4, lambda row: _named(row.vcpu), 4, "vcpu"),
    _Column("TID", 8, 8, lambda row: str(row.tid), 13, "vcpu"),
    _Column("REASON", 14, 40, lambda row: row.reason, 0, number=False),
    _Column("CLASS", 9, 9, lambda row: row.klass, 15, number=False),
    _Column("COUNT", 10, 10, lambda row: str(row.exits), 14),
    _Column("RATE/s", 6, 6, lambda row: count(row.rate), 2),
    _Column("TIME%", 5, 5, lambda row: f"{100 * row.share:.1f}", 1),
    _part("WAIT%", "wait", 6),
    _part("SLEEP%", "sleep", 8),
    _part("VMM%", "vmm", 7),
    _Column("AVG", 6, 6, lambda row: seconds(row.avg_ns), 5),
    _Column("P50", 6, 6, lambda row: seconds(row.p50_ns), 10),
    _Column("P99", 6, 6, lambda row: seconds(row.p99_ns), 9),
    _Column("MAX", 6, 6, lambda row: seconds(row.max_ns), 11),
)
_SPARK = _Column("", 8, 24, lambda _: "", 12, number=False)


def _parts_known(rows: Sequence[ReasonDifference], view: TopView) -> set[str]:
    """The parts of TimeParts that say something about these rows. An exit from the guest has no part `vmm`."""
    if not any(row.parts for row in rows):
        return set()
    return {"wait", "sleep", "vmm"} if view.userspace else {"wait", "sleep"}


def _fitted(rows: Sequence[ReasonDifference], view: TopView, columns: int, unicode: bool) -> list[tuple[_Column, int]]:
    """The columns that fit on the screen, each with its width."""
    known = {"", *_parts_known(rows, view)}
    kept = [column for column in (*_COLUMNS, _SPARK) if view.group in column.groups.split() and column.part in known]
    while len(kept) > 1 and sum(column.least + 1 for column in kept) - 1 > columns:
        kept.remove(max(kept, key=lambda column: column.rank))
    room = columns - (sum(column.least + 1 for column in kept) - 1)
    widths = []
    for column in kept:
        wanted = column.most
        if column is not _SPARK and column.most > column.least:
            wanted = max((width(_clean(column.cell(row), unicode)) for row in rows), default=0)
        more = max(0, min(room, min(wanted, column.most) - column.least))
        room -= more
        widths.append(column.least + more)
    return list(zip(kept, widths))


def _title(column: _Column, columns: int) -> str:
    if column is _SPARK:
        return "1us" + "." * (columns - 6) + "16s"
    return right(column.title, columns) if column.number else left(column.title, columns)


def _line(row: ReasonDifference, shown: Sequence[tuple[_Column, int]], unicode: bool) -> str:
    cells = []
    for column, columns in shown:
        if column is _SPARK:
            cells.append(sparkline(row.buckets, columns, BLOCKS if unicode else ASCII_BLOCKS))
        else:
            cell = _clean(column.cell(row), unicode)
            cells.append(right(cell, columns) if column.number else left(cell, columns))
    return " ".join(cells)
