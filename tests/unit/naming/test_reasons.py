"""exporter.reasons.names and .tables: every code of five kernels, and what no kernel names."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.kernel.isa import tables
from exporter.kernel.tracepoint import TracepointFormat, parse_format
from exporter.model.reason import Reason, Space
from exporter.naming.reasons import ReasonNames
from tests.support.paths import FORMATS

KERNELS = sorted(path.name for path in FORMATS.iterdir())
EXIT_TABLES = {
    "REC->exit_reason & 0xffff": Space.VMX,
    "REC->exit_reason": Space.SVM,
    "REC->esr_ec": Space.ARM64_TRAP,
    "REC->ret": Space.ARM64_RET,
    "REC->reason": Space.USERSPACE,
}
#: Spaces that share a metric, so that their names must differ across spaces as well.
TOGETHER = [
    (Space.VMX,),
    (Space.SVM,),
    (Space.ARM64_TRAP, Space.ARM64_RET),
    (Space.USERSPACE, Space.USERSPACE_ERRNO),
    (7, 8),
]


def formats(kernel: str) -> tuple[TracepointFormat, TracepointFormat]:
    folder = FORMATS / kernel
    return (
        parse_format((folder / "kvm_exit.format").read_text()),
        parse_format((folder / "kvm_userspace_exit.format").read_text()),
    )


def kernel_codes(kernel: str) -> list[tuple[Space, int, str]]:
    """All (space, stored code, kernel's name) of one kernel's tables."""
    return [
        (EXIT_TABLES[expression], code & 0xFFFFFFFF, name)
        for parsed in formats(kernel)
        for expression, table in parsed.symbols.items()
        if expression in EXIT_TABLES
        for code, name in table.items()
    ]


def exported(space: Space, code: int, name: str) -> str:
    if space == Space.ARM64_TRAP:
        return f"EC_{name}" if code else "UNKNOWN_EC"
    return name


def test_space_numbers() -> None:
    assert [(space.name, space.value) for space in Space] == [
        ("VMX", 1),
        ("SVM", 2),
        ("ARM64_TRAP", 3),
        ("ARM64_RET", 4),
        ("USERSPACE", 5),
        ("USERSPACE_ERRNO", 6),
    ]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("source", ["kernel", "built-in"])
def test_every_code_of_every_kernel(kernel: str, source: str) -> None:
    reasons = ReasonNames(*formats(kernel)) if source == "kernel" else ReasonNames()
    codes = kernel_codes(kernel)
    assert len(codes) >= 69
    for space, code, name in codes:
        assert reasons.lookup(space, code).name == exported(space, code, name), (space, code)
        assert tables.CLASS_OF[space][code] in tables.CLASSES, (space, code)
        assert reasons.lookup(space, code).klass == tables.CLASS_OF[space][code]


def test_tables_name_and_class_each_code_once() -> None:
    assert sorted({klass for by_code in tables.CLASS_OF.values() for klass in by_code.values()}) == sorted(
        tables.CLASSES
    )
    assert {space: len(names) for space, names in tables.NAMES.items()} == {
        Space.VMX: 66,
        Space.SVM: 116,
        Space.ARM64_TRAP: 45,
        Space.ARM64_RET: 5,
        Space.USERSPACE: 44,
        Space.USERSPACE_ERRNO: 1,
    }
    for by_class in tables._BY_CLASS.values():
        codes = [code for table in by_class.values() for code in table]
        assert len(codes) == len(set(codes))
    assert sorted(tables.NAMES[Space.USERSPACE]) == list(range(44))


@pytest.mark.parametrize("kernel", [None, *KERNELS])
def test_the_same_on_every_kernel(kernel: str | None) -> None:
    reasons = ReasonNames(*formats(kernel)) if kernel else ReasonNames()
    for space, code, expected in [
        (Space.ARM64_TRAP, 0x01, Reason("EC_WFx", "idle")),
        (Space.ARM64_TRAP, 0x24, Reason("EC_DABT_LOW", "mmio")),
        (Space.ARM64_TRAP, 0x20, Reason("EC_IABT_LOW", "fault")),
        (Space.ARM64_TRAP, 0x18, Reason("EC_SYS64", "sysreg")),
        (Space.ARM64_TRAP, 0x16, Reason("EC_HVC64", "hypercall")),
        (Space.ARM64_TRAP, 0x2F, Reason("EC_SERROR", "exception")),
        (Space.ARM64_TRAP, 0x1A, Reason("EC_ERET", "other")),
        (Space.ARM64_TRAP, 0x00, Reason("UNKNOWN_EC", "other")),
        (Space.ARM64_TRAP, 0x3F, Reason("UNKNOWN_0x3f", "other")),
        (Space.ARM64_RET, 0, Reason("IRQ", "interrupt")),
        (Space.ARM64_RET, 1, Reason("SERROR", "exception")),
        (Space.ARM64_RET, 3, Reason("IL", "exception")),
        (Space.ARM64_RET, 0xBADCA11, Reason("HYP_GONE", "other")),
        (Space.ARM64_RET, 0x3F, Reason("UNKNOWN_RET_0x3f", "other")),
        (Space.VMX, 0, Reason("EXCEPTION_NMI", "exception")),
        (Space.VMX, 12, Reason("HLT", "idle")),
        (Space.VMX, 30, Reason("IO_INSTRUCTION", "pio")),
        (Space.VMX, 48, Reason("EPT_VIOLATION", "fault")),
        (Space.VMX, 49, Reason("EPT_MISCONFIG", "mmio")),
        (Space.VMX, 17, Reason("UNKNOWN_0x11", "other")),
        (Space.VMX, 0x80000021, Reason("INVALID_STATE FAILED_VMENTRY", "other")),
        (Space.VMX, 0x04000030, Reason("EPT_VIOLATION 0x4000000", "fault")),
        (Space.VMX, 0x84000021, Reason("INVALID_STATE FAILED_VMENTRY 0x4000000", "other")),
        (Space.VMX, 0x80000011, Reason("UNKNOWN_0x11 FAILED_VMENTRY", "other")),
        (Space.VMX, 0x100000001, Reason("EXTERNAL_INTERRUPT 0x100000000", "interrupt")),
        (Space.SVM, 0x60, Reason("interrupt", "interrupt")),
        (Space.SVM, 0x7B, Reason("io", "pio")),
        (Space.SVM, 0x400, Reason("npf", "fault")),
        (Space.SVM, 0x4E, Reason("PF excp", "exception")),
        (Space.SVM, 0xA6, Reason("idle-halt", "idle")),
        (Space.SVM, 0xFFFFFFFF, Reason("invalid_guest_state", "other")),
        (Space.SVM, 0xFFFFFFFFFFFFFFFF, Reason("UNKNOWN_0xffffffffffffffff", "other")),
        (Space.SVM, 0xDEAD, Reason("UNKNOWN_0xdead", "other")),
        (Space.USERSPACE, 6, Reason("KVM_EXIT_MMIO", "mmio")),
        (Space.USERSPACE, 0, Reason("KVM_EXIT_UNKNOWN", "other")),
        (Space.USERSPACE, 24, Reason("KVM_EXIT_SYSTEM_EVENT", "hypercall")),
        (Space.USERSPACE, 39, Reason("KVM_EXIT_MEMORY_FAULT", "fault")),
        (Space.USERSPACE, 99, Reason("UNKNOWN_0x63", "other")),
        (Space.USERSPACE_ERRNO, errno.EINTR, Reason("restart", "interrupt")),
        (Space.USERSPACE_ERRNO, errno.EFAULT, Reason("error_EFAULT", "other")),
        (Space.USERSPACE_ERRNO, 524, Reason("error_524", "other")),
        (9, 5, Reason("UNKNOWN_ISA_9_0x5", "other")),
    ]:
        assert reasons.lookup(space, code) == expected


def test_kernels_name_wins_over_the_built_in_one() -> None:
    reasons = ReasonNames(TracepointFormat("kvm_exit", {}, {"REC->ret": {3: "ILLEGAL"}, "REC->esr_ec": {63: "NEW"}}))
    assert reasons.lookup(Space.ARM64_RET, 3) == Reason("ILLEGAL", "exception")
    assert reasons.lookup(Space.ARM64_RET, 0) == Reason("IRQ", "interrupt")
    assert reasons.lookup(Space.ARM64_TRAP, 63) == Reason("EC_NEW", "other")
    assert reasons.lookup(Space.ARM64_TRAP, 1) == Reason("EC_WFx", "idle")


def test_tables_that_repeat_or_imitate_names() -> None:
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
    assert reasons.lookup(Space.ARM64_RET, 0).name == "EC_WFx_0x0"
    assert reasons.lookup(Space.ARM64_RET, 1).name == "UNKNOWN_EC_0x1"
    assert reasons.lookup(Space.USERSPACE, 1).name == "restart_0x1"
    assert reasons.lookup(Space.USERSPACE, 2).name == "error_EFAULT_0x2"


@pytest.mark.parametrize("kernel", [None, *KERNELS])
def test_small_codes_never_share_a_name(kernel: str | None) -> None:
    reasons = ReasonNames(*formats(kernel)) if kernel else ReasonNames()
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


@settings(deadline=None, max_examples=400)
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


@given(st.integers(), st.integers())
def test_lookup_is_total_and_repeatable(space: int, code: int) -> None:
    reasons = ReasonNames()
    first = reasons.lookup(space, code)
    assert first.name
    assert first.klass in tables.CLASSES
    assert reasons.lookup(space, code) is first
    assert ReasonNames().lookup(space, code) == first
