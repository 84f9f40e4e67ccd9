"""A recording is written: the file's owner, files that already exist, and full disks."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.recording import recording, writer
from exporter.recording.writer import ExistsError, Writer
from tests.unit.recording.small import HEADER, SMALL


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with writer.create(tmp_path / "new", force=False) as out:
            assert stat.S_IMODE(os.fstat(out.fileno()).st_mode) == 0o600
    finally:
        os.umask(before)


def test_an_existing_file_is_overwritten_only_with_force(tmp_path: Path) -> None:
    path, target, link = tmp_path / "there", tmp_path / "target", tmp_path / "link"
    for file in (path, target):
        file.write_text("before")
    link.symlink_to(target)
    with pytest.raises(ExistsError, match="there exists: choose another name, or overwrite it with --force"):
        writer.create(path, force=False)
    for force in (False, True):
        with pytest.raises(ExistsError, match="link exists and is not a file: choose another name"):
            writer.create(link, force=force)
        with pytest.raises(ExistsError, match="exists and is not a file"):
            writer.create(tmp_path, force=force)
    assert (path.read_text(), target.read_text()) == ("before", "before")
    with path.open() as open_before, writer.create(path, force=True):
        assert open_before.read() == "before"  # a reader that has the old file open can still read it
    assert path.read_text() == ""


def test_discard_removes_only_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with writer.create(path, force=False) as out:
        path.rename(tmp_path / "moved")
        path.write_text("another's")
        writer.discard(out, path)
        assert path.read_text() == "another's"
        (tmp_path / "moved").rename(path)
        writer.discard(out, path)
        assert not list(tmp_path.iterdir())
        writer.discard(out, path)


def test_a_full_disk_leaves_a_valid_recording(tmp_path: Path) -> None:
    """The block that did not fit is removed. The closing block takes its place."""
    path = tmp_path / "full"
    code = (
        "import resource, sys, pathlib\n"
        "from tests.unit.recording.small import *\n"
        "from exporter.recording import writer\n"
        "from exporter.recording.writer import Writer\n"
        f"out = writer.create(pathlib.Path({str(path)!r}), force=False)\n"
        "recorded = Writer(out, HEADER)\n"
        "def send(happened):\n"
        "    table = list(dict.fromkeys(pack(event) for _, event in happened))\n"
        "    numbers = [table.index(pack(event)) for _, event in happened]\n"
        "    recorded.events(table, numbers, [ns for ns, _ in happened])\n"
        "send(SMALL)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (recorded.size + 1000,) * 2)\n"
        "try: send([(ns * 7919 % 100003, ENTRY._replace(tid=ns * 31 % 4001 + 1)) for ns in range(9973)])\n"
        "except OSError as error: print(error.strerror)\n"
        "recorded.close([VM], [writer.ThreadEntry(43, 0, 'CPU 7/KVM', '7')], 'no space')\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "File too large\n"
    assert sum(recording.read(path).events.values()) == len(SMALL)


def test_a_full_device_raises_os_error() -> None:
    with Path("/dev/full").open("wb", buffering=0) as out, pytest.raises(OSError, match="No space left"):
        Writer(out, HEADER)
