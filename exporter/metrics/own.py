"""The exporter's metrics about itself: the kvm_exit_exporter_* part of the contract."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from exporter import __version__
from exporter.metrics import web
from exporter.metrics.labelled import PREFIX, labelled
from exporter.metrics.web import WebStatus
from exporter.model.drops import DROPS, RECURSION, UNMATCHED
from exporter.model.records import NOT_COUNTING, CountingSince, ProcessDrops, Snapshot
from exporter.model.vm import Vm


class VmDrops(NamedTuple):
    """The dropped exits of one VM."""

    vm: Vm
    drops: ProcessDrops


@dataclass(frozen=True)
class CollectionStatus:
    """The status that the collection publishes."""

    snapshot: Snapshot | None = None
    """The latest collection; None before the first collection, and after a failed one."""
    seconds: float = 0.0
    """Duration of the last successful collection."""
    collections: int = 0
    errors: int = 0
    dropped: Sequence[VmDrops] = ()
    """The VMs whose exits were dropped, as far as their names are known."""


@dataclass(frozen=True)
class ScrapeStatus:
    """The status that the scraper publishes."""

    lookups_pending: int = 0
    unserved_exits: int = 0
    """Exits of ended vCPUs that were on no page before their series ended."""
    unserved_userspace_exits: int = 0
    served_histograms: int = 0
    """Histograms on the latest page."""


@dataclass(frozen=True)
class ConfigStatus:
    """The configuration in force."""

    loaded: float = 0.0
    """Unix time of the last successful load or reload."""
    good: bool = True
    """False if the configuration was refused when it was last read."""


@dataclass(frozen=True)
class OwnStatus:
    """The status of all parts. Each part publishes its own."""

    collection: CollectionStatus = CollectionStatus()
    scrape: ScrapeStatus = ScrapeStatus()
    config: ConfigStatus = ConfigStatus()
    since: CountingSince = NOT_COUNTING
    replay: bool = False
    foreign_pids: bool = False
    """This PID namespace is not the host's, so no VM has a name."""
    time_split: bool = False
    """The program splits the time of exits."""
    web: WebStatus = field(default_factory=WebStatus)


def registry(read: Callable[[], OwnStatus], proc: str = "/proc") -> CollectorRegistry:
    """Return a registry with the metrics of the process, the platform and the exporter.

    No metric is in the global registry.

    `read` returns the present status each time the registry is collected.
    """
    result = CollectorRegistry()
    ProcessCollector(proc=proc, registry=result)
    PlatformCollector(registry=result)
    result.register(_OwnCollector(read))  # type: ignore[arg-type]  # a collector is any object with collect()
    return result


class _OwnCollector:
    def __init__(self, read: Callable[[], OwnStatus]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        """Return no metric. Otherwise the registry would collect once only to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        status = self._read()
        snapshot = status.collection.snapshot
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
            replay=(status.replay, "1 if the events are a replayed recording and not this host's."),
            foreign_pid_namespace=(
                status.foreign_pids,
                "1 if the exporter is not in the host's PID namespace: then VMs have pids and no names.",
            ),
            time_split=(
                status.time_split,
                "1 if the exits' time is split into waiting for a CPU, asleep and the rest; the log says why not.",
            ),
            collect_duration_seconds=(status.collection.seconds, "Time the last collection took."),
            lookups_pending=(
                status.scrape.lookups_pending,
                "vCPU threads whose VM is being looked up; not served yet.",
            ),
            served_histograms=(
                status.scrape.served_histograms,
                "Histograms of durations on this page; 0 at level.histograms off.",
            ),
            config_last_reload_successful=(
                status.config.good,
                "1 if the configuration file was good when it was last read.",
            ),
            config_last_reload_success_timestamp_seconds=(
                status.config.loaded,
                "Unix time when the configuration in force was read.",
            ),
        )
        if status.since.unix:  # a replay has no Unix time
            yield from _gauges(
                counting_since_timestamp_seconds=(
                    status.since.unix,
                    "Unix time since which exits are counted; a restart under systemd need not change it.",
                )
            )
        yield from _counters(
            collections_total=(
                status.collection.collections,
                "Collections, by scrapes, looks at the page and the timer.",
            ),
            collect_errors_total=(status.collection.errors, "Collections that failed; the log says why."),
            unserved_exits_total=(
                status.scrape.unserved_exits,
                "Exits of ended vCPUs that went before any page had them: scraped too seldom for linger.",
            ),
            unserved_userspace_exits_total=(
                status.scrape.unserved_userspace_exits,
                "The same for returns to the VMM.",
            ),
        )
        yield from web.families(status.web)
        if snapshot:
            yield from _of_snapshot(snapshot)
            yield from _of_vms(status.collection.dropped)


def _gauges(**metrics: tuple[float, str]) -> Iterator[Metric]:
    for name, (value, text) in metrics.items():
        yield GaugeMetricFamily(PREFIX + name, text, value=float(value))


def _counters(**metrics: tuple[float, str]) -> Iterator[Metric]:
    for name, (value, text) in metrics.items():
        yield CounterMetricFamily(PREFIX + name, text, value=float(value))


def _of_vms(dropped: Sequence[VmDrops]) -> Iterator[Metric]:
    for name, text, member in (
        ("vm_dropped_exits_total", "Dropped exits of a VM, for any cause but recursion; at most 64 VMs.", 0),
        ("vm_dropped_userspace_exits_total", "The same for returns to the VMM.", 1),
    ):
        metric = CounterMetricFamily(PREFIX + name, text, labels=["pid", "vm"])
        for vm, drops in dropped:
            metric.add_metric([str(vm.pid), vm.name], drops[member])
        yield metric


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
    dropped = [(drop.cause, counters[drop.counter]) for drop in DROPS]
    dropped.append((RECURSION, runs["kvm_exit"].misses))
    yield labelled(CounterMetricFamily, "dropped_exits_total", "Exits in no other metric, by cause.", "cause", dropped)
    dropped = [(drop.cause, counters[drop.userspace_counter]) for drop in DROPS]
    dropped.append((RECURSION, runs["kvm_userspace_exit"].misses))
    yield labelled(
        CounterMetricFamily,
        "dropped_userspace_exits_total",
        "Returns to the VMM in no other metric, by cause.",
        "cause",
        dropped,
    )
    yield labelled(
        CounterMetricFamily,
        "unmatched_events_total",
        "Events that contradict the vCPU's state: their exit is counted, their interval is in no histogram.",
        "kind",
        [(kind, counters[name]) for kind, name in UNMATCHED.items()],
    )
    yield labelled(
        CounterMetricFamily,
        "bpf_run_seconds_total",
        "CPU time of the BPF programs; counted while bpf_stats or kernel.bpf_stats_enabled is on.",
        "program",
        [(name, stats.seconds) for name, stats in runs.items()],
    )
    yield labelled(
        CounterMetricFamily,
        "bpf_runs_total",
        "Runs of the BPF programs; counted while bpf_stats or kernel.bpf_stats_enabled is on.",
        "program",
        [(name, stats.runs) for name, stats in runs.items()],
    )
    yield labelled(
        CounterMetricFamily,
        "bpf_missed_runs_total",
        "Events the kernel skipped, since the CPU was in a BPF program already (raw tracepoints: Linux 5.12+).",
        "program",
        [(name, stats.misses) for name, stats in runs.items()],
    )
