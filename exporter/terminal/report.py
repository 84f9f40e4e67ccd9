"""Text made from two readings: the rows as a table, CSV or JSON, and notes about facts that the rows do not show."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone

from exporter.common.text import seconds
from exporter.model.drops import not_counted
from exporter.readings.difference import Difference, ReasonDifference, between
from exporter.readings.grouping import Filters, grouped, ordered
from exporter.readings.reading import EXIT, KINDS, USERSPACE, Reading
from exporter.terminal import table
from exporter.terminal.output import Output

_MAX_NAMES, _MAX_REASONS = 3, 20
"""Largest number of vCPUs, and of reasons, that a line names."""


def text(output: Output, name: str, then: Reading, now: Reading, *, first: bool, heading: bool) -> str:
    """The rows of the exits between two readings.

    `name` is the name of the source. `first`: nothing was printed before. `heading`: a line with time and duration is
    printed above a table.
    """
    difference = output.filters.apply(between(then, now))
    taken = time.time()
    rows = _printed(output, difference)[: output.limit]
    if output.form == "json":
        about = {"time": round(taken, 3), "source": name, "replay": now.replay}
        return table.json_line(_with_rows(output, difference, rows), rows, about)
    if output.form == "csv":
        return table.csv_lines(rows, taken, header=first)
    return (_heading(taken, difference, first) if heading else "") + table.table(rows)


def held(output: Output, then: Reading, now: Reading) -> str:
    """A line about vCPUs that are in no row, because their exit began before the first reading, or "".

    If the table has rows, the line names only vCPUs that were out of the guest all the time, and not idle.
    """
    if output.form != "table":
        return ""
    rows = ordered(grouped(output.filters.apply(between(then, now)), _kind(output)))
    counts = any(row.exits for row in rows)
    rows = [row for row in rows if not row.exits and (not counts or (row.time_ns >= row.span_ns and not row.idle))]
    if not rows:
        return ""
    named = [f"tid {row.tid} ({row.comm} of {row.vm}) {row.reason} {seconds(row.time_ns)}" for row in rows[:_MAX_NAMES]]
    more = [f"{len(rows) - _MAX_NAMES} more"] if len(rows) > _MAX_NAMES else []
    return f"in no row, because the exit began earlier: {', '.join(named + more)}"


def notes(output: Output, then: Reading, now: Reading, unseen: str) -> list[str]:
    """Lines about facts that the rows do not show. `unseen` is the text after "no exit was seen:"."""
    whole = between(then, now)
    lines = []
    if not _printed(output, output.filters.apply(whole)) and not held(output, then, now):
        lines.append(_nothing(output.filters, _printed(output, whole), unseen))
    return lines + not_counted(whole.counters)


def _printed(output: Output, difference: Difference) -> list[ReasonDifference]:
    """The rows to print, in their order. A table has only rows whose COUNT is not 0."""
    if output.form == "json":
        kinds = (USERSPACE,) if output.userspace else KINDS
        return ordered([row for kind in kinds for row in difference.rows(kind)], output.sort)
    rows = ordered(grouped(difference, _kind(output)), output.sort)
    return rows if output.form == "csv" else [row for row in rows if row.exits]


def _with_rows(output: Output, difference: Difference, rows: Sequence[ReasonDifference]) -> Difference:
    """Return the difference. If flags select rows, vCPUs without a row are left out."""
    if not (output.limit or output.userspace or output.filters.reasons or output.filters.no_idle):
        return difference
    chosen = set(map(id, rows))
    return replace(difference, vcpus=[vcpu for vcpu in difference.vcpus if not chosen.isdisjoint(map(id, vcpu.rows))])


def _kind(output: Output) -> str:
    return USERSPACE if output.userspace else EXIT


def _heading(taken: float, difference: Difference, first: bool) -> str:
    moment = datetime.fromtimestamp(taken, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    blank = "" if first else "\n"
    return f"{blank}{moment}  {difference.elapsed_ns / 1e9:.3f} s\n"


def _nothing(filters: Filters, rows: Sequence[ReasonDifference], unseen: str) -> str:
    if not rows:
        return f"no exit was seen: {unseen}"
    seen = sorted({row.reason for row in rows})
    if filters.reasons and not filters.reasons & set(seen):
        return f"no exit matches --reason; seen: {', '.join(seen[:_MAX_REASONS])}"
    return f"no exit matches the filters; without them there are {len(rows)} rows"
