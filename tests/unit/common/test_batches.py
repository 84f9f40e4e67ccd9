"""Small pieces are joined into batches of at least 256 KiB. No byte is lost."""

from __future__ import annotations

from exporter.common.batches import batches

SIZE = 1 << 18


def test_pieces_are_joined_in_order_into_batches_of_at_least_256_kib() -> None:
    pieces = [bytes([number]) * 10_007 for number in range(101)]
    joined = list(batches(pieces))
    assert b"".join(joined) == b"".join(pieces)
    assert [len(batch) for batch in joined] == [27 * 10_007] * 3 + [20 * 10_007]
    assert 26 * 10_007 < SIZE <= 27 * 10_007


def test_no_pieces_give_no_batch() -> None:
    assert list(batches([])) == []


def test_a_large_piece_is_not_divided() -> None:
    assert [len(batch) for batch in batches([b"x" * (3 * SIZE), b"y"])] == [3 * SIZE, 1]
