"""The options of the configuration: the default of each, and which values are allowed. load.py reads them from a file.

The default of a key is in a field of a dataclass. The allowed values are in a line of OPTIONS. A new key needs both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from exporter.common.text import printable
from exporter.config import values


@dataclass(frozen=True)
class Web:
    """Where and how the metrics are served."""

    listen_address: tuple[str, ...] = (":9939",)
    telemetry_path: str = "/metrics"
    gzip: bool = True
    config_file: str = ""
    max_requests: int = 40
    host_names: tuple[str, ...] = ()
    enable_lifecycle: bool = False


@dataclass(frozen=True)
class Limits:
    """Sizes of the BPF maps, in entries."""

    vcpus: int = 4096
    cells: int = 16384


@dataclass(frozen=True)
class Level:
    """Which series are served: one for each vCPU (vcpu), one sum for each VM (vm), or none (off)."""

    counters: str = "vcpu"
    histograms: str = "vcpu"
    time: str = "vm"
    """Of the series that split the exits' time."""


@dataclass(frozen=True)
class Reasons:
    """Exit reasons that are served under their own name. The others are summed as "other".

    An empty `allow` allows all reasons.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True)
class Classic:
    """Classic histogram buckets: the factor between two bounds, the lowest and the highest bound in seconds."""

    factor: int = 4
    min: float = 1e-6
    max: float = 16.0
    in_protobuf: bool = True


@dataclass(frozen=True)
class Histogram:
    """How histograms are served: native where the client accepts that, and with classic buckets."""

    native: bool = True
    classic: Classic = field(default_factory=Classic)


@dataclass(frozen=True)
class Log:
    """The lowest level that is logged, and the format of the log."""

    level: str = "info"
    format: str = "logfmt"


@dataclass(frozen=True)
class Config:
    """All options. Times are in seconds, with a resolution of a microsecond. An option whose value is "" is not set."""

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
    """A configuration is wrong. `problems` has one printable line for each error."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*map(printable, problems))
        self.problems: tuple[str, ...] = self.args

    def __str__(self) -> str:
        return "\n".join(self.problems)


class UnreadableError(ConfigError):
    """The configuration file cannot be read, whatever it contains."""


_REASON = "a reason as it stands on /metrics, such as EC_WFx or HLT"
_ADDRESS = "host:port, :port, [ipv6]:port or unix:/path, with port 1 to 65535 (0: any free one)"
_NAME = "a host name without port, such as hypervisor-1.example.org"
_PATH = "a path such as /metrics, without query or white space"

OPTIONS = {
    "web.listen_address": values.Option(("str",), _ADDRESS, values.listen_address, min_items=1),
    "web.telemetry_path": values.Option(("str",), _PATH, values.telemetry_path),
    "web.gzip": values.BOOLEAN,
    "web.config_file": values.Option(("str",), '"" (none) or the path of a file', values.file_path),
    "web.max_requests": values.whole(1, 1000),
    "web.host_names": values.Option(("str",), _NAME, values.host_name, min_items=0),
    "web.enable_lifecycle": values.BOOLEAN,
    "collect_interval": values.duration_between("1s", "1h"),
    "linger": values.duration_between("0s", "24h"),
    "level.counters": values.one_of("vcpu", "vm", "off"),
    "level.histograms": values.one_of("vcpu", "vm", "off"),
    "level.time": values.one_of("vcpu", "vm", "off"),
    "reasons.allow": values.Option(("str",), _REASON, values.reason_name, min_items=0),
    "reasons.deny": values.Option(("str",), _REASON, values.reason_name, min_items=0),
    "histogram.native": values.BOOLEAN,
    "histogram.classic.factor": values.one_of_numbers(2, 4, 16),
    "histogram.classic.min": values.duration_between("1us", "1h"),
    "histogram.classic.max": values.duration_between("1us", "1h"),
    "histogram.classic.in_protobuf": values.BOOLEAN,
    "limits.vcpus": values.whole(1, 65536),
    "limits.cells": values.whole(1, 1048576),
    "bpf_stats": values.BOOLEAN,
    "kernel_headers": values.path("builtin", "system", directory=True),
    "lock_file": values.path(""),
    "run_as": values.Option(("str",), '"" (the user is not changed) or the name of a user', values.user_name),
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
"""Options that a reload changes. A change of any other option takes a restart."""


def contradictions(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the keys and the error message of each contradiction between values that are allowed by themselves."""
    vcpus, cells = config.limits.vcpus, config.limits.cells
    if cells < vcpus:
        # A cell counts one exit reason of one vCPU. All exits of a vCPU without a cell are dropped.
        problem = f"fewer cells ({cells}) than vCPUs ({vcpus}); allowed is at least one cell for each vCPU"
        yield ("limits.cells", "limits.vcpus"), problem
    classic = config.histogram.classic
    if classic.min >= classic.max:
        low, high = values.duration_text(classic.min), values.duration_text(classic.max)
        problem = f"the range from {low} to {high} is empty; allowed is a min below the max"
        yield ("histogram.classic.min", "histogram.classic.max"), problem
    if config.level.counters == config.level.histograms == "off":
        yield ("level.counters", "level.histograms"), "counters and histograms are both off; allowed is one of them"
