"""Cause faults around the service. The service logs one line and continues, and its totals stay exact."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.common.procfs import start_time
from exporter.model.vm import Vm
from exporter.naming.identity import identify, unknown
from exporter.naming.vcpu import vcpu_index
from tests.faults import driver
from tests.faults.figures import often, say
from tests.faults.service import AS_ARM64, EVENTS, EXITS, TEXT, Scraper, Service, Totals, agree

Start = Callable[..., Service]


_AS_ROOT = 'run_as: ""\n'
"""The service stays root in tests that change its limits.

Some containers have no CAP_SYS_RESOURCE. There prlimit(2) requires that both processes have the same user.
"""


class Driven:
    """A service, and threads that stand in for vCPUs. Each call of drive() runs 101 threads."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.programs = driver.programs_of(service.pid)
        self.scraper = Scraper(service, formats=(TEXT,))
        self.scraper.once()
        self.sent = driver.NOTHING

    def drive(self) -> None:
        self.sent = self.sent.plus(driver.drive(self.programs, threads=101, parallel=3, rounds=211, reasons=3))

    def agrees(self) -> Totals:
        totals = self.scraper.finish()
        assert agree(totals, self.sent) == {}
        return totals

    def close(self) -> None:
        driver.close(list(self.programs.values()))


def summary(driven: Driven, totals: Totals) -> dict[str, int]:
    return {"exits_sent": driven.sent.exits, "on_the_pages": totals.total(EXITS)}


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("fault", "redirect"),
    [
        ("stderr on a full disk", "2>/dev/full"),
        ("stderr closed", "2>&-"),
        ("all three standard streams closed", "<&- >&- 2>&-"),
        ("no reader of the pipe on stderr", "2>&$pipe"),
    ],
)
def test_the_service_counts_without_a_usable_log(start: Start, fault: str, redirect: str, free_port: int) -> None:
    before = AS_ARM64
    if "pipe" in redirect:  # a pipe whose reading end is closed
        before += "\nmkfifo $PIPE; exec 8<>$PIPE 9>$PIPE 8<&-"
        redirect = "2>&9"
    folder = os.environ.get("TMPDIR", "/tmp")
    pipe = f"{folder}/faults-{os.getpid()}.fifo"
    try:
        service = start(before=before, redirect=redirect, port=free_port, environment={"PIPE": pipe})
        service.up()
    finally:
        Path(pipe).unlink(missing_ok=True)
    driven = Driven(service)
    for _ in range(3):
        driven.drive()
        totals = driven.agrees()
    with pytest.raises(ValueError, match="404"):
        service.get(path="/none")
    driven.close()
    assert service.end() == 0
    say(fault, **summary(driven, totals), exit_status=0)


@pytest.mark.kvm
def test_the_service_counts_with_a_full_disk(start: Start, tmp_path: Path) -> None:
    """/tmp and the lock file's folder are full. The loader needs no disk space, and the lock file has 0 bytes."""
    full = tmp_path / "full"
    full.mkdir()
    before = f"{AS_ARM64}\nmount -t tmpfs -o size=4k none {full}; cat /dev/zero > {full}/full 2>/dev/null || :"
    service = start(before=before, environment={"TMPDIR": str(full)}, config="")
    service.up()
    driven = Driven(service)
    driven.drive()
    totals = driven.agrees()
    driven.close()
    assert service.end() == 0
    say("TMPDIR on a full disk", **summary(driven, totals))


@pytest.mark.kvm
def test_the_service_ends_with_one_error_when_the_loader_is_killed(start: Start) -> None:
    """The loader gets SIGKILL while bcc compiles, for example from the kernel's OOM killer.

    The service logs one line of error and ends with exit status 1.
    """
    service = start()
    child = _loader_of(service)
    os.kill(child, signal.SIGKILL)
    assert service.process.wait(timeout=30) == 1
    service.end()
    (error,) = [line for line in service.log if "level=error" in line]
    assert "the loader ended with status -9" in error or "killed" in error, error
    assert "Traceback" not in "".join(service.log)
    say("SIGKILL of the loader", exit_status=1, said=error.partition("msg=")[2])


def _loader_of(service: Service) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in _children(service.pid):
            try:
                if b"exporter.kernel.loader" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
            except OSError:
                continue
    raise AssertionError(f"no loader found: {service.log}")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            continue
    return found


def test_the_demo_ends_when_a_stand_in_is_killed(start: Start) -> None:
    """One process of a replay gets SIGKILL. The demo ends: its numbers would no longer equal the recording."""
    service = start(command="demo", before=":")
    service.logged("msg=.?replaying")
    victim = _children(service.pid)[1]
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    assert service.process.wait(timeout=30) == 1
    seconds = time.monotonic() - killed
    service.end()
    (error,) = [line for line in service.log if "level=error" in line]
    assert "stand-in" in error
    assert "Traceback" not in "".join(service.log)
    say("SIGKILL of a stand-in", exit_status=1, after_seconds=f"{seconds:.1f}", said=error.partition("msg=")[2])


@pytest.mark.kvm
def test_the_service_counts_without_free_descriptors(start: Start) -> None:
    """RLIMIT_NOFILE equals the number of open descriptors.

    Scrapes are refused, counting continues, and the next page is complete.
    """
    service = start(config=_AS_ROOT)
    service.up()
    driven = Driven(service)
    driven.drive()
    limit = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
    collections = driven.agrees().own("collections_total")
    # The lowest descriptor number that is free. With this number as the limit, no descriptor can be opened.
    taken = {int(name) for name in os.listdir(f"/proc/{service.pid}/fd")}
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (free, limit[1]))
    refused = 0
    for _ in range(5):
        driven.drive()
        try:
            service.get(timeout=1)
        except OSError:
            refused += 1
    busy = _cpu_seconds(service.pid)
    time.sleep(1)
    busy = _cpu_seconds(service.pid) - busy
    resource.prlimit(service.pid, resource.RLIMIT_NOFILE, limit)
    driven.drive()
    totals = driven.agrees()
    assert refused == 5
    assert busy < 0.5, "it spins"
    assert totals.own("collections_total") - collections >= 5  # by the timer
    driven.close()
    assert service.end() == 0
    say("descriptors exhausted", refused_scrapes=refused, **summary(driven, totals), CPU_meanwhile=f"{busy:.2f} s/s")


@pytest.mark.kvm
@pytest.mark.parametrize("limit", [12, 17, 19, 22, 23, 24, 25, 26, 27, 32])
def test_the_service_counts_or_names_the_cause_if_it_starts_with_few_descriptors(start: Start, limit: int) -> None:
    """The service counts. Or it counts, warns, and cannot be scraped. Or it ends, and its last line names the cause."""
    service = start(before=f"{AS_ARM64}\nulimit -n {limit}")
    result = "counts"
    try:
        service.up(seconds=5)
    except AssertionError:
        assert any("Too many open files" in line for line in service.log), service.log
        if service.process.poll() is None:
            result = "counts, and warns that it has no descriptor for a connection"
            service.logged("msg=attached")
        else:
            assert service.end() == 1
            errors = [line for line in service.log if "level=error" in line]
            assert len(errors) == 1
            result = errors[0].partition("msg=")[2]
            assert "Too many open files" in result
    service.end()
    assert "Traceback" not in "\n".join(service.log), service.log
    say(f"started with RLIMIT_NOFILE {limit}", result=result)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.kvm
def test_the_service_survives_without_memory_for_threads(start: Start) -> None:
    """RLIMIT_AS equals the size of the mapped memory.

    So no thread can start for a scrape or a look-up. The next page has all counts.
    """
    service = start(config=_AS_ROOT)
    service.up()
    driven = Driven(service)
    driven.drive()
    driven.agrees()
    limit = resource.prlimit(service.pid, resource.RLIMIT_AS)
    mapped = int(Path(f"/proc/{service.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(service.pid, resource.RLIMIT_AS, (mapped + (1 << 20), limit[1]))
    refused = 0
    for _ in range(5):
        driven.drive()
        try:
            service.get(timeout=2)
        except (OSError, ValueError, http.client.HTTPException):
            refused += 1
    time.sleep(1.5)
    assert service.process.poll() is None, service.log
    resource.prlimit(service.pid, resource.RLIMIT_AS, limit)
    driven.drive()
    totals = driven.scraper.finish()
    assert totals.total(EXITS) == driven.sent.exits, service.log
    assert "Traceback" not in "".join(service.log)
    driven.close()
    assert service.end() == 0
    say(
        "no memory for threads",
        refused_scrapes=refused,
        **summary(driven, totals),
        collect_errors=totals.own("collect_errors_total"),
    )


@pytest.mark.kvm
def test_the_service_attaches_when_kvm_is_loaded_later(start: Start, tmp_path: Path) -> None:
    """Without events/kvm the service waits and answers requests. When events/kvm appears, the service counts."""
    empty = tmp_path / "empty"
    empty.mkdir()
    service = start(before=f"{AS_ARM64}\nmount --bind {empty} {EVENTS}")
    service.logged("waiting for KVM")
    assert b"\nkvm_exit_exporter_up 0.0\n" in service.get()
    busy = _cpu_seconds(service.pid)
    time.sleep(2)
    busy = _cpu_seconds(service.pid) - busy
    assert busy < 0.5
    came = time.monotonic()
    # -r: the path begins at the service's root. In a chroot, the root of the mount namespace is another folder.
    subprocess.run(["nsenter", "-t", str(service.pid), "-m", "-r", "umount", EVENTS], check=True)
    service.up()
    seconds = time.monotonic() - came
    driven = Driven(service)
    driven.drive()
    totals = driven.agrees()
    driven.close()
    assert service.end() == 0
    say("KVM comes later", attached_after_seconds=f"{seconds:.1f}", **summary(driven, totals))


@pytest.mark.kvm
def test_jumps_of_the_wall_clock_change_no_count(start: Start, tmp_path: Path) -> None:
    """A preloaded clock_gettime jumps years forward and back. Only the log's time stamps change."""
    jump = tmp_path / "jump"
    jump.write_text("0\n")
    library = tmp_path / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True)
    service = start(config="linger: 3s\n", environment={"LD_PRELOAD": str(library), "CLOCK_JUMP_FILE": str(jump)})
    service.up()
    driven = Driven(service)
    driven.scraper.start()
    for seconds in (0, 10**8, -(10**9), 86_400, -3600, 0):
        jump.write_text(f"{seconds}\n")
        driven.drive()
        time.sleep(0.3)
    collections = driven.scraper.totals.own("collections_total")
    totals = driven.agrees()
    guest = [line for line in service.get().decode().splitlines() if line.startswith("kvm_vcpu_guest_seconds_total{")]
    assert guest
    assert all(0 <= float(line.rpartition(" ")[2]) < 60 for line in guest)
    assert totals.own("collections_total") >= collections > 0
    time.sleep(3.5)  # `linger`, measured by the monotonic clock
    assert f"{EXITS}{{".encode() not in service.get()
    driven.close()
    assert service.end() == 0
    say("the wall clock jumps", jumps=6, **summary(driven, totals), backwards=totals.backwards)


def test_look_ups_of_vanishing_processes_never_fail() -> None:
    """Four threads read the /proc entries of children that are killed.

    Each look-up returns the identity or the fallback. None raises an error or returns another process's identity.
    """
    proc = Path("/proc")
    errors: list[BaseException] = []
    answers = {"whole": 0, "gone": 0}
    current = [0]
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                pid = current[0]
                if not pid:
                    continue
                began = start_time(proc / str(pid))
                vm = identify(pid, proc).vm
                vcpu_index(b"worker", None, pid, pid, proc)
                if vm == Vm(pid, f"vm-{pid}", "", "qemu"):
                    answers["whole"] += 1
                else:  # between fork and exec: this test's command line. After the process has ended: none
                    assert vm.name == str(pid), vm
                    answers["gone"] += 1
                assert began is None or began > 0
        except BaseException as error:
            errors.append(error)

    lookers = [threading.Thread(target=look) for _ in range(4)]
    for looker in lookers:
        looker.start()
    processes = often(2003, 307)
    script = 'exec -a qemu-system-x86_64 "$0" -c "import time; time.sleep(60)" -name guest=vm-$$'
    for number in range(processes):
        child = subprocess.Popen(["bash", "-c", script, sys.executable])
        current[0] = child.pid
        time.sleep(number % 11 * 0.003)
        child.kill()
        child.wait()
    done.set()
    for looker in lookers:
        looker.join()
    assert errors == []
    assert answers["whole"] > 0
    assert answers["gone"] > 0
    say("/proc entries vanish", processes=processes, identities=answers["whole"], fallbacks=answers["gone"])
    assert unknown(1).name == "1"


_FEW_DESCRIPTORS = """
import os, resource
from exporter.kernel import launcher, program
request = program.LoadRequest(front='arm64', defines={}, slots=4, cells=4, attach=False)
held = [os.open('/dev/null', os.O_RDONLY) for _ in range(100)]  # only in this process: the loader has enough
before = len(os.listdir('/proc/self/fd'))
for room in range(1, 25):
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + room, 4096))
    try:
        launcher.load(request).close()
        said = 'loaded'
    except program.LoadError as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    print(len(os.listdir('/proc/self/fd')) - before, said)
"""


def test_the_loaders_answer_leaves_no_descriptor_open() -> None:
    """Try 1 to 24 free descriptors. If they are too few, there is one line of error. No descriptor stays open."""
    said = subprocess.run([sys.executable, "-c", _FEW_DESCRIPTORS], capture_output=True, text=True, check=True)
    answers = [line.partition(" ") for line in said.stdout.splitlines()]
    assert len(answers) == 24
    assert {left_open for left_open, _, _ in answers} == {"0"}
    refused = [answer for _, _, answer in answers if answer != "loaded"]
    assert 0 < len(refused) < 24
    assert all("Too many open files" in answer for answer in refused), refused
    say("descriptors exhausted while loading", tried=24, refused_on_one_line=len(refused), left_open=0)
