"""The offsets of the scheduler's figures come from BTF, and a kernel whose structures differ is refused.

tests/kernel/test_split.py checks wrong offsets on the running kernel.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.kernel import time_split
from exporter.kernel.btf import KernelBtf
from tests.support.btf import BtfFile, scheduler, write


def offsets(sysfs: Path, **changes: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return the offsets that are found, and those that are right."""
    vmlinux = BtfFile()
    right = scheduler(vmlinux, **changes)
    write(sysfs, vmlinux=vmlinux)
    return time_split.offsets(KernelBtf(sysfs)), right


def test_the_offsets_are_those_of_btf(tmp_path: Path) -> None:
    found, right = offsets(tmp_path)
    assert found == right
    assert found.keys() == time_split.MACROS


@pytest.mark.parametrize(
    ("changes", "members"),
    [
        ({"size": 4}, "sched_info.pcount and sched_info.run_delay"),
        ({"apart": 8}, "sched_info.pcount and sched_info.run_delay"),
    ],
)
def test_members_of_another_form_are_refused(tmp_path: Path, changes: dict[str, int], members: str) -> None:
    with pytest.raises(time_split.SplitError) as caught:
        offsets(tmp_path, **changes)
    assert str(caught.value) == f"struct task_struct has {members} with another size or in another order"


def test_without_btf_the_reason_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(time_split.SplitError) as caught:
        time_split.offsets(KernelBtf(tmp_path))
    assert str(caught.value) == f"{tmp_path}/kernel/btf/vmlinux: No such file or directory"


def test_a_kernel_without_the_figures_is_refused(tmp_path: Path) -> None:
    vmlinux = BtfFile()
    vmlinux.struct("task_struct", 64, {"nvcsw": (vmlinux.integer("unsigned long", 8), 0)})
    write(tmp_path, vmlinux=vmlinux)
    with pytest.raises(time_split.SplitError) as caught:
        time_split.offsets(KernelBtf(tmp_path))
    assert str(caught.value) == "struct task_struct has no member sched_info.pcount"
