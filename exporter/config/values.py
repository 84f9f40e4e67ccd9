"""The values that a key of a configuration file can hold, and how each is read from the text of a YAML scalar.

A parser raises ValueError for a wrong value. In the message for the user, the text of that error follows the value, for
example `30h is out of range`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Collection
from functools import partial
from typing import Any, Callable, NamedTuple


class Option(NamedTuple):
    """What a key can hold: the YAML types, their description for error messages, and the parser of one value."""

    yaml_types: tuple[str, ...]
    allowed: str
    parse: Callable[[str], object]
    min_items: int | None = None  # the key holds a list of at least this many different values; None: one value
    to_text: Callable[[Any], str] = partial(json.dumps, ensure_ascii=False)  # a JSON scalar is a YAML scalar
    is_mapping: bool = False  # the key holds a mapping of any names to such values
    secret: bool = False  # no error message shows the value
    nullable: bool = False  # a null leaves the default in force, as if the file did not have the key
    repeats: bool = False  # a list can hold the same value twice


_UNITS = {"w": 604_800_000_000, "d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000,
          "ms": 1_000, "us": 1}  # in microseconds  # fmt: skip
_DURATION = re.compile("".join(f"(?:([0-9]{{1,12}}){unit})?" for unit in _UNITS))
UNIX_PREFIX = "unix:"
"""A listen address that starts with this names the path of a unix socket."""
LOCAL_SOCKET = "web.sock"
"""The name of the unix socket that the exporter makes in the folder that systemd made for it (RuntimeDirectory=)."""
_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")


def duration(text: str) -> float:
    """Return the seconds of a Prometheus duration ("1h30m", "500ms"). Microseconds ("us") are allowed, too.

    Raises ValueError.
    """
    match = _DURATION.fullmatch(text)
    if match and text:
        return sum(int(n) * unit for n, unit in zip(match.groups("0"), _UNITS.values())) / 1_000_000
    if re.fullmatch(r"[0-9][0-9_.]*", text):
        raise ValueError("has no unit (fifteen seconds are 15s)")
    raise ValueError("is not a duration")


def duration_text(seconds: float) -> str:
    """Return the shortest text that duration() reads as this number of seconds, rounded to microseconds."""
    text, rest = "", round(seconds * 1_000_000)
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def host_port(text: str) -> tuple[str, int]:
    """Split a listen address into host and port. Raises ValueError.

    The host is "" for all addresses of this machine. An IPv6 host is returned without brackets.
    """
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
    """Return host:port or unix:/path in its normal form. Raises ValueError."""
    if text.startswith(UNIX_PREFIX):
        path = text[len(UNIX_PREFIX) :]
        if not path.startswith("/") or not path.isprintable():
            raise ValueError("has no absolute path")
        if len(path.encode()) > 107:  # include/uapi/linux/un.h: UNIX_PATH_MAX is 108, with the final NUL
            raise ValueError("has a path of more than 107 bytes")
        return text
    if text.startswith("vsock:"):
        raise ValueError("is an address of vsock, which is not supported")
    host, port = host_port(text)
    if ":" not in host:
        return f"{host}:{port}"
    if ipaddress.IPv6Address(host).is_link_local and "%" not in host:
        raise ValueError("has a link-local address without its interface, as in fe80::1%eth0")
    return f"[{host}]:{port}"


def host_name(text: str) -> str:
    """Return a host name in lower case. Raises ValueError."""
    if not _HOST.fullmatch(text):
        raise ValueError("is not a host name")
    return text.lower()


def telemetry_path(text: str) -> str:
    """Return a path of the metrics page that every client and server leaves unchanged. Raises ValueError."""
    # Clients or the server rewrite //, /../ and %41: no request for such a path would arrive under its own name.
    segments = re.fullmatch(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?", text)
    if not segments or {".", ".."} & set(text.split("/")):
        raise ValueError("is not a valid path")
    if text.startswith("/-/"):
        raise ValueError("is under /-/, which is reserved for the exporter's own pages")
    return text


def whole(low: int, high: int) -> Option:
    """Return an option that holds a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?(?:0|[1-9][0-9]*)", text):
            raise ValueError("is not in plain decimal")
        if len(text) > 18 or not low <= int(text) <= high:
            raise ValueError("is out of range")
        return int(text)

    return Option(("int",), f"a whole number from {low} to {high}", parse)


def duration_between(low: str, high: str) -> Option:
    """Return an option that holds a duration, in seconds, from `low` to `high`."""

    def parse(text: str) -> float:
        seconds = duration(text)
        if not duration(low) <= seconds <= duration(high):
            raise ValueError("is out of range")
        return seconds

    # YAML numbers are accepted here so that duration() can report the missing unit.
    return Option(("str", "int", "float"), f"a duration from {low} to {high}", parse, to_text=duration_text)


def one_of(*words: str) -> Option:
    """Return an option that holds one of these words."""
    # YAML 1.1 reads off without quotes as a boolean. The text of that scalar is still "off".
    yaml_types = ("str", "bool") if "off" in words else ("str",)
    return _choice(yaml_types, words, str)


def one_of_numbers(*numbers: int) -> Option:
    """Return an option that holds one of these whole numbers."""
    return _choice(("int",), [str(number) for number in numbers], int)


def _choice(yaml_types: tuple[str, ...], texts: Collection[str], convert: Callable[[str], object]) -> Option:
    def parse(text: str) -> object:
        if text not in texts:
            raise ValueError("is not allowed")
        return convert(text)

    return Option(yaml_types, f"one of {', '.join(texts)}", parse)


def path(*words: str, directory: bool = False) -> Option:
    """Return an option that holds one of these words or an absolute path. `directory` allows a directory, too."""

    def parse(text: str) -> str:
        if text in words:
            return text
        if not text.startswith("/") or not text.isprintable():
            raise ValueError("is not an absolute path")
        if text.endswith("/") and not directory:
            raise ValueError("is a directory")
        return text

    choices = ", ".join(word or '"" (none)' for word in words)
    return Option(("str",), f"{choices} or an absolute path", parse)


def _boolean(text: str) -> bool:
    """Read a text that YAML 1.1 reads as a boolean. Raises ValueError."""
    booleans = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() not in booleans:
        raise ValueError("is not a boolean")
    return booleans[text.lower()]


BOOLEAN = Option(("bool",), "true or false", _boolean)


def file_path(text: str) -> str:
    """Return the path of a file, relative to the current directory or absolute; "" is none. Raises ValueError."""
    if not text.isprintable() or text.endswith("/"):
        raise ValueError("is not the path of a file")
    return text


def reason_name(text: str) -> str:
    """Return the name of an exit reason. Raises ValueError."""
    if not text.strip() or not text.isprintable():
        raise ValueError("is not a name")
    return text


def user_name(text: str) -> str:
    """Return the name of a user; "" is none. Raises ValueError."""
    if not re.fullmatch(r"(?:[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}\$?)?", text) or text.isdecimal():
        raise ValueError("is not a user name")
    return text
