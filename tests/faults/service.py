"""Run the service (`serve`) as a process. Tests run its raw tracepoint programs with BPF_PROG_TEST_RUN.

The service has a mount namespace in which it sees aarch64's kvm_exit format. So kvm_exit is a raw tracepoint there too,
and BPF_PROG_TEST_RUN can run its program on every machine.
"""

from __future__ import annotations

import http.client
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.faults import driver
from tests.support import paths
from tests.support.services import FakeSystemd, Logging, command_of

FORMAT = paths.FORMATS / "aarch64-6.12/kvm_exit.format"
EVENTS = "/sys/kernel/tracing/events/kvm"

TEXT = "text/plain;version=0.0.4"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
FORMATS = (TEXT, OPENMETRICS, TEXT, PROTOBUF)
"""The scraped formats, in this order. Every second page is text, because only text pages are summed."""

AS_ARM64 = f"mount --bind {FORMAT} {EVENTS}/kvm_exit/format"


class Service(Logging):
    """`python3 -m exporter serve` in a mount namespace of its own. The shell commands in `before` run first.

    `redirect` is a redirection of the shell, for example "2>/dev/full". Without a redirection, the test can read the
    log.
    """

    def __init__(
        self,
        folder: Path,
        *,
        before: str = AS_ARM64,
        redirect: str = "",
        config: str = "",
        port: int = 0,
        command: str = "serve",
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        systemd: FakeSystemd | None = None,
    ) -> None:
        file = folder / "faults.yaml"
        file.write_text(
            f"lock_file: {folder}/lock\nweb: {{listen_address: ['127.0.0.1:{port}']}}\ncollect_interval: 1s\n{config}"
        )
        words, environ, fds = command_of([command, f"--config.file={file}", *arguments], systemd)
        script = f'{before}\nexec "$@" {redirect}'
        command_line = ["unshare", "-m", "sh", "-ec", script, "sh", *words]
        super().__init__(command_line, {**environ, **(environment or {})}, fds)
        self.port = port

    def address(self) -> tuple[str, int]:
        if not self.port:
            self.port = int(self.logged(r"msg=listening address=127\.0\.0\.1:(\d+)")[1])
        return "127.0.0.1", self.port

    def get(self, accept: str = TEXT, path: str = "/metrics", timeout: float = 60) -> bytes:
        """Return a page. Raises OSError and http.client.HTTPException; ValueError if the status is not 200."""
        connection = http.client.HTTPConnection(*self.address(), timeout=timeout)
        try:
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {body[:80]!r}")
        return body

    def up(self, seconds: float = 60) -> None:
        """Wait until the service counts."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if b"\nkvm_exit_exporter_up 1.0\n" in self.get(timeout=seconds):
                    return
            except (OSError, ValueError, http.client.HTTPException):
                assert self.process.poll() is None, self.log
            time.sleep(0.05)
        raise AssertionError(f"never up: {self.log}")

    def descriptors(self) -> int:
        """Return the smallest number of open descriptors in 0.2 s.

        This leaves out connections that are being closed.
        """
        least = len(os.listdir(f"/proc/{self.pid}/fd"))
        for _ in range(10):
            time.sleep(0.02)
            least = min(least, len(os.listdir(f"/proc/{self.pid}/fd")))
        return least

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def memory(self) -> tuple[int, int]:
        """Return RSS and PSS in KiB."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        sizes = dict(re.findall(r"^(\w+): +(\d+) kB$", text, re.M))
        return int(sizes["Rss"]), int(sizes["Pss"])


class Totals:
    """Sums over all series of all pages, computed as a Prometheus server computes them.

    A series that is missing on a page has ended: a later series of the same name belongs to another thread. From the
    daemon's start on, the time between two pages must be shorter than `linger`.
    """

    def __init__(self) -> None:
        self._ended: dict[str, float] = defaultdict(float)
        self._last: dict[str, dict[bytes, float]] = {}
        self._plain: dict[str, float] = {}
        self.pages = 0
        self.backwards = 0
        self.longest = 0.0
        """The longest time between two pages, in seconds.

        If it exceeds `linger`, some ended threads may be on no page.
        """
        self._added = 0.0

    def add(self, page: bytes) -> None:
        """Add a page in text format to the sums."""
        now = time.monotonic()
        self.longest = max(self.longest, now - self._added if self._added else 0.0)
        self._added = now
        self.pages += 1
        families: dict[str, dict[bytes, float]] = {name: {} for name in SUMMED}
        for line in page.split(b"\n"):
            if line.startswith(b"kvm_"):
                series, _, value = line.rpartition(b" ")
                name = series.partition(b"{")[0].decode()
                if name == USERSPACE and OURS not in series:
                    continue  # this series is from a real VM on this host
                if name in families:
                    assert series not in families[name], f"twice on one page: {series!r}"
                    families[name][series] = float(value)
                elif name.startswith("kvm_exit_exporter_"):
                    self._plain[series.decode()] = float(value)
        for name, values in families.items():
            last = self._last.get(name, {})
            self.backwards += sum(value < last.get(series, 0) for series, value in values.items())
            self._ended[name] += sum(value for series, value in last.items() if series not in values)
            self._last[name] = values

    def total(self, name: str) -> int:
        return round(self._ended[name] + sum(self._last.get(name, {}).values()))

    def own(self, series: str) -> int:
        """Return the last value of one of the exporter's own metrics; `series` has no prefix."""
        return round(self._plain["kvm_exit_exporter_" + series])

    def dropped(self, family: str = "dropped_exits_total") -> dict[str, int]:
        pattern = re.compile(rf'kvm_exit_exporter_{family}{{cause="(\w+)"}}')
        return {match[1]: round(value) for key, value in self._plain.items() if (match := pattern.fullmatch(key))}


EXITS, DURATIONS, USERSPACE = "kvm_exits_total", "kvm_exit_duration_seconds_count", "kvm_userspace_exits_total"
OURS = b'reason="KVM_EXIT_S390_TSCH"'
SUMMED = (EXITS, DURATIONS, USERSPACE)


class Scraper(threading.Thread):
    """Scrapes each format once, then pauses, then scrapes again. Sums the text pages."""

    def __init__(self, service: Service, pause: float = 0.1, formats: Sequence[str] = FORMATS) -> None:
        super().__init__(daemon=True)
        self._formats = formats
        self._service = service
        self._pause = pause
        self._stop_asked = threading.Event()
        self.totals = Totals()
        self.failed = 0

    def run(self) -> None:
        while not self._stop_asked.is_set():
            self.once()
            self._stop_asked.wait(self._pause)

    def once(self) -> None:
        for accept in self._formats:
            try:
                page = self._service.get(accept)
            except (OSError, ValueError, http.client.HTTPException):
                self.failed += 1
                continue
            if accept == TEXT:
                self.totals.add(page)

    def stop(self) -> None:
        self._stop_asked.set()
        if self.is_alive():
            self.join()

    def finish(self) -> Totals:
        """Stop the thread. Then scrape until the VM of every vCPU is known, and return the totals."""
        self.stop()
        deadline = time.monotonic() + 30
        self.once()
        while self.totals.own("lookups_pending"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
            self.once()
        return self.totals


def agree(totals: Totals, sent: driver.Sent) -> dict[str, int]:
    """Assert that every exit is on the pages once, or counted as dropped or unserved.

    Return the numbers of dropped and unserved exits by cause.
    """
    dropped = {**totals.dropped(), "unserved": totals.own("unserved_exits_total")}
    assert totals.total(EXITS) + sum(dropped.values()) == sent.exits
    userspace = sum(totals.dropped("dropped_userspace_exits_total").values())
    assert totals.total(USERSPACE) + userspace + totals.own("unserved_userspace_exits_total") == sent.userspace
    assert totals.total(DURATIONS) == totals.total(EXITS)
    assert totals.backwards == 0
    assert totals.own("collect_errors_total") == 0
    return {cause: number for cause, number in dropped.items() if number}
