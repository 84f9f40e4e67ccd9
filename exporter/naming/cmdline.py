"""argv of a process, and the name of a program."""

from __future__ import annotations


def split(raw: bytes) -> list[str]:
    """argv from the bytes of /proc/PID/cmdline: each argument ends with a NUL, in any encoding or none.

    The reader's limit may cut off the last argument: bytes after the last NUL are dropped. A process may overwrite its
    title: bytes without a NUL are one argument.
    """
    if b"\0" not in raw:
        return [raw.decode(errors="replace")] if raw else []
    return [argument.decode(errors="replace") for argument in raw.split(b"\0")[:-1]]


def base_name(path: str) -> str:
    """Last component of a program's path."""
    return path.rstrip("/").rpartition("/")[2]
