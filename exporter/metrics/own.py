"""The exporter's metrics about itself: the kvm_exit_exporter_* part of the contract."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from exporter import __version__
from exporter.model.records import Snapshot

PREFIX = "kvm_exit_exporter_"

# Counters of the BPF program, by the label values they are served under.
_DROPPED = {
    "no_slot": "dropped_no_slot",
    "no_cell": "dropped_no_cell",
    "chain_full": "dropped_chain_full",
}
_DROPPED_USERSPACE = {cause: name.replace("dropped_", "dropped_userspace_") for cause, name in _DROPPED.items()}
_UNMATCHED = {
    "exit": "unmatched_exit",
    "entry": "unmatched_entry",
    "userspace_exit": "unmatched_userspace_exit",
}


@dataclass
class State:
    """What the daemon knows of itself; it alone writes here."""

    replay: bool = False
    snapshot: Snapshot | None = None
    """The latest collection; None before the first, and after one that failed."""
    collect_seconds: float = 0.0
    collections: int = 0
    collect_errors: int = 0
    lookups_pending: int = 0
    unserved_exits: int = 0
    """Of ended vCPUs that have gone from the pages, and were on none with these."""
    unserved_userspace_exits: int = 0
    config_loaded: float = 0.0
    """Unix time of the last successful (re)load of the configuration."""
    config_good: bool = True
    """The configuration was good when it was last read."""
    counting_since: float = 0.0
    """Unix time when the program was attached, maybe by an earlier process; 0 before."""
    counting_since_ns: int = 0
    """The same by the clock that the program stamps with."""


def registry(state: State, proc: str = "/proc") -> CollectorRegistry:
    """Return a registry with the process, platform and exporter metrics; nothing of it is global."""
    result = CollectorRegistry()
    ProcessCollector(proc=proc, registry=result)
    PlatformCollector(registry=result)
    result.register(_OwnCollector(state))  # type: ignore[arg-type]  # a collector is whatever has collect()
    return result


def _labelled(kind: type[Metric], name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    metric = kind(PREFIX + name, text, labels=[label])  # type: ignore[call-arg]
    for value, number in values:
        metric.add_metric([value], number)  # type: ignore[attr-defined]
    return metric


class _OwnCollector:
    def __init__(self, state: State) -> None:
        self._state = state

    def describe(self) -> list[Metric]:
        """Return nothing: the registry then does not collect once just to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        state = self._state
        snapshot = state.snapshot  # once: a collection may replace it meanwhile
        build = GaugeMetricFamily(
            PREFIX + "build_info",
            "Version of the exporter and of what it runs on, always 1.",
            labels=["version", "python", "kernel", "machine"],
        )
        build.add_metric([__version__, platform.python_version(), platform.release(), platform.machine()], 1)
        yield build
        yield from _gauges(
            up=(
                snapshot is not None,
                "1 while the program is attached and the last collection succeeded.",
            ),
            replay=(state.replay, "1 if the events are a replayed recording and not this host's."),
            collect_duration_seconds=(state.collect_seconds, "Time the last collection took."),
            lookups_pending=(
                state.lookups_pending,
                "vCPU threads whose VM is being looked up; not served yet.",
            ),
            config_last_reload_successful=(
                state.config_good,
                "1 if the configuration file was good when it was last read.",
            ),
            config_last_reload_success_timestamp_seconds=(
                state.config_loaded,
                "Unix time when the configuration in force was read.",
            ),
        )
        if state.counting_since:
            yield from _gauges(
                counting_since_timestamp_seconds=(
                    state.counting_since,
                    "Unix time since which exits are counted; a restart under systemd need not change it.",
                )
            )
        yield from _counters(
            collections_total=(state.collections, "Collections, by scrapes, looks at the page and the timer."),
            collect_errors_total=(state.collect_errors, "Collections that failed; the log says why."),
            unserved_exits_total=(
                state.unserved_exits,
                "Exits of ended vCPUs that went before any page had them: scraped too seldom for linger.",
            ),
            unserved_userspace_exits_total=(
                state.unserved_userspace_exits,
                "The same for returns to the VMM.",
            ),
        )
        if snapshot:
            yield from _of_snapshot(snapshot)


def _gauges(**metrics: tuple[float, str]) -> Iterator[Metric]:
    for name, (value, text) in metrics.items():
        yield GaugeMetricFamily(PREFIX + name, text, value=float(value))


def _counters(**metrics: tuple[float, str]) -> Iterator[Metric]:
    for name, (value, text) in metrics.items():
        yield CounterMetricFamily(PREFIX + name, text, value=float(value))


def _of_snapshot(snapshot: Snapshot) -> Iterator[Metric]:
    counters, runs = snapshot.counters, snapshot.runs
    yield from _gauges(
        tracked_vcpus=(snapshot.slots_in_use, "Live vCPU threads seen so far."),
        vcpu_slots=(snapshot.slots, "vCPU threads there is room for (limits.vcpus)."),
        cells_in_use=(snapshot.cells_in_use, "Pairs of live vCPU and reason seen so far."),
        cells=(snapshot.cells, "Pairs of vCPU and reason there is room for (limits.cells)."),
    )
    yield from _gauges(
        recycling_pending=(
            snapshot.recycling_pending,
            "Slots and cells of ended vCPUs that the kernel did not take back yet; 0 on a healthy host.",
        ),
    )
    yield from _counters(
        expired_early_total=(
            snapshot.expired_early,
            "Ended vCPUs whose last values went before linger was over, since too many had ended.",
        ),
    )
    dropped = [(cause, counters[name]) for cause, name in _DROPPED.items()]
    dropped.append(("recursion", runs["kvm_exit"].misses))
    yield _labelled(CounterMetricFamily, "dropped_exits_total", "Exits in no other metric, by cause.", "cause", dropped)
    dropped = [(cause, counters[name]) for cause, name in _DROPPED_USERSPACE.items()]
    dropped.append(("recursion", runs["kvm_userspace_exit"].misses))
    yield _labelled(
        CounterMetricFamily,
        "dropped_userspace_exits_total",
        "Returns to the VMM in no other metric, by cause.",
        "cause",
        dropped,
    )
    yield _labelled(
        CounterMetricFamily,
        "unmatched_events_total",
        "Events that contradict the vCPU's state: their exit is counted, their interval is in no histogram.",
        "kind",
        [(kind, counters[name]) for kind, name in _UNMATCHED.items()],
    )
    yield _labelled(
        CounterMetricFamily,
        "bpf_run_seconds_total",
        "CPU time of the BPF programs; counted while bpf_stats or kernel.bpf_stats_enabled is on.",
        "program",
        [(name, stats.seconds) for name, stats in runs.items()],
    )
    yield _labelled(
        CounterMetricFamily,
        "bpf_runs_total",
        "Runs of the BPF programs; counted while bpf_stats or kernel.bpf_stats_enabled is on.",
        "program",
        [(name, stats.runs) for name, stats in runs.items()],
    )
    yield _labelled(
        CounterMetricFamily,
        "bpf_missed_runs_total",
        "Events the kernel skipped, since the CPU was in a BPF program already (raw tracepoints: Linux 5.12+).",
        "program",
        [(name, stats.misses) for name, stats in runs.items()],
    )
