"""The configuration: what can be set, what it is by default, what else is allowed. configfile.py reads it.

A dataclass field holds each default, a line of OPTIONS says what else is allowed: a new key is one of each.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, NamedTuple


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


# --- values: each takes the text of a scalar and raises ValueError with what is wrong with it ---

_UNITS = {"w": 604_800_000_000, "d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000,
          "ms": 1_000, "us": 1}  # in microseconds  # fmt: skip
_DURATION = re.compile("".join(f"(?:([0-9]{{1,12}}){unit})?" for unit in _UNITS))
UNIX = "unix:"  # before the path of a socket, in a listen address
_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")


def duration(text: str) -> float:
    """Seconds of a Prometheus duration ("1h30m", "500ms"; also us). Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match and text:
        return sum(int(n) * unit for n, unit in zip(match.groups("0"), _UNITS.values())) / 1_000_000
    if re.fullmatch(r"[0-9][0-9_.]*", text):
        raise ValueError("has no unit (fifteen seconds are 15s)")
    raise ValueError("is not a duration")


def duration_text(seconds: float) -> str:
    """The shortest text that duration() reads as so many seconds, rounded to microseconds."""
    text, rest = "", round(seconds * 1_000_000)
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def host_port(text: str) -> tuple[str, int]:
    """Split a listen address; the host is "" for all addresses, IPv6 without brackets. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]+", port):
        raise ValueError("has no port")
    if len(port) > 5 or int(port) > 65535:
        raise ValueError("has a port above 65535")
    try:
        if host.startswith("[") and re.fullmatch(r"\[[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?\]", host):
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        if re.fullmatch(r"[0-9.]+", host):
            return str(ipaddress.IPv4Address(host)), int(port)
    except ValueError:
        raise ValueError("has no valid IP address") from None
    if ":" in host and "[" not in host:
        raise ValueError("has an IPv6 address without brackets")
    if host and not _HOST.fullmatch(host):
        raise ValueError("has no valid host")
    return host.lower(), int(port)


def _listen_address(text: str) -> str:
    if text.startswith(UNIX):
        path = text[len(UNIX) :]
        if not path.startswith("/") or not path.isprintable():
            raise ValueError("has no absolute path")
        if len(path.encode()) > 107:  # include/uapi/linux/un.h: UNIX_PATH_MAX, with its NUL
            raise ValueError("has a path of more than 107 bytes")
        return text
    host, port = host_port(text)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _telemetry_path(text: str) -> str:
    # What a client or the server would rewrite (//, /../, %41) could never be asked for under its own name.
    segments = re.fullmatch(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?", text)
    if not segments or {".", ".."} & set(text.split("/")):
        raise ValueError("is not such a path")
    if text.startswith("/-/"):
        raise ValueError("is under /-/, which is kept for the exporter's own pages")
    return text


class Option(NamedTuple):
    """What a key may hold: the YAML types, the words for it, and the function that reads one value."""

    kinds: tuple[str, ...]
    allowed: str
    parse: Callable[[str], object]
    least: int | None = None  # a list of at least so many different values; None: a single one
    show: Callable[[Any], str] = partial(json.dumps, ensure_ascii=False)  # a JSON scalar is a YAML scalar
    named: bool = False  # a mapping of any names to such values
    secret: bool = False  # its value never stands in an error


def _whole(low: int, high: int) -> Option:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?(?:0|[1-9][0-9]*)", text):
            raise ValueError("is not in plain decimal")
        if len(text) > 18 or not low <= int(text) <= high:
            raise ValueError("is out of range")
        return int(text)

    return Option(("int",), f"a whole number from {low} to {high}", parse)


def _duration(low: str, high: str) -> Option:
    def parse(text: str) -> float:
        seconds = duration(text)
        if not duration(low) <= seconds <= duration(high):
            raise ValueError("is out of range")
        return seconds

    # Numbers come as far as parse, which says that they have no unit.
    return Option(("str", "int", "float"), f"a duration from {low} to {high}", parse, show=duration_text)


def one_of(*words: str) -> Option:
    """A value that is one of these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError("is none of these")
        return text

    # YAML 1.1 reads a bare off as a boolean; its text is still what was written.
    kinds = ("str", "bool") if "off" in words else ("str",)
    return Option(kinds, f"one of {', '.join(words)}", parse)


def _path(*words: str, directory: bool = False) -> Option:
    def parse(text: str) -> str:
        if text in words:
            return text
        if not text.startswith("/") or not text.isprintable():
            raise ValueError("is not an absolute path")
        if text.endswith("/") and not directory:
            raise ValueError("is a directory")
        return text

    named = ", ".join(word or '"" (none)' for word in words)
    return Option(("str",), f"{named} or an absolute path", parse)


def boolean(text: str) -> bool:
    """What YAML 1.1 reads as a boolean. Raises ValueError."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("is neither")
    return words[text.lower()]


def _factor(*factors: int) -> Option:
    def parse(text: str) -> int:
        if text not in map(str, factors):
            raise ValueError("is none of these")
        return int(text)

    return Option(("int",), f"one of {', '.join(map(str, factors))}", parse)


def _file(text: str) -> str:
    if not text.isprintable() or text.endswith("/"):
        raise ValueError("is no path of a file")
    return text


def _reason(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("is no name")
    return text


def _user(text: str) -> str:
    if not re.fullmatch(r"(?:[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}\$?)?", text) or text.isdecimal():
        raise ValueError("is no user name")
    return text


_REASON = "a reason as it stands on /metrics, such as EC_WFx or HLT"
_ADDRESS = "host:port, :port, [ipv6]:port or unix:/path, with port 1 to 65535 (0: any free one)"
_PATH = "a path such as /metrics, without query or white space"

OPTIONS = {
    "web.listen_address": Option(("str",), _ADDRESS, _listen_address, least=1),
    "web.telemetry_path": Option(("str",), _PATH, _telemetry_path),
    "web.gzip": Option(("bool",), "true or false", boolean),
    "web.config_file": Option(("str",), '"" (none) or the path of a file', _file),
    "web.max_requests": _whole(1, 1000),
    "web.enable_lifecycle": Option(("bool",), "true or false", boolean),
    "collect_interval": _duration("1s", "1h"),
    "linger": _duration("0s", "24h"),
    "level.counters": one_of("vcpu", "vm", "off"),
    "level.histograms": one_of("vcpu", "vm", "off"),
    "reasons.allow": Option(("str",), _REASON, _reason, least=0),
    "reasons.deny": Option(("str",), _REASON, _reason, least=0),
    "histogram.native": Option(("bool",), "true or false", boolean),
    "histogram.classic.factor": _factor(2, 4, 16),
    "histogram.classic.min": _duration("1us", "1h"),
    "histogram.classic.max": _duration("1us", "1h"),
    "histogram.classic.in_protobuf": Option(("bool",), "true or false", boolean),
    "limits.vcpus": _whole(1, 65536),
    "limits.cells": _whole(1, 1048576),
    "bpf_stats": Option(("bool",), "true or false", boolean),
    "kernel_headers": _path("builtin", "system", directory=True),
    "lock_file": _path(""),
    "run_as": Option(("str",), '"" (nobody else) or the name of a user', _user),
    "log.level": one_of("debug", "info", "warn", "error"),
    "log.format": one_of("logfmt", "json"),
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
        low, high = duration_text(classic.min), duration_text(classic.max)
        what = f"the range from {low} to {high} is empty; allowed is a min below the max"
        yield ("histogram.classic.min", "histogram.classic.max"), what
    if config.level.counters == config.level.histograms == "off":
        yield ("level.counters", "level.histograms"), "counters and histograms are both off; allowed is one of them"
