"""Reads the arguments of a process (argv), and the name of a program."""

from __future__ import annotations


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
