"""Programs are attached to this kernel's real tracepoints. If they cannot be attached, the error names the cause."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.collect.collector import Collector
from exporter.kernel import loader, program, syscall
from exporter.kernel.isa import registry
from exporter.kernel.tracepoint import parse_format
from exporter.model.reason import Space
from tests.support.kvm import run_interrupted
from tests.support.machine import exits
from tests.support.readable import PYTHON

Load = Callable[[program.LoadRequest], program.Loaded]


def here(**options: Any) -> program.LoadRequest:
    """A program of this host."""
    return program.LoadRequest(front="", defines={}, sysfs="/sys", slots=64, cells=64, **options)


@pytest.mark.kvm
def test_every_event_of_this_kernel_is_counted(loaded_now: Load) -> None:
    """A thread fires the kernel's kvm_userspace_exit event 1009 times and then ends."""
    loaded = loaded_now(here())
    assert loaded.attachments.keys() == set(program.events("counting", "x86"))
    collector = Collector(loaded, lambda: 0, 10**18)
    thread = threading.Thread(target=run_interrupted, args=(1009,))
    thread.start()
    thread.join()
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        pass
    snapshot = collector.collect()
    (record,) = (record for record in snapshot.vcpus if record.key.tid == thread.native_id)
    assert record.key.pid == os.getpid()
    assert record.comm == b"CPU 3/KVM"
    assert not record.alive
    assert exits(record) == {(Space.USERSPACE_ERRNO, errno.EINTR): 1009}
    assert snapshot.counters["unmatched_userspace_exit"] == 1009
    collector.close()


@pytest.mark.kvm
def test_bpf_stats_count_every_run_of_a_program(loaded_now: Load) -> None:
    loaded = loaded_now(here(bpf_stats=True))
    before = syscall.program_stats(loaded.programs["kvm_userspace_exit"])
    thread = threading.Thread(target=run_interrupted, args=(503,))
    thread.start()
    thread.join()
    after = syscall.program_stats(loaded.programs["kvm_userspace_exit"])
    assert after.runs - before.runs == 503
    assert after.seconds > before.seconds
    assert after.misses == 0


@pytest.mark.kvm
def test_closing_the_last_descriptor_detaches_the_program(loaded_now: Load) -> None:
    loaded = loaded_now(here(bpf_stats=True))
    held = os.dup(loaded.programs["kvm_userspace_exit"])
    stats = os.dup(loaded.attachments["stats"])
    loaded.close()
    try:
        before = syscall.program_stats(held).runs
        thread = threading.Thread(target=run_interrupted, args=(101,))
        thread.start()
        thread.join()
        assert syscall.program_stats(held).runs == before
    finally:
        os.close(held)
        os.close(stats)


def test_a_refused_attachment_names_the_tracepoint_and_the_cause() -> None:
    no_program = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(loader._BuildError) as caught:
            loader._attach_raw("kvm_exit", no_program)
    finally:
        os.close(no_program)
    assert str(caught.value) == "cannot attach to kvm:kvm_exit: Invalid argument"


def test_the_calling_process_loads_neither_bcc_nor_llvm(loaded_now: Load) -> None:
    loaded_now(program.LoadRequest(front="arm64", defines={}, slots=4, cells=4, attach=False))
    maps = Path("/proc/self/maps").read_text()
    assert "LLVM" not in maps
    assert "libbcc" not in maps


def test_a_compiler_error_is_reported_in_one_line(loaded_now: Load) -> None:
    with pytest.raises(program.LoadError) as caught:
        loaded_now(
            program.LoadRequest(front="arm64", defines={}, slots=4, cells=4, attach=False, extra_source="\nint x = ;")
        )
    assert "\n" not in str(caught.value)
    assert caught.value.what == "cannot compile the BPF program: expected expression"


def test_a_verifier_error_is_reported_in_one_line(loaded_now: Load) -> None:
    source = "\nint probe(u64 *ctx) { return *(u64 *)ctx[0]; }\n"
    with pytest.raises(program.LoadError) as caught:
        loaded_now(
            program.LoadRequest(
                front="arm64",
                defines={},
                slots=4,
                cells=4,
                attach=False,
                extra_source=source,
                extra_programs=("probe",),
            )
        )
    assert "\n" not in str(caught.value)
    assert caught.value.what == "the verifier refused the BPF program: R1 invalid mem access 'scalar'"


def test_missing_headers_are_reported_in_one_line(loaded_now: Load, tmp_path: Path) -> None:
    with pytest.raises(program.LoadError) as caught:
        loaded_now(
            program.LoadRequest(front="arm64", defines={}, slots=4, cells=4, attach=False, kernel_headers=str(tmp_path))
        )
    assert "\n" not in str(caught.value)
    assert "include/linux/kconfig.h" in caught.value.what
    assert caught.value.remedy == "set kernel_headers: builtin in the configuration"


def test_missing_privileges_are_reported_in_one_line(readable: Path) -> None:
    """The loader runs in a child process that is no longer root. Its error names the refused operation."""
    code = (
        "import os; from exporter.kernel import launcher, program\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: launcher.load(program.LoadRequest(front='arm64', defines={}, slots=4, cells=4, attach=False))\n"
        "except program.LoadError as error: print(error)\n"
    )
    said = subprocess.run([PYTHON, "-c", code], cwd=readable, capture_output=True, text=True, check=False)
    assert said.stderr == ""
    assert said.stdout == "the kernel refused the BPF map free_cells: Operation not permitted\n"


def test_an_unknown_architecture_is_refused() -> None:
    riscv = (
        'name: kvm_exit\nID: 1\nformat:\n\tfield:unsigned long sepc;\toffset:8;\tsize:8;\tsigned:0;\n\nprint fmt: "x"\n'
    )
    known = " nor ".join(f"{isa.name}'s" for isa in registry.ISAS)
    with pytest.raises(program.LoadError, match=f"neither {known} "):
        program.replay_request(parse_format(riscv), slots=1, cells=1)
