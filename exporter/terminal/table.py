"""Rows as text: a table of six columns, CSV, JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping

from exporter.common.text import printable
from exporter.readings.difference import Difference, ReasonDifference
from exporter.readings.document import VERSION, counted_fields, dumps, identity
from exporter.readings.reading import ReasonReading
from exporter.terminal.text import left, right, width

_TITLES = ("TGID", "TID", "COMM", "KVM_EXIT_REASON", "COUNT", "AVG_TIME (ns)")
_LEAST_WIDTHS = (8, 8, 16, 24, 10, 13)
_NUMBERS = (4, 5)


def table(rows: Iterable[ReasonDifference]) -> str:
    """The table TGID TID COMM KVM_EXIT_REASON COUNT AVG_TIME (ns), in the order of the rows.

    AVG_TIME is the mean of the completed intervals; "-" if none is completed.
    """
    lines: list[tuple[str, ...]] = [_TITLES]
    for row in rows:
        average = "-" if row.avg_ns is None else str(row.avg_ns)
        names = printable(row.comm), printable(row.reason)
        lines.append((str(row.pid), str(row.tid), *names, str(row.exits), average))
    widths = [max(least, *(width(line[at]) for line in lines)) for at, least in enumerate(_LEAST_WIDTHS)]
    return "".join(
        " ".join((right if at in _NUMBERS else left)(cell, widths[at]) for at, cell in enumerate(line)) + "\n"
        for line in lines
    )


CSV_COLUMNS = (
    *("time", "seconds", "tgid", "tid", "comm", "vm", "vcpu", "kind", "reason", "class", "count", "rate", "time_ns"),
    *("share", "avg_ns", "p50_ns", "p99_ns", "max_ns", "wait_ns", "sleep_ns", "vmm_ns"),
)


def csv_lines(rows: Iterable[ReasonDifference], taken: float, *, header: bool) -> str:
    """A line for each row. `taken` is the Unix time in the first column. A value that does not exist is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(CSV_COLUMNS)
    for row in rows:
        writer.writerow(
            [
                f"{taken:.3f}",
                f"{row.elapsed_ns / 1e9:.6f}",
                row.pid,
                row.tid,
                *map(printable, (row.comm, row.vm, row.vcpu, row.kind, row.reason, row.klass)),
                row.exits,
                f"{row.rate:.3f}",
                row.time_ns,
                f"{row.share:.6f}",
                *("" if ns is None else ns for ns in (row.avg_ns, row.p50_ns, row.p99_ns, row.max_ns)),
                *((row.parts.wait, row.parts.sleep, row.parts.vmm) if row.parts else ("", "", "")),
            ]
        )
    return text.getvalue()


def json_line(difference: Difference, rows: Iterable[ReasonDifference], about: Mapping[str, object]) -> str:
    """One JSON document on a line: like that of /-/vcpus, but with differences.

    `rows` are the selected rows in their order, `about` the first members of the document. The vCPUs have the order of
    their first rows. vCPUs without a row come last.
    """
    chosen: dict[int, int] = {id(row): place for place, row in enumerate(rows)}
    vcpus = []
    for vcpu in difference.vcpus:
        mine = sorted((chosen[id(row)], row) for row in vcpu.rows if id(row) in chosen)
        first = mine[0][0] if mine else len(chosen)
        made = {
            **identity(vcpu.thread),
            "guest_ns": vcpu.guest_ns,
            "wait_ns": vcpu.wait_ns,
            "reasons": [_derived(row) for _, row in mine],
        }
        vcpus.append((first, made))
    vcpus.sort(key=lambda pair: pair[0])
    members = {
        "version": VERSION,
        **about,
        "elapsed_ns": difference.elapsed_ns,
        "counters": dict(difference.counters),
        "vcpus": [made for _, made in vcpus],
    }
    return dumps(members).decode()


def _derived(row: ReasonDifference) -> dict[str, object]:
    counted = ReasonReading(row.kind, row.reason, row.klass, row.exits, row.sum_ns, row.buckets, row.parts)
    return {
        **counted_fields(counted),
        "time_ns": row.time_ns,
        "share": round(row.share, 6),
        "rate": round(row.rate, 6),
        "avg_ns": row.avg_ns,
        "p50_ns": row.p50_ns,
        "p99_ns": row.p99_ns,
        "max_ns": row.max_ns,
    }
