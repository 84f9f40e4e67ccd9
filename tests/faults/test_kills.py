"""The service is killed while vCPUs start and end: systemd keeps the BPF program, and no exit is missing."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults import driver
from tests.faults.figures import often, say
from tests.faults.service import EXITS, TEXT, Scraper, Service, agree
from tests.support.services import FakeSystemd

pytestmark = pytest.mark.kvm


@pytest.fixture
def systemd() -> Iterator[FakeSystemd]:
    played = FakeSystemd(f"@kvm-exit-exporter-{os.getpid()}")
    yield played
    played.close()


class Churn(threading.Thread):
    """Start vCPU threads in groups until `threads` threads have ended. A group has fewer threads than slots exist."""

    def __init__(self, programs: dict[str, int], threads: int) -> None:
        super().__init__(daemon=True)
        self._programs, self._threads = programs, threads
        self.sent = driver.NOTHING

    def run(self) -> None:
        while self.sent.threads < self._threads:
            self.sent = self.sent.plus(driver.drive(self._programs, threads=20, parallel=7, rounds=11, reasons=2))
            time.sleep(0.04)


@pytest.mark.parametrize("seed", range(2))
def test_kills_lose_no_exit(start: Callable[..., Service], systemd: FakeSystemd, seed: int) -> None:
    """`linger` is longer than the test, and the pools are large enough, so the last page must have every exit."""
    moments = random.Random(seed)
    config = "run_as: nobody\nlinger: 1h\n"
    service = start(config=config, systemd=systemd)
    service.up()
    systemd.wait_for("FDNAME=state")
    programs = driver.programs_of(service.pid)
    churn = Churn(programs, often(6_000, 1_500))
    churn.start()
    kills = 0
    while churn.is_alive():
        scraper = Scraper(service, formats=(TEXT,))
        scraper.start()
        time.sleep(0.5 + moments.random())
        service.end(signal.SIGKILL)
        kills += 1
        scraper.stop()
        service = start(config=config, systemd=systemd)
        service.logged("kept_over_restart=true")
    churn.join()
    service.up()
    totals = Scraper(service, formats=(TEXT,)).finish()
    assert agree(totals, churn.sent) == {}
    assert totals.own("recycling_pending") == 0
    assert [line for line in service.log if "level=info" not in line] == []
    say(
        "SIGKILL while vCPUs start and end",
        kills=kills,
        threads=churn.sent.threads,
        exits_sent=churn.sent.exits,
        on_the_pages=totals.total(EXITS),
    )
    driver.close(list(programs.values()))
