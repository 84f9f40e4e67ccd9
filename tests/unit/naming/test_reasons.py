"""No two exit codes share a name, with any tables of a kernel. The tests in kernel/isa check the names of each ISA."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.kernel.tracepoint import TracepointFormat
from exporter.model.reason import CLASSES, Reason, Space
from exporter.naming.reasons import ReasonNames
from tests.support.formats import KERNELS, reason_names

EXIT_TABLES = (
    *("REC->exit_reason & 0xffff", "REC->exit_reason", "REC->exit_reason #2"),
    *("REC->esr_ec", "REC->ret", "REC->reason"),
)
# The names of these spaces are in one metric. Therefore names must differ across these spaces too.
TOGETHER = [
    (Space.VMX,),
    (Space.SVM,),
    (Space.ARM64_TRAP, Space.ARM64_RET),
    (Space.USERSPACE, Space.USERSPACE_ERRNO),
    (98, 99),
]


@pytest.mark.parametrize("kernel", [None, *KERNELS])
def test_a_name_in_an_unknown_space_has_the_space_and_the_code(kernel: str | None) -> None:
    assert reason_names(kernel).lookup(99, 5) == Reason("UNKNOWN_ISA_99_0x5", "other")


def test_the_kernels_name_replaces_the_built_in_name() -> None:
    reasons = ReasonNames(TracepointFormat("kvm_exit", {}, {"REC->ret": {3: "ILLEGAL"}, "REC->esr_ec": {63: "NEW"}}))
    assert reasons.lookup(Space.ARM64_RET, 3) == Reason("ILLEGAL", "exception")
    assert reasons.lookup(Space.ARM64_RET, 0) == Reason("IRQ", "interrupt")
    assert reasons.lookup(Space.ARM64_TRAP, 63) == Reason("EC_NEW", "other")
    assert reasons.lookup(Space.ARM64_TRAP, 1) == Reason("EC_WFx", "idle")


def test_the_code_is_appended_to_a_name_that_a_table_repeats_or_imitates() -> None:
    symbols = {
        "REC->exit_reason & 0xffff": {
            1: "HLT",
            2: "HLT",
            3: "UNKNOWN_0x5",
            4: "A FAILED_VMENTRY",
            6: "A",
            8: "",
            9: "B_0xa",
        },
        "REC->ret": {0: "EC_WFx", 1: "UNKNOWN_EC"},
        "REC->exit_reason & ~0xffff": {
            1 << 16: "F",
            1 << 17: "F",
            0: "G",
            1: "H",
            1 << 18: "0x80000",
            1 << 19: "I J",
        },
    }
    reasons = ReasonNames(
        TracepointFormat("kvm_exit", {}, symbols),
        TracepointFormat("kvm_userspace_exit", {}, {"REC->reason": {1: "restart", 2: "error_EFAULT"}}),
    )
    vmx = {code: reasons.lookup(Space.VMX, code).name for code in (1, 2, 3, 4, 5, 6, 8, 9, 12, 0x80000006)}
    assert vmx == {
        1: "HLT",
        2: "HLT_0x2",
        3: "UNKNOWN_0x5_0x3",
        4: "A FAILED_VMENTRY_0x4",
        5: "UNKNOWN_0x5",
        6: "A",
        8: "UNKNOWN_0x8",
        9: "B_0xa_0x9",
        12: "HLT_0xc",
        0x80000006: "A FAILED_VMENTRY",
    }
    assert reasons.lookup(Space.VMX, 0xF0006).name == "A F 0xe0000"
    assert reasons.lookup(Space.ARM64_RET, 0).name == "UNKNOWN_RET_0x0"
    assert reasons.lookup(Space.ARM64_RET, 1).name == "UNKNOWN_EC_0x1"
    assert reasons.lookup(Space.USERSPACE, 1).name == "restart_0x1"
    assert reasons.lookup(Space.USERSPACE, 2).name == "error_EFAULT_0x2"


@pytest.mark.parametrize("kernel", [None, *KERNELS])
def test_small_codes_never_share_a_name(kernel: str | None) -> None:
    reasons = reason_names(kernel)
    codes = [*range(2048), *range(0x80000000, 0x80000030), *range(0x8000FF00, 0x80010000), 0xFFFFFFFF]
    for spaces in TOGETHER:
        names = [reasons.lookup(space, code).name for space in spaces for code in codes]
        assert len(names) == len(set(names))


NAMES = st.sampled_from(
    [
        "A",
        "B",
        "A B",
        "UNKNOWN_0x1",
        "UNKNOWN_RET_0x1",
        "A_0x1",
        "A 0x10000",
        "F",
        "A F",
        "0x10000",
        "EC_A",
        "_0x2",
        "",
    ]
) | st.text(max_size=6)
SMALL = st.integers(0, 4) | st.sampled_from([0x10000, 0x10001, 0x30001, 0x20002, -1, 0xFFFFFFFF, 1 << 32, 1 << 63])
TABLE = st.dictionaries(SMALL | st.integers(-(1 << 63), 1 << 64), NAMES, max_size=8)


@settings(max_examples=400)
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys((*EXIT_TABLES, "REC->exit_reason & ~0xffff"), TABLE)),
    st.sets(SMALL | st.integers(0, (1 << 64) - 1), min_size=2, max_size=30),
)
def test_no_table_makes_two_codes_share_a_name(symbols: dict[str, dict[int, str]], codes: set[int]) -> None:
    parsed = TracepointFormat("x", {}, symbols)
    reasons = ReasonNames(parsed, parsed)
    codes = {code & 0xFFFFFFFFFFFFFFFF for code in codes}
    for spaces in TOGETHER:
        names = [reasons.lookup(space, code).name for space in spaces for code in codes]
        assert len(names) == len(set(names))
        assert all(names)


def test_a_name_with_the_prefix_of_another_space_is_not_used() -> None:
    """If it were used, it would be the second name of the trap: a repeated name gets its code."""
    symbols = {"REC->ret": {5: "EC_A"}, "REC->esr_ec": {0x10000: "A", 5: "A"}}
    reasons = ReasonNames(TracepointFormat("x", {}, symbols))
    codes = ((Space.ARM64_RET, 5), (Space.ARM64_TRAP, 5), (Space.ARM64_TRAP, 0x10000))
    found = [reasons.lookup(space, code).name for space, code in codes]
    assert found == ["UNKNOWN_RET_0x5", "EC_A_0x5", "EC_A"]


@given(st.integers(), st.integers())
def test_every_code_has_a_name_and_the_name_does_not_change(space: int, code: int) -> None:
    reasons = ReasonNames()
    first = reasons.lookup(space, code)
    assert first.name
    assert first.klass in CLASSES
    assert reasons.lookup(space, code) is first
    assert ReasonNames().lookup(space, code) == first
