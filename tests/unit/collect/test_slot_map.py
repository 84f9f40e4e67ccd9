"""The state of a slot for one moment, and the identity of its thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from exporter.collect.maps import OWNER_ENDED, SlotMap
from tests.support.leaves import FRESH, GUEST, HOST, NO_REASON, PID, Leaves, Watched

NOW = 9_001


@pytest.fixture
def made(leaves: Callable[..., Leaves]) -> Leaves:
    made = leaves(slots=3)
    made.put_slot(2, 71, born_ns=13, comm=b"CPU 0/KVM")
    return made


@pytest.fixture
def slots(made: Leaves) -> Iterator[SlotMap]:
    slots = SlotMap(made.fds["slots"], made.layouts["slots"])
    yield slots
    slots.close()


def test_a_slot_that_changes_is_read_again(made: Leaves, slots: SlotMap, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of one exit belong together only in the eighth try, which is the last."""
    made.put_state(2, HOST, 211, 5_003, 3)
    made.put("slots", 2, since_ns=7_001)

    def finish(read: int) -> None:
        assert read <= 8
        if read == 8:
            made.put_state(2, HOST, 307, 7_001, 4)

    monkeypatch.setattr(slots, "_words", Watched(slots._words, finish))
    state = slots.read(2, NOW)
    assert (state.exit_cell, state.exit_ns, state.guest_ns) == (4, 7_001, 307)


def test_an_exit_needs_its_check(made: Leaves, slots: SlotMap) -> None:
    """The time and the cell of an exit are used only if they belong to the guest time and the state."""
    made.put_state(2, HOST, 211, 2**32 + 5_003, 3)
    state = slots.read(2, NOW)
    assert (state.exit_cell, state.exit_ns, state.guest_ns) == (3, 2**32 + 5_003, 211)
    made.put("slots", 2, since_ns=7_001)
    state = slots.read(2, NOW)
    assert (state.exit_cell, state.exit_ns, state.guest_ns) == (0, 0, 211)
    made.put_state(2, HOST, 211, 5_003, 3)
    made.put("slots", 2, guest=212 << 2 | HOST)
    state = slots.read(2, NOW)
    assert (state.exit_cell, state.exit_ns, state.guest_ns) == (0, 0, 212)


def test_the_guest_time_of_a_vcpu_in_its_guest_grows(made: Leaves, slots: SlotMap) -> None:
    made.put_state(2, GUEST, 1_013, 5_003)
    assert slots.read(2, NOW).guest_ns == NOW - 1_013


def test_the_guest_time_of_an_ended_thread_stands_still(made: Leaves, slots: SlotMap) -> None:
    made.put_state(2, GUEST, 1_013, 5_003)
    made.end_slot(2)
    assert slots.read(2, NOW).guest_ns == 5_003 - 1_013


def test_an_entry_after_the_collection_keeps_its_guest_time(made: Leaves, slots: SlotMap) -> None:
    """The clock is read before the slot."""
    made.put_state(2, GUEST, 10_007, 12_007)
    assert slots.read(2, NOW).guest_ns == 2_000


def test_a_guest_time_is_never_negative(made: Leaves, slots: SlotMap) -> None:
    """The words do not belong together: the time of the entry is not used."""
    made.put_state(2, GUEST, 10_007, 12_007)
    made.put("slots", 2, since_ns=12_011)
    assert slots.read(2, NOW).guest_ns == 0


@pytest.mark.parametrize(("state", "cell"), [(FRESH, 0), (GUEST, 0), (HOST, 3), (NO_REASON, 0)])
def test_only_a_vcpu_out_of_its_guest_has_an_exit(made: Leaves, slots: SlotMap, state: int, cell: int) -> None:
    made.put_state(2, state, 211, 5_003, 3)
    assert slots.read(2, NOW).exit_cell == cell


@pytest.mark.parametrize(("member", "vcpu_id"), [(0, None), (1, 0), (62, 61)])
def test_the_vcpu_id_is_one_less_than_its_member(
    made: Leaves, slots: SlotMap, member: int, vcpu_id: int | None
) -> None:
    made.put("slots", 2, vcpu_id_plus_1=member)
    assert slots.read(2, NOW).vcpu_id == vcpu_id


@pytest.mark.parametrize(
    "torn", [{"id": PID << 32 | 72}, {"born_ns": 0}, {"comm": b"CPU 1/KVM"}, {"comm": b"CPU 0/KVL"}, {"check": 0}]
)
def test_an_identity_needs_all_its_words(made: Leaves, slots: SlotMap, torn: dict[str, int | bytes]) -> None:
    assert slots.identity(2) == (PID << 32 | 71, 13, b"CPU 0/KVM")
    made.put("slots", 2, **torn)
    assert slots.identity(2) is None


def test_a_slot_is_marked_as_ended(made: Leaves, slots: SlotMap) -> None:
    for number in (1, 3):
        made.put_slot(number, 100 + number)
    slots.end(2)
    assert [slots.read(number, NOW).owner for number in range(4)] == [0, PID << 32 | 101, OWNER_ENDED, PID << 32 | 103]
    assert slots.identity(2) == (PID << 32 | 71, 13, b"CPU 0/KVM")


def test_the_heads_of_all_chains_are_found(made: Leaves, slots: SlotMap) -> None:
    made.put("slots", 2, heads={0: 3, 5: 2, 63: 4})
    assert slots.heads(2) == [3, 2, 4]
