"""After its start, the process that serves the network has no privileges."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.readable import PYTHON
from tests.support.services import Service

NOBODY = pwd.getpwnam("nobody")
NO_CAPABILITY = "0" * 16
SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
# CAP_BPF, CAP_PERFMON and CAP_DAC_READ_SEARCH: setpriv of Debian 11 does not know the first two names.
NEEDED = "-all,+cap_39,+cap_38,+cap_2"

Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    os.chmod(tmp_path, 0o755)
    with ExitStack() as stack:

        def begin(command: str = "serve", more: str = "run_as: nobody\n", **options: object) -> Service:
            config = tmp_path / f"{command}.yaml"
            config.write_text(f"lock_file: {tmp_path}/run/lock\nweb: {{listen_address: ['127.0.0.1:0']}}\n{more}")
            service = Service(command, f"--config.file={config}", **options)  # type: ignore[arg-type]
            stack.callback(service.end)
            return service

        yield begin


def _has_no_privilege(status: dict[str, str]) -> None:
    for ids in (status["Uid"], status["Gid"]):
        assert set(ids.split()) == {str(NOBODY.pw_uid)}
    assert set(status["Groups"].split()) <= {str(NOBODY.pw_gid)}
    assert {name: status[name] for name in SETS} == dict.fromkeys(SETS, NO_CAPABILITY)
    assert status["NoNewPrivs"] == "1"


@pytest.mark.kvm
def test_the_service_changes_from_root_to_a_user_without_any_capability(start: Start) -> None:
    serve = start()
    serve.logged("msg=attached")
    serve.scrape()  # now the threads for requests and look-ups exist
    status = serve.status()
    _has_no_privilege(status)
    assert status["CapBnd"] == NO_CAPABILITY
    tasks = Path(f"/proc/{serve.process.pid}/task")
    for task in tasks.iterdir():
        words = dict(line.partition(":")[::2] for line in (task / "status").read_text().splitlines())
        assert words["CapEff"].strip() == NO_CAPABILITY
        assert words["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert serve.logged("privileges dropped")[0]
    assert "user=nobody capabilities=none" in "".join(serve.log)
    assert serve.value("kvm_exit_exporter_up") == 1


@pytest.mark.kvm
def test_ambient_capabilities_are_dropped(start: Start, tmp_path: Path) -> None:
    """The service starts as under systemd: as another user, with the capabilities that the loader needs.

    It must drop them.
    """
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", NOBODY.pw_uid, NOBODY.pw_gid)
    sets = [f"--{name}={NEEDED}" for name in ("inh-caps", "ambient-caps", "bounding-set")]
    prefix = ["setpriv", "--reuid=nobody", f"--regid={NOBODY.pw_gid}", "--clear-groups", *sets]
    serve = start(more="", prefix=[*prefix, "--no-new-privs"])
    serve.logged("msg=attached")
    _has_no_privilege(serve.status())
    assert not [line for line in serve.log if "level=info" not in line]


def test_the_stand_ins_of_a_demo_have_no_privileges(start: Start) -> None:
    demo = start("demo")
    demo.logged("replaying")
    _has_no_privilege(demo.status())
    children = Path(f"/proc/{demo.process.pid}/task/{demo.process.pid}/children").read_text().split()
    assert len(children) == 3
    for child in children:
        text = Path(f"/proc/{child}/status").read_text()
        _has_no_privilege(
            {key: " ".join(value.split()) for key, _, value in (line.partition(":") for line in text.splitlines())}
        )
    deadline = time.monotonic() + 30
    while {labels["vm"] for labels, _ in demo.scrape().get("kvm_exits_total", [])} != {"web-1", "db-1", "idle-1"}:
        assert time.monotonic() < deadline


def test_after_the_drop_maps_are_writable_and_loading_is_refused(readable: Path) -> None:
    """After privileges.drop(), the process can write to its open maps. It cannot load programs or create maps."""
    code = """
import errno, os, struct, ctypes
from exporter.kernel import launcher, privileges, program
from exporter.kernel import syscall
loaded = launcher.load(program.LoadRequest(front="arm64", defines={}, slots=7, cells=7, attach=False))
assert privileges.drop(privileges.account("nobody")) == []
assert os.getresuid() == (65534,) * 3
for call in (lambda: os.setuid(0), lambda: os.chown("/tmp", 0, 0), lambda: open("/sys/kernel/tracing/events")):
    try:
        call()
    except PermissionError:
        continue
    raise AssertionError("allowed")
insns = struct.pack("=BBhiBBhi", 0xb7, 0, 0, 0, 0x95, 0, 0, 0)
text, licence = ctypes.create_string_buffer(insns), ctypes.create_string_buffer(b"GPL")
for kind in (1, 5, 17):  # socket filter, tracepoint, raw tracepoint
    attributes = struct.pack("=IIQQ", kind, 2, ctypes.addressof(text), ctypes.addressof(licence)).ljust(72, b"\\0")
    try:
        print(syscall._bpf(5, attributes))  # BPF_PROG_LOAD
    except PermissionError:
        print("refused")
try:
    syscall._bpf(0, struct.pack("=IIII", 2, 4, 4, 1))  # BPF_MAP_CREATE of an array
except PermissionError:
    print("refused")
try:
    launcher.load(program.LoadRequest(front="arm64", defines={}, slots=7, cells=7, attach=False))
except program.LoadError as error:
    print(error)
syscall.program_stats(loaded.programs["kvm_exit"])
try:
    syscall.stack_push(loaded.maps["free_slots"], 3)
except OSError as error:
    print(errno.errorcode[error.errno])  # the stack is full; the push is not forbidden
os.system("cat /sys/kernel/tracing/events/kvm/kvm_exit/format 2>&1 | tail -c 18")
"""
    said = subprocess.run([PYTHON, "-c", code], cwd=readable, capture_output=True, text=True, check=False)
    assert said.stderr == ""
    assert said.stdout.splitlines() == [
        *["refused"] * 4,
        "the kernel refused the BPF map free_cells: Operation not permitted",
        "E2BIG",
        "Permission denied",
    ]


def test_drop_raises_an_error_once_a_second_thread_runs() -> None:
    code = """
import threading
from exporter.kernel import privileges
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    privileges.drop(None)
except RuntimeError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout == "privileges are dropped before the first thread is started\n"


def test_an_unknown_user_ends_the_service_with_status_2(start: Start) -> None:
    serve = start(more="run_as: nobody-there\n")
    assert serve.process.wait(timeout=30) == 2
    serve.end()
    (error,) = [line for line in serve.log if "level=error" in line]
    assert 'run_as: there is no user \\"nobody-there\\"' in error


@pytest.mark.kvm
def test_without_the_default_user_the_service_runs_as_nobody_and_warns(start: Start) -> None:
    try:
        pwd.getpwnam("kvm-exit-exporter")
        pytest.skip("the user kvm-exit-exporter exists here")
    except KeyError:
        pass
    serve = start(more="")
    serve.logged("msg=attached")
    assert serve.logged("level=warn")[0]
    (warning,) = [line for line in serve.log if "level=warn" in line]
    assert "running as nobody: there is no user kvm-exit-exporter" in warning
    assert "useradd" in warning
    _has_no_privilege(serve.status())


@pytest.mark.kvm
def test_with_an_empty_run_as_the_service_stays_root_without_capabilities(start: Start) -> None:
    serve = start(more='run_as: ""\n')
    serve.logged("msg=attached")
    status = serve.status()
    assert status["Uid"].split() == ["0"] * 4
    assert {name: status[name] for name in (*SETS, "CapBnd")} == dict.fromkeys((*SETS, "CapBnd"), NO_CAPABILITY)
    assert status["NoNewPrivs"] == "1"
    assert "running as root, without capabilities" in "".join(serve.log)


@pytest.mark.kvm
def test_without_cap_setuid_the_service_stays_root_without_capabilities(start: Start) -> None:
    serve = start(more="", prefix=["setpriv", f"--inh-caps={NEEDED}", f"--bounding-set={NEEDED}"])
    serve.logged("msg=attached")
    status = serve.status()
    assert status["Uid"].split() == ["0"] * 4
    assert {name: status[name] for name in SETS} == dict.fromkeys(SETS, NO_CAPABILITY)
    assert "the user cannot be changed" in "".join(serve.log)


@pytest.mark.kvm
def test_the_waiting_child_is_small_and_ends_with_the_daemon(tmp_path: Path) -> None:
    """The child keeps its privileges, so the daemon may not send it a signal.

    The child must therefore end with the daemon.
    """
    (tmp_path / "kernel/tracing/events/sched").mkdir(parents=True)
    code = f"""
import sys, time
from pathlib import Path
from exporter.kernel import host, launcher, privileges
from exporter.config.options import Config
loader = launcher.Launcher(host.host_request(Config(), Path({str(tmp_path)!r})))
privileges.drop(privileges.account("nobody"))
while not loader.waiting:
    loader.receive(1)
print(loader._child.pid, flush=True)
time.sleep(60)
"""
    daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout
    child = int(daemon.stdout.readline())
    status = Path(f"/proc/{child}/status").read_text()
    assert "Uid:\t0\t0\t0\t0\n" in status
    assert int(status.split("VmRSS:")[1].split()[0]) < 25_000
    assert "libbcc" not in Path(f"/proc/{child}/maps").read_text()
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "\nState:\tZ" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.kvm
def test_the_service_never_follows_a_symbolic_link_to_its_lock_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    precious = tmp_path / "precious"
    precious.write_text("unchanged")
    (tmp_path / "run/lock").symlink_to(precious)
    serve = start()
    assert serve.process.wait(timeout=30) == 1
    serve.end()
    assert "a symbolic link is in its place" in "".join(serve.log)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    serve = start()
    assert serve.process.wait(timeout=30) == 1
    serve.end()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert precious.read_text() == "unchanged"


@pytest.mark.kvm
def test_a_port_below_1024_is_bound_before_privileges_are_dropped(tmp_path: Path) -> None:
    port = next(port for port in range(1023, 600, -1) if _free(port))
    config = tmp_path / "c.yaml"
    config.write_text(f"lock_file: ''\nrun_as: nobody\nweb: {{listen_address: ['127.0.0.1:{port}']}}\n")
    serve = Service("serve", f"--config.file={config}")
    try:
        serve.logged("msg=attached")
        assert serve.value("kvm_exit_exporter_up") == 1
    finally:
        serve.end()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
