"""The clock of BPF programs is found in every time namespace."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from exporter.kernel.clock import bpf_clock
from exporter.kernel.program import LoadError

BOOTTIME = "boottime            5    600000000\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of this process in a fake /proc. This process and its children are in one time namespace."""
    folder = tmp_path / "self"
    (folder / "ns").mkdir(parents=True)
    for name in ("time", "time_for_children"):
        (folder / "ns" / name).symlink_to("time:[4026532194]")
    return folder


@pytest.mark.parametrize(
    ("line", "offset_ns"),
    [
        ("monotonic           0         0", 0),
        ("monotonic       86400         0", 86_400 * 10**9),
        ("monotonic        7919 104729000", 7_919_104_729_000),
        ("monotonic         -12 250000000", -11_750_000_000),
    ],
)
def test_the_offset_of_the_time_namespace_is_subtracted(
    monkeypatch: pytest.MonkeyPatch, own: Path, line: str, offset_ns: int
) -> None:
    (own / "timens_offsets").write_text(f"{line}\n{BOOTTIME}")
    monkeypatch.setattr(time, "monotonic_ns", lambda: 1_000_003)
    assert bpf_clock(own.parent)() == 1_000_003 - offset_ns


def test_a_process_that_only_made_a_namespace_has_the_clock_from_before(own: Path) -> None:
    (own / "timens_offsets").write_text(f"monotonic       86400         0\n{BOOTTIME}")
    (own / "ns/time_for_children").unlink()
    (own / "ns/time_for_children").symlink_to("time:[4026532195]")
    assert bpf_clock(own.parent) is time.monotonic_ns


def test_a_kernel_without_time_namespaces_has_one_clock(tmp_path: Path) -> None:
    (tmp_path / "self/ns").mkdir(parents=True)
    assert bpf_clock(tmp_path) is time.monotonic_ns


def test_offsets_that_cannot_be_read_are_an_error(own: Path) -> None:
    path = own / "timens_offsets"
    path.write_text(BOOTTIME)
    with pytest.raises(LoadError, match=rf"^{re.escape(str(path))} has no line monotonic$"):
        bpf_clock(own.parent)
    path.unlink()
    path.mkdir()
    with pytest.raises(LoadError, match=rf"^cannot read {re.escape(str(path))}: {os.strerror(21)}$"):
        bpf_clock(own.parent)
