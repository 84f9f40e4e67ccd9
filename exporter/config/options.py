"""The configuration: what can be set, what it is by default, what else is allowed. configfile.py reads it.

A dataclass field holds each default, a line of OPTIONS says what else is allowed: a new key is one of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from exporter.config import values


@dataclass(frozen=True)
class Web:
    """Where the metrics are served."""

    listen_address: tuple[str, ...] = (":9939",)
    telemetry_path: str = "/metrics"
    gzip: bool = True
    config_file: str = ""
    max_requests: int = 40
    enable_lifecycle: bool = False


@dataclass(frozen=True)
class Limits:
    """Sizes of the BPF maps, in entries."""

    vcpus: int = 4096
    cells: int = 16384


@dataclass(frozen=True)
class Level:
    """Per vCPU, summed per VM, or not at all: vcpu, vm, off."""

    counters: str = "vcpu"
    histograms: str = "vcpu"


@dataclass(frozen=True)
class Reasons:
    """Exit reasons served under their own name; the others are summed as "other". No name in allow: all."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True)
class Classic:
    """Buckets with bounds: how far apart, and from where to where (seconds)."""

    factor: int = 4
    min: float = 1e-6
    max: float = 16.0
    in_protobuf: bool = False


@dataclass(frozen=True)
class Histogram:
    """The forms in which histograms are served."""

    native: bool = True
    classic: Classic = field(default_factory=Classic)


@dataclass(frozen=True)
class Log:
    """How much is logged, and in which form."""

    level: str = "info"
    format: str = "logfmt"


@dataclass(frozen=True)
class Config:
    """Everything that can be set. Times are in seconds, to the microsecond; "" is none where allowed."""

    web: Web = field(default_factory=Web)
    collect_interval: float = 15.0
    linger: float = 300.0
    level: Level = field(default_factory=Level)
    reasons: Reasons = field(default_factory=Reasons)
    histogram: Histogram = field(default_factory=Histogram)
    limits: Limits = field(default_factory=Limits)
    bpf_stats: bool = False
    kernel_headers: str = "builtin"
    lock_file: str = "/run/kvm-exit-exporter/lock"
    run_as: str = "kvm-exit-exporter"
    log: Log = field(default_factory=Log)


class ConfigError(Exception):
    """All that is wrong with a configuration; `problems` has one printable line each."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*("".join(map(_printable, problem)) for problem in problems))
        self.problems: tuple[str, ...] = self.args

    def __str__(self) -> str:
        return "\n".join(self.problems)


class UnreadableError(ConfigError):
    """The file cannot be read at all: no fault of what is in it."""


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


_REASON = "a reason as it stands on /metrics, such as EC_WFx or HLT"
_ADDRESS = "host:port, :port, [ipv6]:port or unix:/path, with port 1 to 65535 (0: any free one)"
_PATH = "a path such as /metrics, without query or white space"

OPTIONS = {
    "web.listen_address": values.Option(("str",), _ADDRESS, values.listen_address, least=1),
    "web.telemetry_path": values.Option(("str",), _PATH, values.telemetry_path),
    "web.gzip": values.BOOLEAN,
    "web.config_file": values.Option(("str",), '"" (none) or the path of a file', values.file),
    "web.max_requests": values.whole(1, 1000),
    "web.enable_lifecycle": values.BOOLEAN,
    "collect_interval": values.duration_between("1s", "1h"),
    "linger": values.duration_between("0s", "24h"),
    "level.counters": values.one_of("vcpu", "vm", "off"),
    "level.histograms": values.one_of("vcpu", "vm", "off"),
    "reasons.allow": values.Option(("str",), _REASON, values.reason, least=0),
    "reasons.deny": values.Option(("str",), _REASON, values.reason, least=0),
    "histogram.native": values.BOOLEAN,
    "histogram.classic.factor": values.factor(2, 4, 16),
    "histogram.classic.min": values.duration_between("1us", "1h"),
    "histogram.classic.max": values.duration_between("1us", "1h"),
    "histogram.classic.in_protobuf": values.BOOLEAN,
    "limits.vcpus": values.whole(1, 65536),
    "limits.cells": values.whole(1, 1048576),
    "bpf_stats": values.BOOLEAN,
    "kernel_headers": values.path("builtin", "system", directory=True),
    "lock_file": values.path(""),
    "run_as": values.Option(("str",), '"" (nobody else) or the name of a user', values.user),
    "log.level": values.one_of("debug", "info", "warn", "error"),
    "log.format": values.one_of("logfmt", "json"),
}


LIVE = frozenset(
    (
        *("web.telemetry_path", "web.gzip", "web.enable_lifecycle", "collect_interval", "linger"),
        *("level.counters", "level.histograms", "reasons.allow", "reasons.deny", "histogram.native"),
        *("histogram.classic.factor", "histogram.classic.min", "histogram.classic.max"),
        *("histogram.classic.in_protobuf", "log.level", "log.format"),
    )
)
"""Options that a reload changes; every other one waits for a restart."""


def contradictions(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong between keys, each of them right by itself."""
    vcpus, cells = config.limits.vcpus, config.limits.cells
    if cells < vcpus:
        # A cell counts one exit reason of one vCPU: a vCPU that finds none has every exit dropped.
        what = f"fewer cells ({cells}) than vCPUs ({vcpus}); allowed is at least one cell for each vCPU"
        yield ("limits.cells", "limits.vcpus"), what
    classic = config.histogram.classic
    if classic.min >= classic.max:
        low, high = values.duration_text(classic.min), values.duration_text(classic.max)
        what = f"the range from {low} to {high} is empty; allowed is a min below the max"
        yield ("histogram.classic.min", "histogram.classic.max"), what
    if config.level.counters == config.level.histograms == "off":
        yield ("level.counters", "level.histograms"), "counters and histograms are both off; allowed is one of them"
