"""Joins many small byte strings into a few large ones, to save system calls and calls of the compressor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_BATCH_BYTES = 1 << 18


def batches(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield `pieces` joined into batches of 256 KiB or little more. The last batch may be shorter."""
    batch: list[bytes] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= _BATCH_BYTES:
            yield b"".join(batch)
            batch, size = [], 0
    if batch:
        yield b"".join(batch)
