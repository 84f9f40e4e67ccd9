"""Many small pieces of bytes as few larger ones: each is worth a system call, or a call of the compressor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_BATCH_BYTES = 1 << 18


def batches(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces joined to batches of 256 KiB or little more; the last one may be shorter."""
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
