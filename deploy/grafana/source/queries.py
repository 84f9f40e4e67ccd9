"""The PromQL of both dashboards: raw metrics of docs/metrics.md only, and either kind of histogram.

A server has durations as native histograms (one series) or as classic ones (`_bucket`, `_sum`, `_count`), and a fleet
may have both. So sums and counts join the two series by series: what is native is taken, and what is left is classic.
Quantiles need all of a histogram in one kind; they are joined after the aggregation, where a group that has any
native series is taken from those alone.
"""

from __future__ import annotations

EXITS = "kvm_exit_duration_seconds"
USERSPACE = "kvm_userspace_exit_duration_seconds"

OVER_TIME = "$__rate_interval"
"""The window of a graph: at least four scrapes."""

WHOLE = "$__range"
"""The window of a table or a single number: all that the time picker shows."""

CLASSES = 'class=~"$class"'
"""The classes that were chosen; idle is never among them."""


def selector(*matchers: str) -> str:
    """Return matchers in their braces."""
    return "{" + ", ".join(matchers) + "}"


def rate(counter: str, where: str, window: str) -> str:
    """Return a counter's increase a second, of each series."""
    return f"rate({counter}{where}[{window}])"


def seconds(histogram: str, where: str, window: str) -> str:
    """Return time spent, in seconds a second, of each series."""
    return f"(histogram_sum(rate({histogram}{where}[{window}])) or rate({histogram}_sum{where}[{window}]))"


def observed(histogram: str, where: str, window: str) -> str:
    """Return intervals a second of each series."""
    return f"(histogram_count(rate({histogram}{where}[{window}])) or rate({histogram}_count{where}[{window}]))"


def total(what: str, *by: str) -> str:
    """Return the sum of each group, or of all."""
    return f"sum by ({', '.join(by)}) ({what})" if by else f"sum({what})"


def average(histogram: str, where: str, window: str, *by: str) -> str:
    """Return the mean duration of each group in which something was observed."""
    spent, number = total(seconds(histogram, where, window), *by), total(observed(histogram, where, window), *by)
    return f"{spent} / ({number} > 0)"


def quantile(phi: float, histogram: str, where: str, window: str, *by: str) -> str:
    """Return a quantile of each group; groups without an observation (NaN) are left out."""
    native = total(rate(histogram, where, window), *by)
    classic = total(rate(f"{histogram}_bucket", where, window), *by, "le")
    return f"(histogram_quantile({phi}, {native}) or histogram_quantile({phi}, {classic})) >= 0"


def heatmap(histogram: str, where: str, window: str) -> str:
    """Return one native histogram, or else classic buckets by `le`; never both, which Grafana would draw as one."""
    native = total(rate(histogram, where, window))
    classic = total(rate(f"{histogram}_bucket", where, window), "le")
    return f"{native} or on () {classic}"


def or_zero(what: str) -> str:
    """Return 0 where there is nothing; for a single number only."""
    return f"{what} or vector(0)"


def top(what: str, by: str, *, of: str) -> str:
    """Return of the first vector what is among the largest `$top` of the second."""
    what = f"({what})" if " or " in what else what  # `and` binds tighter
    return f"{what} and on ({by}) topk($top, {of})"


def at_end(what: str) -> str:
    """Fix a vector over the whole range to the range's end: in a graph the same few series at every step.

    topk() alone chooses anew at each step, and a graph of the ten largest then has dozens of lines.
    """
    return what.replace(f"[{WHOLE}]", f"[{WHOLE}] @ end()")
