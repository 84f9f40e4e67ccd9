"""Processes in a fake /proc."""

from __future__ import annotations

from pathlib import Path

from exporter.model.vm import Vm
from exporter.naming.identity import identify

UUID = "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0002"


def make(proc: Path, pid: int, argv: list[str] | bytes, *, cgroup: str = "", comm: str = "", exe: str = "") -> None:
    folder = proc / str(pid)
    folder.mkdir()
    raw = argv if isinstance(argv, bytes) else b"".join(arg.encode() + b"\0" for arg in argv)
    (folder / "cmdline").write_bytes(raw)
    (folder / "cgroup").write_text(cgroup)
    (folder / "comm").write_text(comm)
    if exe:
        (folder / "exe").symlink_to(exe)


def known(tmp_path: Path, argv: list[str] | bytes, **files: str) -> Vm:
    """Make a process with pid 42, this command line and these files; return its identity."""
    make(tmp_path, 42, argv, **files)
    return identify(42, tmp_path).vm
