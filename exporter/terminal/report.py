"""What is printed of two readings: rows in one of three forms, and what they do not show."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import TextIO

from exporter.common.text import seconds
from exporter.model.drops import not_counted
from exporter.readings.difference import Difference, ReasonDifference, between
from exporter.readings.grouping import Filters, grouped, ordered
from exporter.readings.reading import EXIT, KINDS, USERSPACE, Reading
from exporter.terminal import table
from exporter.terminal.options import Output

_NAMED = 3
"""So many vCPUs are said by name."""


def text(output: Output, name: str, then: Reading, now: Reading, *, first: bool, heading: bool) -> str:
    """The rows of what happened between two readings of the source `name`; `first`: nothing was printed before."""
    span = output.filters.apply(between(then, now))
    taken = time.time()
    rows = _printed(output, span)[: output.limit]
    if output.form == "json":
        about = {"time": round(taken, 3), "source": name, "replay": now.replay}
        return table.json_line(_with_rows(output, span, rows), rows, about)
    if output.form == "csv":
        return table.csv_lines(rows, taken, header=first)
    return (_heading(taken, span, first) if heading else "") + table.table(rows)


def held(output: Output, then: Reading, now: Reading) -> str:
    """The vCPUs that the table of the two readings is silent about: out of the guest all the time, they did not exit.

    Idle ones only where it has no row at all. Empty if there are none.
    """
    if output.form != "table":
        return ""
    rows = ordered(grouped(output.filters.apply(between(then, now)), _kind(output)))
    counts = any(row.exits for row in rows)
    rows = [row for row in rows if not row.exits and (not counts or (row.time_ns >= row.span_ns and not row.idle))]
    if not rows:
        return ""
    said = [f"tid {row.tid} ({row.comm} of {row.vm}) {row.reason} {seconds(row.time_ns)}" for row in rows[:_NAMED]]
    more = [f"{len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
    return f"in no row, for the exit began before: {', '.join(said + more)}"


def notes(output: Output, then: Reading, now: Reading, unseen: str) -> list[str]:
    """What the rows do not show, a line each; `unseen` goes on after "no exit was seen:"."""
    whole = between(then, now)
    said = []
    if not _printed(output, output.filters.apply(whole)) and not held(output, then, now):
        said.append(_nothing(output.filters, _printed(output, whole), unseen))
    return said + not_counted(whole.counters)


def drop(out: TextIO) -> None:
    """Have Python's last flush go nowhere: it would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def _printed(output: Output, span: Difference) -> list[ReasonDifference]:
    """The rows that the form has, in their order. In a table COUNT is never 0."""
    if output.form == "json":
        kinds = (USERSPACE,) if output.userspace else KINDS
        return ordered([row for kind in kinds for row in span.rows(kind)], output.sort)
    rows = ordered(grouped(span, _kind(output)), output.sort)
    return rows if output.form == "csv" else [row for row in rows if row.exits]


def _with_rows(output: Output, span: Difference, rows: Sequence[ReasonDifference]) -> Difference:
    """The span without the vCPUs that have no row where rows were chosen."""
    if not (output.limit or output.userspace or output.filters.reasons or output.filters.no_idle):
        return span
    chosen = set(map(id, rows))
    return replace(span, vcpus=[vcpu for vcpu in span.vcpus if not chosen.isdisjoint(map(id, vcpu.rows))])


def _kind(output: Output) -> str:
    return USERSPACE if output.userspace else EXIT


def _heading(taken: float, span: Difference, first: bool) -> str:
    moment = datetime.fromtimestamp(taken, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    blank = "" if first else "\n"
    return f"{blank}{moment}  {span.elapsed_ns / 1e9:.3f} s\n"


def _nothing(filters: Filters, rows: Sequence[ReasonDifference], unseen: str) -> str:
    if not rows:
        return f"no exit was seen: {unseen}"
    seen = sorted({row.reason for row in rows})
    if filters.reasons and not filters.reasons & set(seen):
        return f"no exit matches --reason; seen: {', '.join(seen[:20])}"
    return f"no exit matches the filters; without them there are {len(rows)} rows"
