"""The command line: its output and its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exporter import __version__
from tests.support.command import run


def test_version_is_printed() -> None:
    assert run("--version").stdout == f"kvm-exit-exporter {__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("sing",), ("serve", "--no-such"), ("demo", "--speed", "0"), ("serve", "x")])
def test_a_usage_error_exits_with_status_2(arguments: tuple[str, ...]) -> None:
    said = run(*arguments)
    assert said.returncode == 2
    assert said.stdout == ""
    assert "Traceback" not in said.stderr
    assert said.stderr.startswith("usage: kvm-exit-exporter")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [("serve --log.level=loud", 2), ("serve --no-such", 2), ("replay /none", 1), ("top 0", 2)],
)
def test_without_stderr_an_error_is_not_written_to_stdout(arguments: str, status: int) -> None:
    command = [sys.executable, "-m", "exporter", *arguments.split()]
    for closed in ("2>&-", "<&- 2>&-"):
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
        said = subprocess.run(shell, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
        assert (said.returncode, said.stdout) == (status, "")


def test_every_error_of_a_configuration_file_is_printed_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("web:\n  telemetry_pth: /x\nlimits: {vcpus: no, cells: -3}\ncollect_interval: 15\n")
    said = run("serve", f"--config.file={path}")
    assert said.returncode == 2
    lines = said.stderr.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{path}:2", "web.telemetry_pth"],
        [f"{path}:3", "limits.vcpus"],
        [f"{path}:3", "limits.cells"],
        [f"{path}:4", "collect_interval"],
    ]


def test_wrong_flags_exit_with_status_2_and_unreadable_files_with_status_1(tmp_path: Path) -> None:
    said = run("serve", "--web.listen-address=nowhere", "--log.level=loud")
    assert said.returncode == 2
    assert [line.split(":")[0] for line in said.stderr.splitlines()] == ["--web.listen-address", "--log.level"]
    said = run("serve", f"--config.file={tmp_path / 'none.yaml'}")
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert "No such file or directory" in said.stderr
    said = run("serve", f"--config.file={tmp_path}")
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert "Is a directory" in said.stderr


def test_config_check_prints_the_configuration_in_force(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text("linger: 90s\n")
    said = run("serve", f"--config.file={path}", "--config.check", "--web.listen-address=127.0.0.1:1234")
    assert said.returncode == 0
    assert "linger: 1m30s\n" in said.stdout
    assert '"127.0.0.1:1234"' in said.stdout


def test_a_port_in_use_exits_with_status_1() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = run("serve", f"--web.listen-address={address}")
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert f'msg="cannot listen on {address}: Address already in use"' in said.stderr


def test_a_file_that_is_not_a_recording_exits_with_status_1(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("TGID TID COMM")
    said = run("demo", f"--recording={file}", "--web.listen-address=127.0.0.1:0")
    assert said.returncode == 1
    (error,) = [line for line in said.stderr.splitlines() if "level=error" in line]
    assert f"{file} is not a recording" in error
    assert "Traceback" not in said.stderr
    said = run("replay", str(file))
    assert said.returncode == 1
    assert said.stderr == (f"kvm-exit-exporter replay: {file} is not a recording: it does not begin like a recording\n")


@pytest.mark.parametrize("module", ["yaml", "prometheus_client", "tornado"])
def test_a_missing_module_is_reported_in_one_line(tmp_path: Path, module: str) -> None:
    """A Python that was not installed by the distribution may lack the module."""
    hidden = f"import runpy, sys; sys.modules[{module!r}] = None; sys.argv = ['exporter', 'serve']; "
    said = subprocess.run(
        [sys.executable, "-c", hidden + "runpy.run_module('exporter', run_name='__main__')"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert f"has no module {module}" in said.stderr


@pytest.mark.parametrize(
    "module", ["exporter.commands.cli", "argparse", "exporter.commands.replay", "exporter.readings.reading"]
)
def test_ctrl_c_during_imports_exits_with_status_130(module: str) -> None:
    interrupted = (
        "import os, runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = ['exporter', 'replay', 'no-file']\n"
        "runpy.run_module('exporter', run_name='__main__')\n"
    )
    said = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, check=False, timeout=60)
    assert (said.returncode, said.stdout, said.stderr) == (130, b"", b"")
