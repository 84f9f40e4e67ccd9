"""x86's kvm_exit: each form in which its front reads an exit, and the events that perf sees beside our programs."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exporter.config.options import Config
from exporter.kernel import host, program, syscall
from exporter.kernel.btf import BtfError, KernelBtf
from exporter.kernel.syscall import TestRun
from exporter.model.reason import Space
from exporter.recording.events import NO_VCPU_ID
from tests.support import btf as make
from tests.support.btf import BtfFile
from tests.support.kernel_memory import MEMORY, MEMORY_PROGRAMS, Memory
from tests.support.kvm import run_interrupted
from tests.support.machine import Machine, Vcpu, durations, exits, histogram
from tests.support.perf import PerfCounter

Load = Callable[[program.LoadRequest], program.Loaded]
Machines = Callable[..., Machine]

VCPU_ID, REASON, VMCB, EXIT_CODE = 0x24, 0x340, 0x480, 0x70
WITH_REASON = {"REASON_ARG": 0, "VCPU_ARG": 1, "ISA_ARG": 2, "KVM_VCPU_ID": VCPU_ID}
VMX = {"VCPU_ARG": 0, "ISA_ARG": 1, "KVM_VCPU_ID": VCPU_ID, "VMX_EXIT_REASON": REASON}
SVM = {"VCPU_ARG": 0, "ISA_ARG": 1, "KVM_VCPU_ID": VCPU_ID, "SVM_VMCB": VMCB, "SVM_EXIT_CODE": EXIT_CODE}
CLASSIC = {"EXIT_REASON_OFFSET": 8, "ISA_OFFSET": 24, "VCPU_ID_OFFSET": 56}
UNREAD = 2**64 - 1

FILTERS = """
int drops(void *ctx) { return 0; }
int passes(void *ctx) { return 1; }
"""


def _words(offset: int, value: int) -> tuple[int, int]:
    """The aligned word for a number of four bytes at an offset."""
    return (offset, value) if offset % 8 == 0 else (offset - 4, value << 32)


@pytest.mark.parametrize(
    ("defines", "isa", "code"),
    [
        (WITH_REASON, Space.VMX, 48),
        (WITH_REASON, Space.SVM, 0x400),
        (VMX, Space.VMX, 0x80000021),
        (SVM, Space.SVM, 0x7B),
    ],
    ids=["argument, VMX", "argument, SVM", "structure of VMX", "VMCB of SVM"],
)
def test_each_raw_form_counts_the_reason_and_finds_the_vcpu(
    machine: Machines, defines: dict[str, int], isa: int, code: int
) -> None:
    under_test = machine("x86", defines=defines, extra_source=MEMORY, extra_programs=MEMORY_PROGRAMS)
    memory = Memory(under_test.loaded)
    memory.put(*_words(VCPU_ID, 61))
    memory.put(*_words(REASON, code))
    memory.put(VMCB, memory.address + 4096)
    memory.put(4096 + EXIT_CODE, code | 0xFFFFFFFF << 32)  # exit_code_hi, the upper half of newer kernels' exit_code
    arguments = (code, memory.address, isa) if "REASON_ARG" in defines else (memory.address, isa)
    vcpu = under_test.vcpu()

    def play() -> None:
        for number in range(53):
            vcpu.run("kvm_exit", 1000 * number + 10, *arguments)
            vcpu.entry(1000 * number + 500)

    vcpu.call(play)
    record = under_test.record(vcpu)
    assert exits(record) == {(isa, code): 53}
    assert record.vcpu_id == 61


def _exit(vcpu: Vcpu, address: int) -> None:
    vcpu.run("kvm_exit", 10, address, Space.VMX)


def test_the_id_of_a_vcpu_is_read_once(machine: Machines) -> None:
    """The first exit cannot read the id, the second can. No later exit reads it again."""
    under_test = machine("x86", defines=VMX, extra_source=MEMORY, extra_programs=MEMORY_PROGRAMS)
    memory = Memory(under_test.loaded)
    memory.put(*_words(REASON, 12))
    vcpu = under_test.vcpu()
    vcpu.call(lambda: _exit(vcpu, 0))
    assert under_test.record(vcpu).vcpu_id is None
    for vcpu_id in (61, 67):
        memory.put(*_words(VCPU_ID, vcpu_id))
        vcpu.call(lambda: _exit(vcpu, memory.address))
        assert under_test.record(vcpu).vcpu_id == 61
    assert exits(under_test.record(vcpu)) == {(Space.VMX, UNREAD): 1, (Space.VMX, 12): 2}


@pytest.mark.parametrize("defines", [VMX, SVM], ids=["VMX", "SVM"])
def test_an_exit_that_cannot_be_read_is_counted(machine: Machines, defines: dict[str, int]) -> None:
    """A bad address, or the instruction set of the other vendor: a code that no exit has, and no vCPU id."""
    under_test = machine("x86", defines=defines)
    vcpu = under_test.vcpu()

    def play() -> None:
        for isa, times in ((Space.VMX, 7), (Space.SVM, 11)):
            for _ in range(times):
                vcpu.run("kvm_exit", 10, 0, isa)

    vcpu.call(play)
    record = under_test.record(vcpu)
    assert exits(record) == {(Space.VMX, UNREAD): 7, (Space.SVM, UNREAD): 11}
    assert record.vcpu_id is None


@pytest.mark.parametrize(("defines", "isa"), [(VMX, Space.SVM), (SVM, Space.VMX)], ids=["VMX", "SVM"])
def test_the_structure_of_the_other_vendor_is_not_read(machine: Machines, defines: dict[str, int], isa: int) -> None:
    under_test = machine("x86", defines=defines, extra_source=MEMORY, extra_programs=MEMORY_PROGRAMS)
    memory = Memory(under_test.loaded)
    memory.put(*_words(REASON, 48))
    memory.put(VMCB, memory.address + 4096)
    memory.put(4096 + EXIT_CODE, 48)
    vcpu = under_test.vcpu()
    for _ in range(7):
        vcpu.call(partial(vcpu.run, "kvm_exit", 10, memory.address, isa))
    assert exits(under_test.record(vcpu)) == {(isa, UNREAD): 7}


def test_without_btf_there_is_no_vcpu_id(machine: Machines) -> None:
    """Linux up to 5.15."""
    under_test = machine("x86", defines={"REASON_ARG": 0, "VCPU_ARG": 1, "ISA_ARG": 2})
    vcpu = under_test.vcpu()

    def play() -> None:
        for _ in range(19):
            vcpu.run("kvm_exit", 10, 12, 0xFFFF800012345678, Space.VMX)

    vcpu.call(play)
    record = under_test.record(vcpu)
    assert exits(record) == {(Space.VMX, 12): 19}
    assert record.vcpu_id is None


@pytest.mark.parametrize("vcpu_id", [0, 5, NO_VCPU_ID])
def test_a_replay_passes_everything(machine: Machines, vcpu_id: int) -> None:
    under_test = machine("x86")
    vcpu = under_test.vcpu()
    for code in (0x400, UNREAD, 0x400):
        vcpu.call(partial(vcpu.x86_exit, 10, Space.SVM, code, vcpu_id))
    record = under_test.record(vcpu)
    assert exits(record) == {(Space.SVM, 0x400): 2, (Space.SVM, UNREAD): 1}
    assert record.vcpu_id == (None if vcpu_id == NO_VCPU_ID else vcpu_id)


def test_a_vcpu_id_stays_if_a_later_exit_has_none(machine: Machines) -> None:
    """The structure of the vCPU could not be read once."""
    under_test = machine("x86")
    vcpu = under_test.vcpu()
    for vcpu_id in (61, NO_VCPU_ID):
        vcpu.call(partial(vcpu.x86_exit, 10, Space.VMX, 12, vcpu_id))
        assert under_test.record(vcpu).vcpu_id == 61


def _interrupted(times: int) -> None:
    thread = threading.Thread(target=run_interrupted, args=(times,))
    thread.start()
    thread.join()


@pytest.mark.kvm
@pytest.mark.parametrize(("filter_program", "seen"), [("drops", 0), ("passes", 101)])
def test_a_program_on_a_classic_tracepoint_is_a_filter_of_perf(
    loaded_now: Load, filter_program: str, seen: int
) -> None:
    """The kernel's rule for which kvm_exit_classic returns 1. Both programs run at each event."""
    request = program.LoadRequest(
        front="arm64", defines={}, slots=1, cells=1, attach=False, bpf_stats=True,
        extra_source=FILTERS, extra_programs=("drops", "passes"), extra_classic=True,
    )  # fmt: skip
    loaded = loaded_now(request)
    attached = loaded.programs[filter_program]
    with ExitStack() as opened:
        perf = opened.enter_context(PerfCounter("kvm/kvm_userspace_exit"))
        event = int(Path("/sys/kernel/tracing/events/kvm/kvm_userspace_exit/id").read_text())
        opened.callback(os.close, syscall.attach_classic(attached, event))
        before = syscall.program_stats(attached).runs
        _interrupted(101)
        assert syscall.program_stats(attached).runs - before == 101
        assert perf.count() == seen


def _is_perf_event(fd: int) -> bool:
    """True for an attachment to a classic tracepoint; False for one to a raw tracepoint."""
    target = os.readlink(f"/proc/self/fd/{fd}")
    assert target in ("anon_inode:[perf_event]", "anon_inode:bpf_link")
    return target == "anon_inode:[perf_event]"


def fake_sysfs(folder: Path, *, reason: bool) -> Path:
    """The real tracefs, and a BTF by which kvm_exit passes the reason or not."""
    (folder / "kernel").mkdir(parents=True)
    (folder / "kernel/tracing").symlink_to("/sys/kernel/tracing")
    vmlinux = BtfFile()
    u32, u64 = vmlinux.integer("unsigned int", 4), vmlinux.integer("unsigned long", 8)
    vcpu = vmlinux.struct("kvm_vcpu", 64, {"vcpu_id": (u32, VCPU_ID * 8)})
    vmlinux.tracepoint("kvm_exit", *([u32] if reason else []), vmlinux.pointer(vcpu), u32)
    control = vmlinux.struct("vmcb_control_area", 1024, {"exit_code": (u64, EXIT_CODE * 8)})
    vmcb = vmlinux.struct("vmcb", 4096, {"control": (control, 0)})
    vmlinux.struct("vcpu_svm", 4096, {"vcpu": (vcpu, 0), "vmcb": (vmlinux.pointer(vmcb), VMCB * 8)})
    make.write(folder, vmlinux=vmlinux)
    make.load_module(folder, "kvm_amd")
    return folder


def _request(kind: str, sysfs: Path) -> program.LoadRequest:
    if kind == "counting":
        return host.host_request(Config(), sysfs)
    ring: dict[str, Any] = {"RING_BYTES": 1 << 20}
    return program.LoadRequest(front="", defines=ring, sysfs=str(sysfs), kind=kind, slots=64, cells=0)


on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="only the kvm_exit of x86 is read with BTF")


@pytest.mark.kvm
@on_x86
@pytest.mark.parametrize("kind", ["counting", "recording"])
def test_the_raw_tracepoint_is_attached_where_btf_allows_it(loaded_now: Load, tmp_path: Path, kind: str) -> None:
    """This kernel loads and attaches the program with the offsets of the BTF, and perf sees all events beside it."""
    _needs_two_arguments()
    loaded = loaded_now(_request(kind, fake_sysfs(tmp_path, reason=False)))
    assert (loaded.classic_reason, loaded.vcpu_ids) == ("", True)
    assert [name for name, fd in loaded.attachments.items() if _is_perf_event(fd)] == []
    with PerfCounter("kvm/kvm_userspace_exit") as perf:
        _interrupted(103)
        assert perf.count() == 103


@pytest.mark.kvm
@on_x86
@pytest.mark.parametrize("kind", ["counting", "recording"])
def test_the_kernel_refuses_an_argument_that_it_does_not_have(loaded_now: Load, tmp_path: Path, kind: str) -> None:
    """So a wrong form is never attached. The classic tracepoint is, on a perf event that is disabled."""
    _needs_two_arguments()
    loaded = loaded_now(_request(kind, fake_sysfs(tmp_path, reason=True)))
    assert (loaded.classic_reason, loaded.vcpu_ids) == ("cannot attach to kvm:kvm_exit: Invalid argument", True)
    assert [name for name, fd in loaded.attachments.items() if _is_perf_event(fd)] == ["kvm_exit"]


REFUSED: dict[str, Any] = {"bpf_probe_read_kernel(to,size,from)": "bpf_redirect(0, 0)"}
"""The program calls a helper that only programs of the network have. In lockdown mode `confidentiality` the kernel
refuses the real helper in the same way, when the program is loaded (bpf_tracing_func_proto(),
kernel/trace/bpf_trace.c)."""


@pytest.mark.kvm
@on_x86
@pytest.mark.parametrize("kind", ["counting", "recording"])
def test_the_classic_tracepoint_is_attached_where_the_kernel_refuses_to_read_its_memory(
    loaded_now: Load, tmp_path: Path, kind: str
) -> None:
    _needs_two_arguments()
    request = _request(kind, fake_sysfs(tmp_path, reason=False))
    loaded = loaded_now(replace(request, defines={**request.defines, **REFUSED}))
    assert (loaded.classic_reason, loaded.vcpu_ids) == ("the kernel refused the BPF program kvm_exit", True)
    assert [name for name, fd in loaded.attachments.items() if _is_perf_event(fd)] == ["kvm_exit"]
    with PerfCounter("kvm/kvm_userspace_exit") as perf:
        _interrupted(109)
        assert perf.count() == 109


@pytest.mark.kvm
@pytest.mark.parametrize("kind", ["counting", "recording"])
def test_perf_sees_every_event_beside_the_programs_of_this_host(loaded_now: Load, kind: str) -> None:
    loaded = loaded_now(_request(kind, Path("/sys")))
    assert set(loaded.attachments) == set(program.events(kind, "x86"))
    classic = [name for name, fd in loaded.attachments.items() if _is_perf_event(fd)]
    assert classic == (["kvm_exit"] if loaded.classic_reason else [])
    with PerfCounter("kvm/kvm_userspace_exit") as perf:
        _interrupted(107)
        assert perf.count() == 107


def _needs_two_arguments() -> None:
    """Skip the test unless this kernel's kvm_exit has two arguments, as since Linux 5.16.

    The test gives the kernel a program for two arguments or for three. On an older kernel, or without BTF, this kernel
    would accept the other one.
    """
    try:
        arguments = KernelBtf(Path("/sys")).of("kvm").tracepoint_arguments("kvm_exit")
    except BtfError as error:
        pytest.skip(f"BTF: {error}")
    if len(arguments) != 2:
        pytest.skip(f"kvm_exit has the arguments {arguments}")


def test_the_classic_form_is_a_filter_that_passes_everything(loaded_now: Load) -> None:
    """Run as a raw program with the record in its context, it counts, and returns 1."""
    request = program.LoadRequest(
        front="x86", defines={**CLASSIC, "ISA_ARG": 0, "REASON_ARG": 0}, slots=4, cells=4, attach=False,
        clock_in_context=True, extra_programs=("kvm_exit_classic",),
    )  # fmt: skip
    assert TestRun(loaded_now(request).programs["kvm_exit_classic"])(bytes(96)) == 1


def test_the_classic_form_counts_the_fields_of_the_record(machine: Machines) -> None:
    """The record is in the context of a raw program."""
    defines = {**CLASSIC, "ISA_ARG": 0, "REASON_ARG": 0}
    under_test = machine("x86", defines=defines, extra_programs=("kvm_exit_classic",))
    vcpu = under_test.vcpu()
    code, others = 0x80000021, 0xFFFFFFFF << 32

    def play() -> None:
        for number in range(53):
            record = [UNREAD] * 8  # bytes beside the fields are not 0
            record[1], record[3], record[7] = code | others, Space.SVM | others, 61 | others
            vcpu.run("kvm_exit_classic", 1000 * number + 10, *record)
            vcpu.entry(1000 * number + 500)

    vcpu.call(play)
    found = under_test.record(vcpu)
    assert exits(found) == {(Space.SVM, code): 53}
    assert durations(found) == {(Space.SVM, code): (histogram([490] * 53), 53 * 490)}
    assert found.vcpu_id == 61
