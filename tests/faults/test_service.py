"""The whole service under churn: the sums over its pages are what was sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import driver
from tests.faults.figures import often, say
from tests.faults.service import EXITS, TEXT, Scraper, Service, agree

Start = Callable[..., Service]

LINGER = 8  # seconds; with three cells a thread, below what may linger at all

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize(("vcpus", "what"), [(0, "threads of one process"), (4, "VMs of four threads")])
def test_churn_is_on_the_page(start: Start, vcpus: int, what: str) -> None:
    service = start(config=f"linger: {LINGER}s\n")
    service.up()
    programs = driver.programs_of(service.pid)
    scraper = Scraper(service)
    scraper.once()
    before = service.descriptors()
    scraper.start()
    threads = often(10_012, 1_012)
    sent = driver.drive(programs, threads=threads, parallel=5, rounds=2003, reasons=2, vcpus=vcpus)
    totals = scraper.finish()
    assert totals.longest < LINGER, "this machine is too slow for what is to be shown here"
    dropped = agree(totals, sent)
    assert scraper.failed == 0
    assert service.descriptors() == before
    say(
        f"the whole service, {what}",
        threads=sent.threads,
        thread_ids_reused=sent.reused,
        exits_sent=sent.exits,
        on_the_pages=totals.total(EXITS),
        dropped=dropped,
        expired_early=totals.own("expired_early_total"),
        pages=totals.pages,
        longest_pause=f"{totals.longest:.1f} s",
        seconds=sent.seconds,
    )
    driver.close(list(programs.values()))
    assert service.end() == 0


def test_more_than_may_linger(start: Start) -> None:
    """Threads that end by the thousand between two pages: what went unseen is a counter's, to the last exit."""
    service = start(config="linger: 60s\n")
    service.up()
    programs = driver.programs_of(service.pid)
    scraper = Scraper(service, pause=1.0, formats=(TEXT,))
    scraper.once()
    scraper.start()
    threads = often(30_011, 20_011)
    sent = driver.drive(programs, threads=threads, parallel=7, rounds=101, reasons=2)
    totals = scraper.finish()
    unseen = agree(totals, sent)
    assert totals.own("expired_early_total") > 0
    say(
        "more ends than may linger",
        threads=sent.threads,
        exits_sent=sent.exits,
        on_the_pages=totals.total(EXITS),
        on_none=unseen,
        expired_early=totals.own("expired_early_total"),
        pages=totals.pages,
    )
    driver.close(list(programs.values()))
    assert service.end() == 0
