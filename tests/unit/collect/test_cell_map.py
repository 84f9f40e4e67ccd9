"""The cells that changed, and the values of a cell that changes while it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from exporter.collect.maps import CellMap
from exporter.model.reason import Space
from tests.support.leaves import ALL_BITS, Leaves, Watched

VMX_HLT = 12


@pytest.fixture
def made(leaves: Callable[..., Leaves]) -> Leaves:
    return leaves(cells=5)


@pytest.fixture
def cells(made: Leaves) -> Iterator[CellMap]:
    cells = CellMap(made.fds["cells"], made.layouts["cells"])
    yield cells
    cells.close()


def test_a_change_of_either_column_is_listed_twice(made: Leaves, cells: CellMap) -> None:
    """An exit changes one column, and its interval the other, perhaps hours later. The buckets may come after it."""
    assert cells.changed() == []
    for number in (1, 3, 5):
        made.put_cell(number, 1, Space.VMX, number, 1)
    assert [cells.changed() for _ in range(3)] == [[1, 3, 5], [1, 3, 5], []]
    made.put("cells", 5, completed=1)
    assert [cells.changed() for _ in range(3)] == [[5], [5], []]
    made.put("cells", 1, exits=2)
    assert cells.changed() == [1]
    made.put("cells", 3, exits=2)
    assert [cells.changed() for _ in range(3)] == [[1, 3], [3], []]


def test_a_marked_cell_is_listed(made: Leaves, cells: CellMap) -> None:
    made.put_cell(2, 1, Space.VMX, VMX_HLT, 7)
    assert [cells.changed() for _ in range(3)] == [[2], [2], []]
    cells.mark_changed(2)
    assert [cells.changed() for _ in range(3)] == [[2], [2], []]


def test_a_cleared_cell_is_not_listed(made: Leaves, cells: CellMap) -> None:
    made.put_cell(2, 1, Space.VMX, VMX_HLT, 7)
    assert cells.changed() == [2]
    cells.clear(2)
    assert cells.changed() == []


def test_the_next_owner_of_a_cell_may_reach_the_same_counts(made: Leaves, cells: CellMap) -> None:
    made.put_cell(2, 1, Space.VMX, VMX_HLT, 7, buckets={3: 7})
    assert [cells.changed() for _ in range(3)] == [[2], [2], []]
    cells.clear(2)
    made.put_cell(2, 3, Space.VMX, VMX_HLT, 7, buckets={3: 7})
    assert cells.changed() == [2]


def test_a_cell_that_changes_is_read_again(made: Leaves, cells: CellMap, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interval ends between the copy of the buckets and the second look at the counts."""
    made.put_cell(2, 3, Space.VMX, VMX_HLT, 7, buckets={5: 6})

    def entry(read: int) -> None:
        if read == 2:
            made.put("cells", 2, completed=7, sum_ns=211, buckets={5: 7})

    watched = Watched(cells.memory, entry)
    monkeypatch.setattr(cells, "memory", watched)
    cell, slot, following = cells.read(2)
    assert (cell.space, cell.code, cell.exits, cell.sum_ns, slot, following) == (Space.VMX, VMX_HLT, 7, 211, 3, 0)
    assert cell.counts()[5] == 7
    assert watched.reads == 4


def test_a_cell_that_keeps_changing_is_read_eight_times(
    made: Leaves, cells: CellMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.put_cell(2, 3, Space.VMX, VMX_HLT)

    def exit_(read: int) -> None:
        assert read <= 16
        made.put("cells", 2, exits=read)

    monkeypatch.setattr(cells, "memory", Watched(cells.memory, exit_))
    cell, slot, _ = cells.read(2)
    assert (cell.exits, slot) == (16, 3)


def test_a_cell_needs_its_whole_code_and_its_slot(made: Leaves, cells: CellMap) -> None:
    """The words of a new cell may become visible in any order."""
    made.put("cells", 2, slot_space=3 << 32 | Space.VMX, code=VMX_HLT)
    assert cells.read(2)[1] == 0
    made.put("cells", 2, not_code=ALL_BITS)  # as if the code were not visible yet
    assert cells.read(2)[1] == 0
    made.put("cells", 2, not_code=VMX_HLT ^ ALL_BITS, slot_space=0)
    assert cells.read(2)[1] == 0
    made.put("cells", 2, slot_space=3 << 32 | Space.VMX, next=4)
    cell, slot, following = cells.read(2)
    assert (cell.space, cell.code, slot, following) == (Space.VMX, VMX_HLT, 3, 4)
