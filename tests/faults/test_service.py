"""The whole service under churn: the sums over its pages are what was sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import driver
from tests.faults.figures import often, say
from tests.faults.service import EXITS, TEXT, Scraper, Service, agree

Start = Callable[..., Service]

SLOTS, CELLS = 4096, 16384
"""The pools, and with them what may linger."""

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
    service = start(config=f"linger: 1h\nlimits: {{vcpus: {SLOTS}, cells: {CELLS}}}\n")
    service.up()
    programs = driver.programs_of(service.pid)
    scraper = Scraper(service, formats=(TEXT,))
    scraper.once()
    sent = driver.NOTHING
    for _ in range(often(11, 3)):
        sent = sent.plus(driver.drive(programs, threads=4001, parallel=7, rounds=101, reasons=2))
        service.get(path="/-/vcpus")  # collects, so that there is room for the next turn; and is no page of /metrics
    totals = scraper.finish()
    # Three cells each: two reasons, and one of the exits to the VMM.
    lingering = (SLOTS + 1 + CELLS + 1) // 3
    assert agree(totals, sent) == {"unserved": (sent.threads - lingering) * 101}
    assert totals.own("expired_early_total") == sent.threads - lingering
    say(
        "more ends than may linger",
        threads=sent.threads,
        exits_sent=sent.exits,
        on_the_pages=totals.total(EXITS),
        on_none=totals.own("unserved_exits_total"),
        expired_early=totals.own("expired_early_total"),
    )
    driver.close(list(programs.values()))
    assert service.end() == 0
