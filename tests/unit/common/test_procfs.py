"""The PID namespace of this process is read from /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.common.procfs import HOST_PID_NAMESPACE, has_foreign_pids, pid_namespace


@pytest.mark.parametrize(
    ("link", "inode", "foreign"),
    [("pid:[4026531836]", HOST_PID_NAMESPACE, False), ("pid:[4026532299]", 4026532299, True)],
)
def test_pids_are_foreign_outside_of_the_hosts_pid_namespace(
    tmp_path: Path, link: str, inode: int, *, foreign: bool
) -> None:
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to(link)
    assert pid_namespace(tmp_path) == inode
    assert has_foreign_pids(tmp_path) is foreign


def test_without_proc_no_pid_counts_as_foreign(tmp_path: Path) -> None:
    assert not has_foreign_pids(tmp_path)
    with pytest.raises(FileNotFoundError):
        pid_namespace(tmp_path)


def test_the_namespace_of_this_process_is_read() -> None:
    assert pid_namespace(Path("/proc")) == os.stat("/proc/self/ns/pid").st_ino
