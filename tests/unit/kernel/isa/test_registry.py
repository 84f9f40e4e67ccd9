"""The entries in the registry of instruction sets do not contradict each other.

The registry has every code of five kernels.
"""

from __future__ import annotations

import pytest

from exporter.kernel.isa import registry
from exporter.kernel.program import BPF
from exporter.model.reason import CLASSES, Space
from tests.support.formats import KERNELS, formats, reason_names

SPACES = (*registry.EXIT_SPACES, *registry.USERSPACE_SPACES)
CLASS_OF: dict[Space, dict[int, str]] = {space.space: space.classes() for space in SPACES}
# The kernel's tables of names, by their expression in the print fmt. The older ones are those of x86 before Linux 5.8.
EXIT_TABLES = {space.table: space.space for space in SPACES if space.table}
OLDER_EXIT_TABLES = {space.older.table: space.space for space in SPACES if space.older}
# openEuler's table of classes is in kvm_trap_enter. riscv64 has no table in kvm_exit. All others have 69 codes or more.
LEAST_CODES = {"aarch64-openeuler-5.10": 35, "riscv64-6.12": 31, "riscv64-7.2": 31}


def kernel_codes(kernel: str) -> list[tuple[Space, int, str]]:
    """Return (space, stored code, kernel's name) for each code in the tables of one kernel."""
    older = any(space.older and space.older.mark in parsed.symbols for space in SPACES for parsed in formats(kernel))
    spaces = {**EXIT_TABLES, **OLDER_EXIT_TABLES} if older else EXIT_TABLES
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
def test_every_code_of_every_kernel_has_a_name_and_a_class(kernel: str, source: str) -> None:
    reasons = reason_names(kernel if source == "kernel" else None)
    codes = kernel_codes(kernel)
    assert len(codes) >= LEAST_CODES.get(kernel, 69)
    for space, code, name in codes:
        assert reasons.lookup(space, code).name == exported(space, code, name), (space, code)
        assert CLASS_OF[space][code] in CLASSES, (space, code)
        assert reasons.lookup(space, code).klass == CLASS_OF[space][code]


def test_each_code_has_one_name_and_one_class() -> None:
    assert sorted({klass for by_code in CLASS_OF.values() for klass in by_code.values()}) == sorted(CLASSES)
    for space in SPACES:
        codes = [code for table in space.by_class.values() for code in table]
        assert len(codes) == len(set(codes))


def test_every_space_belongs_to_one_entry() -> None:
    assert sorted(space.space for space in SPACES) == sorted(Space)


def test_each_machine_belongs_to_one_entry() -> None:
    machines = [machine for isa in registry.ISAS for machine in isa.machines]
    assert len(machines) == len(set(machines))


def test_each_front_is_a_file_that_is_enabled_by_its_macro() -> None:
    for isa in registry.ISAS:
        lines = (BPF / isa.front).read_text().splitlines()
        assert f"#ifdef FRONT_{isa.name.upper()}" in lines
        assert lines[-1] == f"#endif /* FRONT_{isa.name.upper()} */"


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_captured_format_is_recognised(kernel: str) -> None:
    found = registry.recognise(formats(kernel)[0].fields)
    assert found
    if kernel == "aarch64-openeuler-5.10":
        assert found.name == "arm64_openeuler"
    else:
        assert kernel.partition("-")[0] in found.machines


def test_formats_with_unknown_fields_are_not_recognised() -> None:
    assert registry.recognise(formats(KERNELS[0])[1].fields) is None
    assert registry.recognise({}) is None


def test_the_remedy_for_missing_kvm_depends_on_the_machine() -> None:
    assert {machine: registry.kvm_remedy(machine) for machine in ("x86_64", "aarch64", "riscv64", "ppc64le")} == {
        "x86_64": "modprobe kvm_intel (Intel) or modprobe kvm_amd (AMD)",
        "aarch64": "arm64 has KVM built in: a kernel with CONFIG_KVM=y, booted at EL2",
        "riscv64": "modprobe kvm, on Linux 6.11 or newer",
        "ppc64le": "",
    }
