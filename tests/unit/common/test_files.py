"""Only regular files are read, and no other file is waited for."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from exporter.common import files
from exporter.config import load
from exporter.config.options import UnreadableError


def _refusal(path: Path) -> str:
    with pytest.raises(OSError, match="Errno") as caught, files.open_regular(path):
        pass
    return str(caught.value.strerror)


def test_a_fifo_a_device_and_a_folder_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert _refusal(tmp_path / "fifo") == "it is not a regular file"
    assert _refusal(Path("/dev/zero")) == "it is not a regular file"
    assert _refusal(tmp_path) == "Is a directory"
    assert _refusal(tmp_path / "missing") == "No such file or directory"


def test_a_file_that_is_replaced_after_the_first_look_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    opened = os.open

    def replaced(name: Path, flags: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return opened(name, flags)

    monkeypatch.setattr(os, "open", replaced)
    assert _refusal(path) == "it is not a regular file"


def test_only_the_start_of_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 1 << 40)
    assert files.read_start(path, 1009) == bytes(1009)


def test_a_configuration_that_is_a_fifo_is_refused_even_if_somebody_writes_to_it(tmp_path: Path) -> None:
    """A reload would wait for the FIFO in the thread that collects and answers SIGTERM."""
    path = tmp_path / "config.yaml"
    os.mkfifo(path)
    threading.Thread(target=path.write_text, args=("linger: 1m\n",), daemon=True).start()
    with pytest.raises(UnreadableError, match="it is not a regular file"):
        load.load(path)


def test_a_configuration_that_is_a_device_is_refused() -> None:
    with pytest.raises(UnreadableError) as caught:
        load.load(Path("/dev/zero"))
    assert caught.value.problems == ("/dev/zero: cannot read the configuration file: it is not a regular file",)
