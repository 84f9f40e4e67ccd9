"""Tables of names in a tracepoint's print fmt. No part of the text is run as code.

The kernel writes the C source of TP_printk() into the format file, with values in place of the enums that it knows
(kernel/trace/trace_events.c). So a value may be `2`, `(0x0C)`, `(((0x00UL)))`, `0x040 + 14` or `-1`, and a name may be
several adjacent literals (`"KVM_EXIT_" "IO"`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

#: include/trace/stages/stage3_trace_output.h. The first argument is an expression with REC. True: a delimiter
#: stands between the expression and the table.
_TABLE_FUNCTIONS = {
    "__print_symbolic": False,
    "__print_symbolic_u64": False,
    "__print_flags": True,
    "__print_flags_u64": True,
}
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"[^"\\]*(?:\\.[^"\\]*)*")
      | (?P<number>[0-9][0-9A-Za-z]*)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark><<|>>|.)""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"(?P<digits>0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})[uUlL]{0,3}")
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}
_OPENING, _CLOSING = frozenset("({["), frozenset(")}]")
_PRECEDENCE = {"|": 1, "^": 2, "&": 3, "<<": 4, ">>": 4, "+": 5, "-": 5, "*": 6}
_MAX_DEPTH = 32
#: A format of the kernel has four tables at most, but the format file of a recording may have any text.
_MAX_TABLES = 64
_LIMIT = 1 << 64


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


class _UnclearError(Exception):
    """This entry is left out; the other entries of its table are kept."""


class _EndError(Exception):
    """The text ends in the middle of a table."""


def symbol_tables(text: str) -> dict[str, dict[int, str]]:
    """Return {first argument of the call: {value: name}} for each table in `text`, a print fmt.

    The key is the text of the argument ("REC->exit_reason & 0xffff"). If one expression has several different tables,
    the second has the key "<argument> #2", and so on. Of more than 64 tables the first 64 are returned. An entry is
    left out if its value is not a constant, if its name is not a literal, or if the text ends inside of it. If a table
    names a value twice, the first name is taken, as in trace_print_symbols_seq() (kernel/trace/trace_output.c).
    """
    tables: dict[str, dict[int, str]] = {}
    tokens = list(_tokens(text))
    at = 0
    while at < len(tokens) - 1:
        token = tokens[at]
        if token.text not in _TABLE_FUNCTIONS or tokens[at + 1].text != "(":
            at += 1
            continue
        table: dict[int, str] = {}
        key = ""
        try:
            first = at + 2
            at = _end_of_item(tokens, first)
            key = text[tokens[first].start : tokens[at - 1].end] if at > first else ""
            if _TABLE_FUNCTIONS[token.text] and tokens[at].text == ",":
                at = _end_of_item(tokens, at + 1)
            while tokens[at].text == ",":
                start, at = at + 1, _end_of_item(tokens, at + 1)
                _add_entry(table, tokens[start:at])
        except _EndError:
            at = len(tokens)
        if key and table:
            _add_table(tables, key, table)
    return tables


def _add_table(tables: dict[str, dict[int, str]], key: str, table: dict[int, str]) -> None:
    name, number = key, 1
    if len(tables) == _MAX_TABLES:
        return
    while name in tables:
        if tables[name] == table:
            return
        number += 1
        name = f"{key} #{number}"
    tables[name] = table


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind == "space":
            continue
        if match.group() == '"':
            return  # a literal without an end: all text after it is unclear
        yield _Token(kind, match.group(), match.start(), match.end())


def _end_of_item(tokens: list[_Token], at: int) -> int:
    """Return the index of the comma or closing bracket that ends the list item at `at`. Raises _EndError."""
    depth = 0
    for index in range(at, len(tokens)):
        text = tokens[index].text
        if depth == 0 and (text == "," or text in _CLOSING):
            return index
        if text in _OPENING:
            depth += 1
        elif text in _CLOSING:
            depth -= 1
    raise _EndError


def _add_entry(table: dict[int, str], tokens: list[_Token]) -> None:
    """Add the entry to the table if its form is `{ value, "name" }`."""
    if len(tokens) < 5 or tokens[0].text != "{" or tokens[-1].text != "}":
        return
    inner = tokens[1:-1]
    try:
        comma = _end_of_item(inner, 0)
        name = "".join(_literal(token) for token in inner[comma + 1 :])
        if inner[comma].text == "," and name:
            table.setdefault(_Expression(inner[:comma]).value(), name)
    except (_UnclearError, _EndError):
        return


def _literal(token: _Token) -> str:
    if token.kind != "string":
        raise _UnclearError
    pieces = re.split(r"\\(.)", token.text[1:-1], flags=re.DOTALL)
    if any(escape not in _ESCAPES for escape in pieces[1::2]):
        raise _UnclearError
    return "".join(_ESCAPES[piece] if index % 2 else piece for index, piece in enumerate(pieces))


class _Expression:
    """Integer arithmetic on constants, by precedence climbing. Depth and size of values are limited."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def value(self) -> int:
        """Return the value of the whole expression. Raises _UnclearError."""
        value = self._binary(1, _MAX_DEPTH)
        if self._at != len(self._tokens):
            raise _UnclearError
        return value

    def _peek(self) -> str:
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    def _binary(self, level: int, depth: int) -> int:
        left = self._unary(depth)
        while _PRECEDENCE.get(self._peek(), 0) >= level:
            operator = self._peek()
            self._at += 1
            right = self._binary(_PRECEDENCE[operator] + 1, depth)
            left = _apply(operator, left, right)
        return left

    def _unary(self, depth: int) -> int:
        text = self._peek()
        if not text or depth == 0:
            raise _UnclearError
        token = self._tokens[self._at]
        self._at += 1
        if text == "(":
            value = self._binary(1, depth - 1)
            if self._peek() != ")":
                raise _UnclearError
            self._at += 1
            return value
        if text in {"-", "+", "~"}:
            value = self._unary(depth - 1)
            return {"-": -value, "+": value, "~": ~value}[text]
        return _number(token)


def _number(token: _Token) -> int:
    match = _NUMBER.fullmatch(token.text)
    if match is None:
        raise _UnclearError
    digits = match["digits"]
    if digits[:2] in {"0x", "0X"}:
        return int(digits, 16)
    if digits[0] == "0":
        if not set(digits) <= set("01234567"):
            raise _UnclearError
        return int(digits, 8)
    return int(digits)


def _apply(operator: str, left: int, right: int) -> int:
    if operator in {"<<", ">>"} and not 0 <= right < 64:
        raise _UnclearError
    value = {
        "|": int.__or__,
        "^": int.__xor__,
        "&": int.__and__,
        "<<": int.__lshift__,
        ">>": int.__rshift__,
        "+": int.__add__,
        "-": int.__sub__,
        "*": int.__mul__,
    }[operator](left, right)
    if abs(value) >= _LIMIT:
        raise _UnclearError
    return value
