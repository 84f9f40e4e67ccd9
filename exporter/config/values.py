"""The values that a key of a configuration file can hold: each is read from the text of a YAML scalar.

What reads one raises ValueError with what is wrong with it.
"""

from __future__ import annotations

import ipaddress
import json
import re
from functools import partial
from typing import Any, Callable, NamedTuple


class Option(NamedTuple):
    """What a key may hold: the YAML types, the words for it, and the function that reads one value."""

    kinds: tuple[str, ...]
    allowed: str
    parse: Callable[[str], object]
    least: int | None = None  # a list of at least so many different values; None: a single one
    show: Callable[[Any], str] = partial(json.dumps, ensure_ascii=False)  # a JSON scalar is a YAML scalar
    named: bool = False  # a mapping of any names to such values
    secret: bool = False  # its value never stands in an error


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


def listen_address(text: str) -> str:
    """host:port or unix:/path, as it is shown afterwards. Raises ValueError."""
    if text.startswith(UNIX):
        path = text[len(UNIX) :]
        if not path.startswith("/") or not path.isprintable():
            raise ValueError("has no absolute path")
        if len(path.encode()) > 107:  # include/uapi/linux/un.h: UNIX_PATH_MAX, with its NUL
            raise ValueError("has a path of more than 107 bytes")
        return text
    host, port = host_port(text)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def telemetry_path(text: str) -> str:
    """A path that every client and server leaves as it is. Raises ValueError."""
    # What a client or the server would rewrite (//, /../, %41) could never be asked for under its own name.
    segments = re.fullmatch(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?", text)
    if not segments or {".", ".."} & set(text.split("/")):
        raise ValueError("is not such a path")
    if text.startswith("/-/"):
        raise ValueError("is under /-/, which is kept for the exporter's own pages")
    return text


def whole(low: int, high: int) -> Option:
    """A whole number from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?(?:0|[1-9][0-9]*)", text):
            raise ValueError("is not in plain decimal")
        if len(text) > 18 or not low <= int(text) <= high:
            raise ValueError("is out of range")
        return int(text)

    return Option(("int",), f"a whole number from {low} to {high}", parse)


def duration_between(low: str, high: str) -> Option:
    """A duration, in seconds, from `low` to `high`."""

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


def path(*words: str, directory: bool = False) -> Option:
    """One of these words, or the absolute path of a file, or else of a directory too."""

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


def _boolean(text: str) -> bool:
    """What YAML 1.1 reads as a boolean. Raises ValueError."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("is neither")
    return words[text.lower()]


BOOLEAN = Option(("bool",), "true or false", _boolean)


def factor(*factors: int) -> Option:
    """One of these whole numbers."""

    def parse(text: str) -> int:
        if text not in map(str, factors):
            raise ValueError("is none of these")
        return int(text)

    return Option(("int",), f"one of {', '.join(map(str, factors))}", parse)


def file(text: str) -> str:
    """The path of a file, relative to the current directory or absolute, or none. Raises ValueError."""
    if not text.isprintable() or text.endswith("/"):
        raise ValueError("is no path of a file")
    return text


def reason(text: str) -> str:
    """The name of a reason. Raises ValueError."""
    if not text.strip() or not text.isprintable():
        raise ValueError("is no name")
    return text


def user(text: str) -> str:
    """The name of a user, or none. Raises ValueError."""
    if not re.fullmatch(r"(?:[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}\$?)?", text) or text.isdecimal():
        raise ValueError("is no user name")
    return text
