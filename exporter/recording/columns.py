"""The content of an EVENTS block: a table of the distinct events, a column of table indices, a column of times.

A column is stored in byte planes: first the lowest byte of every number, then the second lowest, and so on. Bytes that
seldom change, such as the high bytes of time differences, are then neighbours. So the compressed file is smaller by a
quarter.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate
from operator import sub

from exporter.recording.events import WHAT_SIZE

_MAX_NS = 1 << 63


def pack(table: Sequence[bytes], numbers: Sequence[int], times: Sequence[int]) -> bytes:
    """The content of a block: event i is table[numbers[i]] at times[i] ns."""
    differences = array("q", map(sub, times, (0, *times[:-1])))
    return b"".join([*table, _planes(array("H", numbers)), _planes(differences)])


def unpack(content: bytes, entries: int) -> tuple[list[bytes], array[int], list[int]]:
    """The table, the numbers and the times of `entries` events. Raises ValueError if the content is not valid."""
    rest = len(content) - entries * 10
    if rest <= 0 or rest % WHAT_SIZE or not 0 < rest // WHAT_SIZE <= entries:
        raise ValueError(f"{len(content)} bytes cannot hold {entries} events")
    table = [content[at : at + WHAT_SIZE] for at in range(0, rest, WHAT_SIZE)]
    numbers = _column("H", content[rest : rest + 2 * entries])
    times = list(accumulate(_column("q", content[rest + 2 * entries :])))
    if max(numbers) >= len(table):
        raise ValueError(f"event number {max(numbers)}, but the table has {len(table)} events")
    if min(times) < 0 or max(times) >= _MAX_NS:
        raise ValueError("a time outside of 0 to 2^63 ns")
    return table, numbers, times


def _planes(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    data = column.tobytes()
    return b"".join(data[byte :: column.itemsize] for byte in range(column.itemsize))


def _column(code: str, planes: bytes) -> array[int]:
    column: array[int] = array(code)
    size, entries = column.itemsize, len(planes) // column.itemsize
    data = bytearray(len(planes))
    for byte in range(size):
        data[byte::size] = planes[byte * entries : (byte + 1) * entries]
    column.frombytes(data)
    if sys.byteorder == "big":
        column.byteswap()
    return column
