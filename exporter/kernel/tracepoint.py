"""The format files of tracefs, events/<system>/<event>/format: field offsets and names of values.

They are read at run time, because both differ between kernels (kernel/trace/trace_events.c writes the file, f_show()).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from exporter.kernel.printfmt import symbol_tables

#: The file describes one event. The largest file in the kernel tree has about 20 KB.
_MAX_CHARACTERS = 1 << 20
_NAME = re.compile(r"name: ([A-Za-z_][A-Za-z0-9_]*)")
_ID = re.compile(r"^ID: ([0-9]{1,9})$", re.M)
_FIELD = re.compile(r"\tfield:([^;]*);\toffset:([0-9]{1,6});\tsize:([0-9]{1,6});\tsigned:([01]);")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PRINT_FMT = "print fmt:"


class FormatError(ValueError):
    """The text is not a format file. The message is one line: the number of the bad line, and its error."""


@dataclass(frozen=True)
class RecordField:
    """One field of the record; offset and size are in bytes."""

    name: str
    offset: int
    size: int
    signed: bool


@dataclass(frozen=True)
class TracepointFormat:
    """The format of one event. `symbols` is {expression in the print fmt: {value: name}}, see printfmt.py."""

    name: str
    fields: dict[str, RecordField]
    symbols: dict[str, dict[int, str]]


def parse_format(text: str) -> TracepointFormat:
    """Parse the content of a format file.

    Raises FormatError if the name, a field or the print fmt is missing or damaged: records must not be read at
    offsets that may be wrong. A table of the print fmt that cannot be parsed is only left out.
    """
    if len(text) > _MAX_CHARACTERS:
        raise FormatError(f"line 1: not a format file: {len(text)} characters long")
    name = ""
    fields: dict[str, RecordField] = {}
    start = 0
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith(_PRINT_FMT):
            if not name or not fields:
                raise FormatError(f"line {number}: print fmt before the {'fields' if name else 'name'}")
            return TracepointFormat(name, fields, symbol_tables(text[start + len(_PRINT_FMT) :]))
        if line.startswith("name:"):
            match = _NAME.fullmatch(line)
            if match is None or name:
                raise FormatError(f"line {number}: {'a second' if name else 'not a'} name: {_excerpt(line)}")
            name = match[1]
        elif line.lstrip().startswith("field:"):
            field = _field(line, number)
            if field.name in fields:
                raise FormatError(f"line {number}: a second field {field.name}")
            fields[field.name] = field
        start += len(line) + 1
    raise FormatError(f"line {number}: the file ends without a print fmt")


def event_id(text: str) -> int:
    """Return the number of the event, with which perf opens it. Raises FormatError."""
    match = _ID.search(text[:_MAX_CHARACTERS])
    if match is None:
        raise FormatError("a format without an ID")
    return int(match[1])


def _field(line: str, number: int) -> RecordField:
    match = _FIELD.fullmatch(line)
    # The declaration is C: "unsigned int esr_ec", "char comm[16]", "__data_loc char[] name".
    words = match[1].split("[")[0].split() if match and match[1].rstrip().endswith("]") else []
    if match and not words:
        words = match[1].split()
    name = words[-1].lstrip("*") if words else ""
    if match is None or len(words) < 2 or not _IDENTIFIER.fullmatch(name):
        raise FormatError(f"line {number}: not a field: {_excerpt(line)}")
    return RecordField(name, int(match[2]), int(match[3]), match[4] == "1")


def _excerpt(line: str) -> str:
    return ascii(line[:60])
