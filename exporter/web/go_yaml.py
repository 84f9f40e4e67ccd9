"""YAML as exporter-toolkit reads it: with Go's yaml.v2, and with Go's durations.

yaml.v2 takes some plain scalars for another type than PyYAML does (resolve.go). A key that holds a string takes a
number or a boolean too, and its value is then the text of that scalar (decode.go).
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, ClassVar, cast

import yaml

from exporter.config.yaml_file import YamlLoader

SCALARS = ("str", "int", "float", "bool")
"""The YAML types that a key takes if it holds a string."""

_YAML = "tag:yaml.org,2002:"
_MAX_INT = (1 << 63) - 1
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9,
                "h": 3600 * 10**9}  # fmt: skip
# The longer units come first: "ms" begins with "m".
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_INT = r"[-+]?(?:0[bB]_*[01][01_]*|0[xX]_*[0-9a-fA-F][0-9a-fA-F_]*|0[oO]?_*[0-7][0-7_]*|[1-9][0-9_]*|0_*)"
_FLOAT = r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9][0-9_]*)?"


class GoLoader(YamlLoader):
    """Gives a plain scalar the type that yaml.v2 gives it.

    Other than in PyYAML, `y` and `n` are booleans, `1e3` is a number, and `1:30` is a string. A date is a string here,
    because a key that takes a date takes any string.
    """

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}  # type: ignore[misc] # PyYAML changes the class itself

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Return the next scalar. A tag that contradicts its text gets a "!" in front, and another tag is a string."""
        node: yaml.ScalarNode = cast("Any", super()).compose_scalar_node(anchor)
        by_text = cast("Any", self).resolve(yaml.ScalarNode, node.value, (True, False)).replace(_YAML, "", 1)
        name = node.tag.replace(_YAML, "", 1)
        if name == node.tag:
            node.tag = f"{_YAML}str"
        elif name in ("bool", "null", "int", "float") and name != by_text and (name, by_text) != ("float", "int"):
            node.tag = f"{_YAML}!{name}"
        return node


for _type, _pattern in (
    ("bool", r"[yY]|[nN]|yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"),
    ("null", r"|~|null|Null|NULL"),
    ("int", _INT),
    ("float", rf"{_FLOAT}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
):
    GoLoader.add_implicit_resolver(f"{_YAML}{_type}", re.compile(rf"(?:{_pattern})\Z"), None)


def boolean(text: str) -> bool:
    """Return the value of a scalar that yaml.v2 takes for a boolean."""
    return text.lower() in ("y", "yes", "true", "on")


def integer(text: str) -> int:
    """Return the value of a scalar that yaml.v2 takes for a number, without its fraction. Raises ValueError."""
    plain = text.replace("_", "")
    if len(plain) > 70:  # no longer number fits in 64 bits, not even in binary
        raise ValueError("is out of range")
    if re.fullmatch(_INT, plain):
        # A 0 in front means octal in Go, as in C. Python's int() refuses it.
        number = int(re.sub(r"^([-+]?)0(?=[0-7])", r"\g<1>0o", plain), 0)
    elif re.fullmatch(_FLOAT, plain):
        number = int(float(plain)) if abs(float(plain)) <= _MAX_INT else _MAX_INT + 1
    else:
        raise ValueError("is out of range")
    if not -_MAX_INT <= number <= _MAX_INT:
        raise ValueError("is out of range")
    return number


def duration(text: str) -> float:
    """Return the seconds of a duration of Go: "1.5s", "1h30m", "-2m", "0". Raises ValueError.

    The units are those of time.ParseDuration(): it has no days and no weeks.
    """
    if len(text) > 70:
        raise ValueError("is not a duration")
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text[1:] if text.startswith("+") else text)
    if rest == "0":
        return 0.0
    total, end = 0, 0
    while match := _PART.match(rest, end):
        total += int(Fraction(match[1].rstrip(".")) * _NANOSECONDS[match[2]])
        end = match.end()
    if not rest or end < len(rest):
        unitless = re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", rest[end:])
        raise ValueError("has no unit (one second is 1s)" if unitless else "is not a duration")
    if total > _MAX_INT:
        raise ValueError("is out of range")
    return sign * total / 10**9
