"""What is printed of two readings: rows in one of three forms, and what they do not show."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import datetime, timezone
from typing import TextIO

from exporter.document import EXIT, KINDS, USERSPACE, Reading
from exporter.grouping import Filters, grouped, ordered
from exporter.losses import not_counted
from exporter.rows import Row, Span, between
from exporter.terminal import table
from exporter.terminal.options import Output


def text(output: Output, name: str, then: Reading, now: Reading, *, first: bool, heading: bool) -> str:
    """The rows of what happened between two readings of the source `name`; `first`: nothing was printed before."""
    span = output.filters.apply(between(then, now))
    taken = time.time()
    if output.form == "json":
        rows = ordered([row for kind in KINDS for row in span.rows(kind)], output.sort)[: output.limit]
        if output.limit:
            limited = set(map(id, rows))
            kept = [vcpu for vcpu in span.vcpus if not limited.isdisjoint(map(id, vcpu.rows))]
            span = replace(span, vcpus=kept)
        about = {"time": round(taken, 3), "source": name, "replay": now.replay}
        return table.json_line(span, rows, about)
    rows = ordered(grouped(span, _kind(output)), output.sort)[: output.limit]
    if output.form == "csv":
        return table.csv_lines(rows, taken, header=first)
    return (_heading(taken, span, first) if heading else "") + table.table(rows)


def notes(output: Output, then: Reading, now: Reading, unseen: str) -> list[str]:
    """What the rows do not show, a line each; `unseen` goes on after "no exit was seen:"."""
    whole = between(then, now)
    said = []
    if not grouped(output.filters.apply(whole), _kind(output)):
        said.append(_nothing(output.filters, grouped(whole, _kind(output)), unseen))
    return said + not_counted(whole.counters)


def drop(out: TextIO) -> None:
    """Have Python's last flush go nowhere: it would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def _kind(output: Output) -> str:
    return USERSPACE if output.userspace else EXIT


def _heading(taken: float, span: Span, first: bool) -> str:
    moment = datetime.fromtimestamp(taken, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    blank = "" if first else "\n"
    return f"{blank}{moment}  {span.elapsed_ns / 1e9:.3f} s\n"


def _nothing(filters: Filters, rows: list[Row], unseen: str) -> str:
    if not rows:
        return f"no exit was seen: {unseen}"
    seen = sorted({row.reason for row in rows})
    if filters.reasons and not filters.reasons & set(seen):
        return f"no exit matches --reason; seen: {', '.join(seen[:20])}"
    return f"no exit matches the filters; without them there are {len(rows)} rows"
