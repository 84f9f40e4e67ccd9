"""Reads the arguments of a process (argv), and the name of a program."""

from __future__ import annotations

import re

#: A wrapper has the program's name, and gives the program itself one of these names: wrapProgram of nixpkgs,
#: wrap-program of Guix, dpkg-divert of Debian, and habits of administrators.
HIDDEN_NAMES = (".{}-wrapped", ".{}-real", "{}.distrib", "{}.real", "{}.orig", "{}.bin")
#: nixpkgs adds underscores if the name is in use.
_HIDDEN = re.compile("|".join(re.escape(form).replace(r"\{\}", "(.+)") + "_*" for form in HIDDEN_NAMES), re.DOTALL)


def split(raw: bytes) -> list[str]:
    """Return argv from the bytes of /proc/PID/cmdline. Each argument ends with a NUL, and may be invalid text.

    The reader's limit may cut the last argument, so bytes after the last NUL are dropped. A process may overwrite its
    title, so bytes without any NUL are one argument.
    """
    if b"\0" not in raw:
        return [raw.decode(errors="replace")] if raw else []
    return [argument.decode(errors="replace") for argument in raw.split(b"\0")[:-1]]


def base_name(path: str) -> str:
    """Return the last component of a program's path."""
    return path.rstrip("/").rpartition("/")[2]


def unwrapped(name: str) -> str:
    """Return the name of a program's wrapper; the name itself if it is not the hidden name of a wrapped program."""
    while hidden := _HIDDEN.fullmatch(name):
        name = hidden[hidden.lastindex or 0]
    return name
