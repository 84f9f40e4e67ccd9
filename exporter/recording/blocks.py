"""The file of a recording as a sequence of blocks with checksums, described in docs/recording-format.md.

A recording may come from an untrusted source. So every length is checked against a limit before it is used.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import BinaryIO, NamedTuple

from exporter.common.files import open_regular, reader_of
from exporter.recording.events import WHAT_SIZE

MAGIC = b"\x89KVMREC\n"
VERSION = 1
MAX_EVENTS = 1 << 16
"""Largest number of events in one block. The index of an event in the block's table has 16 bits."""

MAX_THREADS = 1 << 16
"""Largest number of threads in one recording."""

EVENT_BYTES = WHAT_SIZE + 2 + 8
"""Largest size of an event in a block, uncompressed: its entry in the table, its index in the table, its time."""

_START = struct.Struct("<8sI")
_HEAD = struct.Struct("<4sIIII")
_CRC = struct.Struct("<I")
_LEVEL = 6


class RecordingError(Exception):
    """The file is not a complete recording. The message is one line with the file, the place and the reason."""


class Type(Enum):
    """Types of blocks, in the order of the file. EVENTS and LOST blocks are mixed."""

    HEADER = b"HEAD"
    EVENTS = b"EVTS"
    LOST = b"LOST"
    VMS = b"VMS "
    END = b"END "


_MAX_BYTES = {
    Type.HEADER: 1 << 21,
    Type.EVENTS: MAX_EVENTS * EVENT_BYTES,
    Type.LOST: 1 << 10,
    Type.VMS: 1 << 24,
    Type.END: 1 << 16,
}
"""Largest content of a block, uncompressed. A compressed block may be a little longer: 0.03 % in zlib's worst case."""


class Block(NamedTuple):
    """A block whose checksums are right."""

    type: Type
    entries: int
    """Number of events of an EVENTS block, else 0."""
    content: bytes
    """Uncompressed."""
    stored_bytes: int
    """Size of the block in the file."""
    place: str
    """The file, the number of the block and its offset, for error messages."""


def start() -> bytes:
    """The first bytes of a file."""
    return _START.pack(MAGIC, VERSION)


def pack(kind: Type, content: bytes, entries: int = 0) -> bytes:
    """The bytes of a block."""
    assert len(content) <= _MAX_BYTES[kind]
    stored = zlib.compress(content, _LEVEL)
    head = _HEAD.pack(kind.value, entries, len(content), len(stored), zlib.crc32(stored))
    return head + _CRC.pack(zlib.crc32(head)) + stored


class RecordingFile(NamedTuple):
    """A file, which can be read several times: by its descriptor, or by its path if that is None.

    A process opens the file before it drops its privileges, and reads it afterwards.
    """

    path: Path
    descriptor: int | None = None

    @classmethod
    def opened(cls, path: Path) -> RecordingFile:
        """Open the file, until this process ends. Raises RecordingError."""
        try:
            with open_regular(path) as file:
                return cls(path, os.dup(file.fileno()))
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {error.strerror}") from error

    def open(self) -> BinaryIO:
        """Return a reader from the start of the file. Raises OSError."""
        return open_regular(self.path) if self.descriptor is None else reader_of(self.descriptor)


def read(file: Path | RecordingFile) -> Iterator[Block]:
    """Yield the blocks of a file up to END. Raises RecordingError."""
    recorded = RecordingFile(file) if isinstance(file, Path) else file
    try:
        with recorded.open() as reader:
            yield from _blocks(reader, recorded.path)
    except OSError as error:
        raise RecordingError(f"cannot read {recorded.path}: {error.strerror}") from error


def _blocks(file: BinaryIO, path: Path) -> Iterator[Block]:
    _check_start(file.read(_START.size), path)
    at, number = _START.size, 0
    while True:
        number += 1
        place = f"{path}: block {number} at byte {at}"
        head = file.read(_HEAD.size + _CRC.size)
        if not head:
            raise RecordingError(f"{path} is cut off: it ends after {at} bytes, without the closing block")
        if len(head) < _HEAD.size + _CRC.size:
            raise RecordingError(f"{path} is cut off after {at + len(head)} bytes, in the head of block {number}")
        if _CRC.unpack_from(head, _HEAD.size) != (zlib.crc32(head[: _HEAD.size]),):
            raise RecordingError(f"{place} is damaged: its head does not match its checksum")
        kind, entries, length, stored_length, checksum = _HEAD.unpack_from(head)
        block_type = _type(kind, place)
        limit = _MAX_BYTES[block_type]
        if length > limit or stored_length > limit + limit // 1000 + 64 or entries > MAX_EVENTS:
            raise RecordingError(f"{place} claims {length} bytes ({stored_length} stored), at most {limit} are read")
        stored = file.read(stored_length)
        if len(stored) < stored_length:
            raise RecordingError(
                f"{path} is cut off after {at + len(head) + len(stored)} bytes, in block {number} "
                f"({kind.decode().strip()}), which has {stored_length}"
            )
        if zlib.crc32(stored) != checksum:
            raise RecordingError(f"{place} ({kind.decode().strip()}) is damaged: it does not match its checksum")
        yield Block(block_type, entries, _inflate(stored, length, place), len(head) + stored_length, place)
        at += len(head) + stored_length
        if block_type == Type.END:
            if file.read(1):
                raise RecordingError(f"{path} has more bytes after its closing block, at byte {at}")
            return


def _check_start(head: bytes, path: Path) -> None:
    if not head:
        raise RecordingError(f"{path} is empty")
    magic, version = _START.unpack(head.ljust(_START.size, b"\0"))
    if MAGIC.startswith(head) or (magic == MAGIC and len(head) < _START.size):
        raise RecordingError(f"{path} is cut off after {len(head)} bytes")
    if magic != MAGIC:
        packed = " (a gzip file)" if head.startswith(b"\x1f\x8b") else ""
        raise RecordingError(f"{path} is not a recording{packed}: it does not begin like a recording")
    if version != VERSION:
        raise RecordingError(f"{path} has format version {version}, this kvm-exit-exporter reads version {VERSION}")


def _type(kind: bytes, place: str) -> Type:
    try:
        return Type(kind)
    except ValueError:
        raise RecordingError(f"{place} has an unknown type, {kind!r}") from None


def _inflate(stored: bytes, length: int, place: str) -> bytes:
    """Decompress to exactly `length` bytes. At most one byte more is ever decompressed. Raises RecordingError."""
    inflating = zlib.decompressobj()
    try:
        content = inflating.decompress(stored, length + 1)
    except zlib.error as error:
        raise RecordingError(f"{place} is damaged: {error}") from error
    if len(content) != length or not inflating.eof or inflating.unused_data:
        raise RecordingError(f"{place} does not decompress to the {length} bytes that it claims")
    return content
