"""The plain values of a collection."""

from __future__ import annotations

import struct

import pytest

from exporter.model.buckets import BUCKETS
from exporter.model.reason import Space
from exporter.model.records import Cell


@pytest.mark.parametrize(
    "filled",
    [{}, {0: 1}, {BUCKETS - 1: 1 << 63}, {0: 3, BUCKETS - 1: 5}, {40: 256, 41: 1 << 56, 45: 7}, {7: 1 << 56, 9: 255}],
)
def test_a_cell_has_the_counts_above_zero_by_bucket(filled: dict[int, int]) -> None:
    counts = [filled.get(number, 0) for number in range(BUCKETS)]
    cell = Cell(Space.VMX, 1, sum(counts), 0, struct.pack(f"={BUCKETS}Q", *counts))
    assert list(cell.filled().items()) == sorted(filled.items())
    assert cell.counts() == tuple(counts)
