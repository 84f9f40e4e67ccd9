"""The table at the end of a scenario."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A vCPU's exits for one reason, as counted by its guest, the oracle and the exporter (None: no exporter)."""

    vm: str
    vcpu: int
    when: str
    reason: str
    guest: str
    oracle: int
    exporter: float | None


def table(figures: list[Figure], skipped: int) -> str:
    """Return one line for each figure, with the difference between exporter and oracle, and a last line about all.

    `skipped` is the number of events for which the kernel skipped the exporter's programs. Each is a difference.
    """
    line = "{:<8} {:>4}  {:<22} {:<26} {:>6} {:>7} {:>8} {:>10}"
    lines = [line.format("VM", "vCPU", "when", "reason", "guest", "oracle", "exporter", "difference")]
    for figure in figures:
        served = difference = "-"
        if figure.exporter is not None:
            served, difference = f"{figure.exporter:.0f}", f"{figure.exporter - figure.oracle:.0f}"
        columns = (figure.reason, figure.guest, figure.oracle, served, difference)
        lines.append(line.format(figure.vm, figure.vcpu, figure.when, *columns))
    rows = [figure for figure in figures if figure.exporter is not None]
    exits, different = sum(row.oracle for row in rows), sum(row.exporter != row.oracle for row in rows)
    return "\n".join([*lines, f"{len(rows)} rows, {exits} exits, {different} different, {skipped} skipped"])
