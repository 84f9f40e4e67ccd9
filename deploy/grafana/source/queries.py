"""The PromQL of both dashboards. It reads only the raw metrics of docs/metrics.md, with either kind of histogram.

A server stores durations as native histograms (one series) or as classic ones (`_bucket`, `_sum`, `_count`), and a
fleet may have both. Sums and counts therefore use each native series, and a classic series where there is no native
one. A quantile needs one kind of histogram: each group uses its native series if it has any, and otherwise its classic
series.
"""

from __future__ import annotations

EXITS = "kvm_exit_duration_seconds"
USERSPACE = "kvm_userspace_exit_duration_seconds"

OVER_TIME = "$__rate_interval"
"""The window of a graph. It covers at least four scrapes."""

WHOLE = "$__range"
"""The window of a table or a single number: the whole time range."""

CLASSES = 'class=~"$class"'
"""Selects the chosen classes. Idle is never one of them."""

OF_THE_VMM = 'reason!~"restart|error_.*"'
"""Leaves out returns that are no work of the VMM: the interval of an interrupted sleep holds the whole sleep."""


def selector(*matchers: str) -> str:
    """Return the matchers as a selector in braces."""
    return "{" + ", ".join(matchers) + "}"


def rate(counter: str, where: str, window: str) -> str:
    """Return the increase per second of each series of a counter."""
    return f"rate({counter}{where}[{window}])"


def seconds(histogram: str, where: str, window: str) -> str:
    """Return the summed durations of each series, in seconds per second."""
    return f"(histogram_sum(rate({histogram}{where}[{window}])) or rate({histogram}_sum{where}[{window}]))"


def observed(histogram: str, where: str, window: str) -> str:
    """Return the observations per second of each series."""
    return f"(histogram_count(rate({histogram}{where}[{window}])) or rate({histogram}_count{where}[{window}]))"


def total(expr: str, *by: str) -> str:
    """Return the sum of each group, or the sum of all series without `by`."""
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def average(histogram: str, where: str, window: str, *by: str) -> str:
    """Return the mean duration of each group that has an observation."""
    spent, number = total(seconds(histogram, where, window), *by), total(observed(histogram, where, window), *by)
    return f"{spent} / ({number} > 0)"


def quantile(phi: float, histogram: str, where: str, window: str, *by: str) -> str:
    """Return a quantile of each group. Leave out groups without an observation (NaN)."""
    native = total(rate(histogram, where, window), *by)
    classic = total(rate(f"{histogram}_bucket", where, window), *by, "le")
    return f"(histogram_quantile({phi}, {native}) or histogram_quantile({phi}, {classic})) >= 0"


def heatmap(histogram: str, where: str, window: str) -> str:
    """Return one native histogram, or classic buckets by `le`.

    Never return both, because Grafana would draw both as one.
    """
    native = total(rate(histogram, where, window))
    classic = total(rate(f"{histogram}_bucket", where, window), "le")
    return f"{native} or on () {classic}"


def or_zero(expr: str) -> str:
    """Return `expr` with 0 in place of an empty result. Use this only for a single number."""
    return f"{expr} or vector(0)"


def top(expr: str, by: str, *, of: str) -> str:
    """Return those series of `expr` that belong to the largest `$top` series of `of`."""
    expr = f"({expr})" if " or " in expr else expr  # `and` binds tighter than `or`
    return f"{expr} and on ({by}) topk($top, {of})"


def at_end(expr: str) -> str:
    """Evaluate a vector over the whole range at the range's end, so that a graph has the same few series at every step.

    topk() alone selects other series at each step: a graph of the ten largest series would then have dozens of lines.
    """
    return expr.replace(f"[{WHOLE}]", f"[{WHOLE}] @ end()")
