"""What the C files of each kind of program are, what they get from Python, and which front fits a kernel."""

from __future__ import annotations

import re

import pytest

from exporter.kernel import program
from exporter.kernel.tracepoint import RecordField, TracepointFormat
from exporter.model.buckets import BUCKETS
from tests.support.formats import read_format

KINDS = ("counting", "recording")


def test_every_c_file_is_part_of_a_program() -> None:
    texts = {text for kind in KINDS for text in program.read_sources(kind)}
    files = {path.read_text() for path in program.BPF.iterdir() if path.suffix in {".c", ".h"}}
    assert texts == files


def test_both_kinds_have_the_same_fronts() -> None:
    counting, recording = map(program.read_sources, KINDS)
    assert counting[: len(recording) - 1] == recording[:-1]


def test_numbers_that_python_and_c_share() -> None:
    assert program.DEFINES == {
        "SPACE_VMX": "1",
        "SPACE_SVM": "2",
        "SPACE_ARM64_TRAP": "3",
        "SPACE_ARM64_RET": "4",
        "SPACE_USERSPACE": "5",
        "SPACE_USERSPACE_ERRNO": "6",
        "NR_BUCKETS": "142",
        "SECOND_BUCKET": "92",
        "MIN_BUCKET_NS": "119ULL",
        "MAX_BUCKET_NS": "4096000000000ULL",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_c_files_do_not_repeat_the_bucket_scheme(kind: str) -> None:
    numbers = {int(number) for text in program.read_sources(kind) for number in re.findall(r"\b\d+\b", text)}
    assert not numbers & {BUCKETS, BUCKETS - 1, BUCKETS - 2, 92, 119, 4096000000000}


def test_the_front_that_fits() -> None:
    assert program.front_of(read_format("aarch64-6.1", "kvm_exit")) == ("arm64", {})
    assert program.front_of(read_format("aarch64-openeuler-5.10", "kvm_exit")) == ("arm64_openeuler", {})
    assert program.front_of(read_format("x86_64-svm-6.1", "kvm_exit")) == (
        "x86",
        {"EXIT_REASON_OFFSET": 8, "ISA_OFFSET": 24, "VCPU_ID_OFFSET": 56},
    )


def test_no_front_fits() -> None:
    fields = read_format("x86_64-6.18", "kvm_userspace_exit").fields
    with pytest.raises(program.LoadError) as caught:
        program.front_of(TracepointFormat("kvm_exit", fields, {}))
    assert caught.value.what == (
        "kvm:kvm_exit has a layout that is neither arm64's nor arm64_openeuler's nor x86's "
        "(name:offset:size of its fields: common_type:0:2, common_flags:2:1, common_preempt_count:3:1, "
        "common_pid:4:4, reason:8:4, errno:12:4)"
    )
    assert caught.value.remedy == "report it with the file events/kvm/kvm_exit/format"


def test_the_right_names_in_another_order_are_refused() -> None:
    """The raw tracepoint's arguments have the order of the fields: `esr_ec` would be counted as the return code."""
    fields = {
        name: RecordField(name, *place, False)
        for name, place in {"esr_ec": (8, 4), "ret": (12, 4), "vcpu_pc": (16, 8)}.items()
    }
    with pytest.raises(program.LoadError) as caught:
        program.front_of(TracepointFormat("kvm_exit", fields, {}))
    assert caught.value.what == (
        "kvm:kvm_exit has a layout that is neither arm64's nor arm64_openeuler's nor x86's "
        "(name:offset:size of its fields: esr_ec:8:4, ret:12:4, vcpu_pc:16:8)"
    )


def test_only_openeulers_front_has_the_tracepoint_of_traps() -> None:
    for kind in KINDS:
        assert program.events(kind, "arm64") == program.events(kind, "x86")
        assert [*program.events(kind, "arm64_openeuler")] == [
            *("kvm_exit", "kvm_trap_enter", "kvm_entry", "kvm_userspace_exit"),
            *("sched_process_exit", "sched_process_exec"),
        ]
        assert set(program.events(kind, "arm64_openeuler")) - set(program.events(kind, "arm64")) == {"kvm_trap_enter"}


def test_an_error_says_the_remedy_or_what_the_host_lacks() -> None:
    assert program.LoadError("refused", "do this", ["BTF: none"]).explained() == "refused; do this"
    assert program.LoadError("refused", "", ["BTF: none", "memlock: low"]).explained() == (
        "refused; BTF: none; memlock: low"
    )
