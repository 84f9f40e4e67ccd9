"""Each kind of program has its C files, the numbers that Python passes to them, and a front that fits the kernel."""

from __future__ import annotations

import re

import pytest

from exporter.kernel import program
from exporter.kernel.isa import registry
from exporter.kernel.tracepoint import RecordField, TracepointFormat
from exporter.model.buckets import BUCKETS
from exporter.model.reason import Space
from tests.support.formats import read_format

KINDS = ("counting", "recording")


def test_every_c_file_is_part_of_a_program() -> None:
    texts = {text for kind in KINDS for text in program.read_sources(kind)}
    files = {path.read_text() for path in program.BPF.iterdir() if path.suffix in {".c", ".h"}}
    assert texts == files


def test_both_kinds_have_the_same_fronts() -> None:
    counting, recording = map(program.read_sources, KINDS)
    assert counting[: len(recording) - 1] == recording[:-1]


def test_python_passes_exactly_these_numbers_to_the_c_files() -> None:
    assert {
        **{f"SPACE_{space.name}": str(space.value) for space in Space},
        "NR_BUCKETS": "142",
        "SECOND_BUCKET": "92",
        "MIN_BUCKET_NS": "119ULL",
        "MAX_BUCKET_NS": "4096000000000ULL",
    } == program.DEFINES


@pytest.mark.parametrize("kind", KINDS)
def test_the_c_files_do_not_repeat_the_numbers_of_the_bucket_scheme(kind: str) -> None:
    numbers = {int(number) for text in program.read_sources(kind) for number in re.findall(r"\b\d+\b", text)}
    assert not numbers & {BUCKETS, BUCKETS - 1, BUCKETS - 2, 92, 119, 4096000000000}


def test_the_front_is_chosen_by_the_fields_of_kvm_exit() -> None:
    for kernel, name in (
        *(("aarch64-6.1", "arm64"), ("aarch64-openeuler-5.10", "arm64_openeuler")),
        ("x86_64-svm-6.1", "x86"),
    ):
        kvm_exit = read_format(kernel, "kvm_exit")
        isa = program.isa_of(kvm_exit)
        assert isa.name == name
        assert program.replay_request(kvm_exit, slots=1, cells=2) == program.LoadRequest(
            front=name, defines=isa.replay_defines, slots=1, cells=2, attach=False, clock_in_context=True
        )


def test_an_unknown_layout_of_kvm_exit_is_an_error() -> None:
    fields = read_format("x86_64-6.18", "kvm_userspace_exit").fields
    known = " nor ".join(f"{isa.name}'s" for isa in registry.ISAS)
    with pytest.raises(program.LoadError) as caught:
        program.isa_of(TracepointFormat("kvm_exit", fields, {}))
    assert caught.value.what == (
        f"kvm:kvm_exit has a layout that is neither {known} "
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
    known = " nor ".join(f"{isa.name}'s" for isa in registry.ISAS)
    with pytest.raises(program.LoadError) as caught:
        program.isa_of(TracepointFormat("kvm_exit", fields, {}))
    assert caught.value.what == (
        f"kvm:kvm_exit has a layout that is neither {known} "
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


def test_an_error_has_its_remedy_or_a_list_of_the_things_that_the_host_lacks() -> None:
    lacks = ["lockdown: confidentiality (do this)", "BTF: none", "memlock: low (raise it)"]
    assert program.LoadError("refused", "do this", lacks).explained() == (
        "refused; do this; this host also lacks: BTF: none; memlock: low (raise it)"
    )
    assert program.LoadError("refused", "do this", lacks[:1]).explained() == "refused; do this"
    assert program.LoadError("refused", "do this").explained() == "refused; do this"
    assert program.LoadError("refused", "", ["BTF: none", "memlock: low"]).explained() == (
        "refused; BTF: none; memlock: low"
    )
