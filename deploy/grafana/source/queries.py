"""The PromQL of both dashboards. It reads only the raw metrics of docs/metrics.md, with either kind of histogram.

A server stores durations as native histograms (one series) or as classic ones (`_bucket`, `_sum`, `_count`), and a
fleet may have both. Sums and counts therefore use each native series, and a classic series where there is no native
one. A quantile needs one kind of histogram: each group uses its native series if it has any, and otherwise its classic
series.
"""

from __future__ import annotations

EXITS = "kvm_exit_duration_seconds"
USERSPACE = "kvm_userspace_exit_duration_seconds"
EXIT_WAIT = "kvm_exit_wait_seconds_total"
EXIT_SLEEP = "kvm_exit_sleep_seconds_total"
VCPU_WAIT = "kvm_vcpu_wait_seconds_total"

OVER_TIME = "$__rate_interval"
"""The window of a graph. It covers at least four scrapes."""

WHOLE = "$__range"
"""The window of a table or a single number: the whole time range."""

TARGETS = ('job=~"$job"', 'instance=~"$instance"')
"""Selects the chosen exporters. Their metrics about themselves have no other labels."""

CLASSES = 'class=~"$class"'
"""Selects the chosen classes. Idle is never one of them."""

OF_THE_VMM = 'reason!~"restart|error_.*"'
"""Leaves out returns that are no work of the VMM: the interval of an interrupted sleep holds the whole sleep."""


NOT_IDLE = 'class!="idle"'
NO_IDLE_RETURN = 'reason!~"KVM_EXIT_HLT|KVM_EXIT_AP_RESET_HOLD"'
"""Leaves out returns to a VMM that only waits there for its idle guest."""


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


def _on_cpu(here: tuple[str, ...], window: str, *matchers: str) -> str:
    """Return the time that threads were on a CPU in exits. Only hosts that tell it are included."""
    where = selector(*here, *matchers)
    splits = f"kvm_exit_exporter_time_split{selector(*TARGETS)} == 1"
    spent = f"{seconds(EXITS, where, window)} and on (job, instance) {splits}"
    away = [or_zero(total(rate(name, where, window))) for name in (EXIT_WAIT, EXIT_SLEEP)]
    return " - ".join((total(spent), *(f"({part})" for part in away)))


def lost_split(here: tuple[str, ...], window: str) -> list[tuple[str, str]]:
    """Return the parts of the lost time with their names: waiting, asleep, in the VMM, in the kernel."""
    lost, work = selector(*here, NOT_IDLE), selector(*here, OF_THE_VMM, NO_IDLE_RETURN)
    whole, wait, sleep = (
        total(rate(f"kvm_userspace_exit_{name}_seconds_total", work, window))
        for name in ("vmm", "vmm_wait", "vmm_sleep")
    )
    vmm = f"{whole} - ({or_zero(wait)}) - ({or_zero(sleep)})"
    return [
        (total(rate(EXIT_WAIT, lost, window)), "waiting for a CPU"),
        (total(rate(EXIT_SLEEP, lost, window)), "asleep"),
        (f"clamp_min({_on_cpu(here, window, NOT_IDLE)} - ({or_zero(vmm)}), 0)", "kernel"),
        (vmm, "VMM"),
    ]


def idle_split(here: tuple[str, ...], window: str) -> list[tuple[str, str]]:
    """Return the parts of the idle time with their names: asleep, polling in the kernel, waiting."""
    idle = 'class="idle"'
    where = selector(*here, idle)
    return [
        (total(rate(EXIT_SLEEP, where, window)), "asleep"),
        (f"clamp_min({_on_cpu(here, window, idle)}, 0)", "polling"),
        (total(rate(EXIT_WAIT, where, window)), "waiting for a CPU"),
    ]


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
