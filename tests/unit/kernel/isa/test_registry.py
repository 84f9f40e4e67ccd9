"""The list of instruction sets: what is in it fits together, and every code of five kernels is in it."""

from __future__ import annotations

import pytest

from exporter.kernel.isa import registry
from exporter.kernel.program import BPF
from exporter.model.reason import CLASSES, Space
from tests.support.formats import KERNELS, formats, reason_names

SPACES = (*registry.EXIT_SPACES, *registry.USERSPACE_SPACES)
CLASS_OF: dict[Space, dict[int, str]] = {space.space: space.classes() for space in SPACES}
EXIT_TABLES = {
    "REC->exit_reason & 0xffff": Space.VMX,
    "REC->exit_reason": Space.SVM,
    "REC->esr_ec": Space.ARM64_TRAP,
    "REC->ret": Space.ARM64_RET,
    "REC->reason": Space.USERSPACE,
}
OLDER_EXIT_TABLES = {"REC->exit_reason": Space.VMX, "REC->exit_reason #2": Space.SVM, "REC->reason": Space.USERSPACE}
"""Of x86 before Linux 5.8."""


def kernel_codes(kernel: str) -> list[tuple[Space, int, str]]:
    """All (space, stored code, kernel's name) of one kernel's tables."""
    spaces = OLDER_EXIT_TABLES if kernel == "x86_64-before-may-2020" else EXIT_TABLES
    return [
        (spaces[expression], code & 0xFFFFFFFF, name)
        for parsed in formats(kernel)
        for expression, table in parsed.symbols.items()
        if expression in spaces
        for code, name in table.items()
    ]


def exported(space: Space, code: int, name: str) -> str:
    if space == Space.ARM64_TRAP:
        return f"EC_{name}" if code else "UNKNOWN_EC"
    return name


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("source", ["kernel", "built-in"])
def test_every_code_of_every_kernel(kernel: str, source: str) -> None:
    reasons = reason_names(kernel if source == "kernel" else None)
    codes = kernel_codes(kernel)
    assert len(codes) >= (35 if kernel == "aarch64-openeuler-5.10" else 69)
    for space, code, name in codes:
        assert reasons.lookup(space, code).name == exported(space, code, name), (space, code)
        assert CLASS_OF[space][code] in CLASSES, (space, code)
        assert reasons.lookup(space, code).klass == CLASS_OF[space][code]


def test_each_code_has_one_name_and_one_class() -> None:
    assert sorted({klass for by_code in CLASS_OF.values() for klass in by_code.values()}) == sorted(CLASSES)
    assert {space.space: len(space.names()) for space in SPACES} == {
        Space.VMX: 66,
        Space.SVM: 116,
        Space.ARM64_TRAP: 45,
        Space.ARM64_RET: 5,
        Space.USERSPACE: 44,
        Space.USERSPACE_ERRNO: 1,
    }
    for space in SPACES:
        codes = [code for table in space.by_class.values() for code in table]
        assert len(codes) == len(set(codes))


def test_every_space_is_of_one_entry() -> None:
    assert sorted(space.space for space in SPACES) == sorted(Space)


def test_names_and_machines() -> None:
    assert {name: (isa.machines, isa.bpf_syscall, isa.classic) for name, isa in registry.BY_NAME.items()} == {
        "arm64": (("aarch64",), 280, False),
        "arm64_openeuler": ((), 280, False),
        "x86": (("x86_64",), 321, True),
    }
    assert {machine: isa.name for machine, isa in registry.BY_MACHINE.items()} == {"aarch64": "arm64", "x86_64": "x86"}


def test_each_front_is_a_file_that_its_macro_switches_on() -> None:
    for isa in registry.ISAS:
        lines = (BPF / isa.front).read_text().splitlines()
        assert f"#ifdef FRONT_{isa.name.upper()}" in lines
        assert lines[-1] == f"#endif /* FRONT_{isa.name.upper()} */"


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_captured_format_is_recognised(kernel: str) -> None:
    found = registry.recognise(formats(kernel)[0].fields)
    assert found
    if kernel == "aarch64-openeuler-5.10":
        assert (found[0].name, found[1]) == ("arm64_openeuler", {})
    else:
        assert kernel.partition("-")[0] in found[0].machines


def test_unknown_fields_are_not_recognised() -> None:
    assert registry.recognise(formats(KERNELS[0])[1].fields) is None
    assert registry.recognise({}) is None


def test_kvm_remedy() -> None:
    assert {machine: registry.kvm_remedy(machine) for machine in ("x86_64", "aarch64", "ppc64le")} == {
        "x86_64": "modprobe kvm_intel (Intel) or modprobe kvm_amd (AMD)",
        "aarch64": "arm64 has KVM built in: a kernel with CONFIG_KVM=y, booted at EL2",
        "ppc64le": "",
    }
