"""The mapped part of an array, and the leaves in use."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import pytest

from exporter.collect import maps
from exporter.collect.maps import OWNER_ENDED, CellMap, SlotMap
from exporter.model.reason import Space
from tests.support.exits import BUCKETS
from tests.support.leaves import PID, Leaves

Make = Callable[..., Leaves]


def test_every_leaf_in_use_is_mapped(leaves: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program has taken 89 cells since the last collection. One page is mapped."""
    monkeypatch.setattr(maps, "_FIRST_BYTES", mmap.PAGESIZE)
    made = leaves(cells=199)
    cells = CellMap(made.fds["cells"], made.layouts["cells"])
    assert cells.column("slot_space") == [0] * cells.mapped
    assert cells.mapped == mmap.PAGESIZE // made.layouts["cells"].size
    for number in range(1, 90):
        made.put_cell(number, 1, Space.VMX, number)
    cells.map_used()
    assert [number for number, value in enumerate(cells.column("slot_space")) if value] == list(range(1, 90))
    cells.close()


def test_a_leaf_is_mapped_before_it_is_read(leaves: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain of an ended thread, or an exit in progress, may have a cell beyond the mapped part."""
    monkeypatch.setattr(maps, "_FIRST_BYTES", mmap.PAGESIZE)
    made = leaves(cells=199, slots=199)
    cells, slots = CellMap(made.fds["cells"], made.layouts["cells"]), SlotMap(made.fds["slots"], made.layouts["slots"])
    cell, slot = cells.mapped, slots.mapped
    made.put_cell(cell, 7, Space.VMX, 48, 101, buckets={BUCKETS - 1: 97})
    made.put_slot(slot, 71, born_ns=13)
    assert cells.read(cell)[0].counts() == (*[0] * (BUCKETS - 1), 97)
    assert slots.identity(slot) == (PID << 32 | 71, 13, b"")
    cells.close()
    slots.close()


def test_no_more_is_mapped_than_the_array_has(leaves: Make) -> None:
    made = leaves(cells=5)
    cells = CellMap(made.fds["cells"], made.layouts["cells"])
    assert cells.mapped == 6
    for number in range(1, 6):
        made.put_cell(number, 1, Space.VMX, number)
    cells.map_used()
    assert cells.mapped == 6
    cells.close()


def test_a_taken_leaf_is_in_use(leaves: Make) -> None:
    """A cell before its first exit is counted. A slot before its owner is set, and after its thread has ended."""
    made = leaves()
    cells, slots = CellMap(made.fds["cells"], made.layouts["cells"]), SlotMap(made.fds["slots"], made.layouts["slots"])
    made.put("cells", 1, slot_space=1 << 32)
    made.put("cells", 2, exits=3)
    made.put("slots", 1, id=1)
    made.put("slots", 2, owner=OWNER_ENDED)
    for array in (cells, slots):
        assert [array.in_use(number) for number in range(4)] == [False, True, False, False]
        array.clear(1)
        assert not array.in_use(1)
        array.close()


def test_a_cleared_leaf_is_empty(leaves: Make) -> None:
    made = leaves()
    slots = SlotMap(made.fds["slots"], made.layouts["slots"])
    size = made.layouts["slots"].size
    slots.memory[: 4 * size] = b"\xff" * (4 * size)
    slots.clear(2)
    assert [made.leaf("slots", number) for number in range(4)] == [
        *(b"\xff" * size, b"\xff" * size, bytes(size), b"\xff" * size)
    ]
    slots.close()
