"""The work of an exit, as a count. Its time depends on the machine: make bench measures the time."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.machine import TRAP, Machine, Vcpu, exits, trap
from tests.support.one_cpu import one_cpu

HVC64 = 0x16

_FORGET = r"""
/* The thread keeps its slot, but the hash of all threads does not have it any more. */
int forget(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();

	return tid_slot.delete(&tid);
}
"""


def _exits_and_entries(vcpu: Vcpu, times: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(times):
            vcpu.arm_exit(1_000, TRAP, HVC64)
            vcpu.entry(2_000)

    return work


def _forget(vcpu: Vcpu) -> None:
    assert vcpu.run("forget", 0) == 0


def test_a_thread_that_stays_on_its_cpu_needs_no_look_up_in_the_hash(machine: Callable[..., Machine]) -> None:
    """The hash forgets a thread. Its exits still find the slot, until another thread has exits on the same CPU."""
    under_test = machine(extra_source=_FORGET, extra_programs=("forget",))
    with one_cpu():
        vcpu, other = under_test.vcpu(), under_test.vcpu()
    vcpu.call(_exits_and_entries(vcpu, 1))
    vcpu.call(lambda: _forget(vcpu))
    vcpu.call(_exits_and_entries(vcpu, 101))
    assert [exits(record) for record in under_test.records(vcpu)] == [{trap(HVC64): 102}]

    other.call(_exits_and_entries(other, 1))
    vcpu.call(_exits_and_entries(vcpu, 7))
    assert sorted(record.cells[0].exits for record in under_test.records(vcpu)) == [7, 102]


def test_a_thread_that_comes_back_to_its_cpu_needs_one_look_up_in_the_hash(machine: Callable[..., Machine]) -> None:
    """Another thread had exits on the CPU. The first event finds the slot in the hash, later events need no look-up."""
    under_test = machine(extra_source=_FORGET, extra_programs=("forget",))
    with one_cpu():
        vcpu, other = under_test.vcpu(), under_test.vcpu()
    for each in (vcpu, other, vcpu):
        each.call(_exits_and_entries(each, 3))
    vcpu.call(lambda: _forget(vcpu))
    vcpu.call(_exits_and_entries(vcpu, 101))
    assert [exits(record) for record in under_test.records(vcpu)] == [{trap(HVC64): 3 + 3 + 101}]


def test_the_second_event_of_a_thread_needs_no_look_up_in_the_hash(machine: Callable[..., Machine]) -> None:
    under_test = machine(extra_source=_FORGET, extra_programs=("forget",))
    with one_cpu():
        vcpu = under_test.vcpu()
    vcpu.call(lambda: vcpu.entry(1_000))
    vcpu.call(lambda: _forget(vcpu))
    vcpu.call(_exits_and_entries(vcpu, 101))
    assert [exits(record) for record in under_test.records(vcpu)] == [{trap(HVC64): 101}]
