"""Logs in the style of Prometheus' own programs: one line for each event, in logfmt or JSON.

A logged value may contain text from a guest's name or from a scraper's request. Every value is therefore escaped and
cut. event() never raises an exception, not even for an odd value or a broken stream.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import logging
import math
import sys
import traceback
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO, Union

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
MAX_VALUE, MAX_STACK = 1024, 16384  # characters before escaping

_Scalar = Union[str, int, float, bool, None]


def setup(level: str, format: str, stream: TextIO | None = None) -> None:
    """Write the events of every logger, from this level on, to the stream (None: stderr), one line each.

    `level` is a key of LEVELS. `format` is "logfmt" or "json". A reload calls this function again.
    Raises ValueError for another level or format.
    """
    if level not in LEVELS or format not in {"logfmt", "json"}:
        raise ValueError(f"no such log level or format: {level}, {format}")
    stream = sys.stderr if stream is None else stream
    handler = _Handler(stream)
    handler.setFormatter(_Formatter(format, stacks=level == "debug", ascii_only=not _is_utf8(stream)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])


def event(logger: logging.Logger, level: str, msg: str, **fields: object) -> None:
    """Log `msg` with fields. `level` is a key of LEVELS; another one raises KeyError.

    If `err` is an exception, and the log level is debug, its stack is logged, too.
    """
    err = fields.get("err")
    error = err if isinstance(err, BaseException) else None
    if error is not None:
        del fields["err"]
    logger.log(LEVELS[level], msg, exc_info=error, extra={"fields": fields})


class _Handler(logging.Handler):
    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        # The pipe or file is closed, or the disk is full. This line is lost, but the exporter goes on counting.
        with contextlib.suppress(Exception):
            self.stream.write(self.format(record) + "\n")
            self.stream.flush()


class _Formatter(logging.Formatter):
    def __init__(self, format: str, *, stacks: bool, ascii_only: bool) -> None:
        super().__init__()
        self.json = format == "json"
        self.stacks = stacks
        self.ascii_only = ascii_only

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, _Scalar] = {
            "ts": _timestamp(record.created),
            "level": _level(record.levelno),
            "msg": _scalar(_message(record)),
        }
        fields = getattr(record, "fields", None)
        for name, value in fields.items() if isinstance(fields, Mapping) else ():
            line[_key(name, line)] = _scalar(value)
        if record.exc_info and (error := record.exc_info[1]) is not None:
            line[_key("err", line)] = _scalar(error)
            if self.stacks:
                line[_key("stack", line)] = _stack(error)
        if self.json:
            return "{" + ", ".join(f"{self.quoted(k)}: {self.json_value(v)}" for k, v in line.items()) + "}"
        return " ".join(f"{name}={self.logfmt_value(value)}" for name, value in line.items())

    def json_value(self, value: _Scalar) -> str:
        return self.quoted(value) if isinstance(value, str) else json.dumps(value)

    def logfmt_value(self, value: _Scalar) -> str:
        if not isinstance(value, str):
            return json.dumps(value)
        bare = value and value.isprintable() and not set(value) & set(' ="')
        return value if bare and (value.isascii() or not self.ascii_only) else self.quoted(value)

    def quoted(self, text: str) -> str:
        """Return a JSON string, which is a quoted logfmt value too. It has no character that controls a terminal."""
        if self.ascii_only:
            return json.dumps(text).replace("\x7f", "\\u007f")
        return '"' + "".join(c if c.isprintable() and c not in '"\\' else _escape(c) for c in text) + '"'


def _escape(character: str) -> str:
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def _timestamp(seconds: float) -> str:
    utc = datetime.fromtimestamp(seconds, timezone.utc)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(levelno: int) -> str:
    return next((name for name, number in reversed(LEVELS.items()) if levelno >= number), "debug")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # the arguments do not fit the format string: log the format string alone
        return str(record.msg)


def _key(name: object, taken: Mapping[str, Any]) -> str:
    """Return a logfmt key that is not in `taken`: a field never hides ts, level, msg or another field."""
    key = "".join(c if "!" <= c <= "~" and c not in '="' else "_" for c in str(name)[:64]) or "_"
    while key in taken:
        key += "_"
    return key


def _scalar(value: object) -> _Scalar:
    """Return the value as a JSON scalar. Text is cut at MAX_VALUE characters."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 1 << 64:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    try:
        text = str(value)
        if isinstance(value, BaseException):
            text = f"{type(value).__name__}: {text}" if text else type(value).__name__
    except Exception as error:  # its __str__ failed
        text = f"<{type(value).__name__}: {type(error).__name__}>"
    # JSON must not contain lone surrogates (bytes of a command line that are not UTF-8): write them as \udcff.
    text = text[: MAX_VALUE + 1].encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"


def _stack(error: BaseException) -> str:
    """Return the traceback. Each entry is cut; the whole is cut at its front, because the error is at its end."""
    entries = (str(_scalar(entry)) for entry in traceback.format_exception(type(error), error, error.__traceback__))
    text = "".join(entries)
    return text if len(text) <= MAX_STACK else "…" + text[1 - MAX_STACK :]


def _is_utf8(stream: TextIO) -> bool:
    try:
        return codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name == "utf-8"
    except LookupError:
        return False
