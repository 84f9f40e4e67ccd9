"""The whole service while vCPUs start and end: the sums over its pages equal the exits that were sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import driver
from tests.faults.figures import often, say
from tests.faults.service import EXITS, TEXT, Scraper, Service, agree

Start = Callable[..., Service]

SLOTS, CELLS = 4096, 16384
"""Sizes of the pools. They also limit the number of lingering vCPUs."""

LINGER = 8  # seconds; short enough that the lingering threads, with three cells each, stay below the limit

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize(("vcpus", "kind"), [(0, "threads of one process"), (4, "VMs of four threads")])
def test_every_exit_of_short_lived_vcpus_is_on_a_page(start: Start, vcpus: int, kind: str) -> None:
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
    assert totals.longest < LINGER, "this machine is too slow for this test"
    dropped = agree(totals, sent)
    assert scraper.failed == 0
    assert service.descriptors() == before
    say(
        f"the whole service, {kind}",
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


def test_every_exit_beyond_the_linger_limit_is_counted_as_unserved(start: Start) -> None:
    """Thousands of threads end between two pages. unserved_exits_total has every exit that no page has."""
    service = start(config=f"linger: 1h\nlimits: {{vcpus: {SLOTS}, cells: {CELLS}}}\n")
    service.up()
    programs = driver.programs_of(service.pid)
    scraper = Scraper(service, formats=(TEXT,))
    scraper.once()
    sent = driver.NOTHING
    for _ in range(often(23, 5)):
        # The driver is one process: it may have 60 % of the slots at a time (share.bpf.h).
        sent = sent.plus(driver.drive(programs, threads=2003, parallel=7, rounds=101, reasons=2))
        service.get(path="/-/vcpus")  # collects and frees slots, without a scrape of /metrics
    totals = scraper.finish()
    # Three cells for each thread: two exit reasons, and one reason of returns to the VMM.
    lingering = (SLOTS + 1 + CELLS + 1) // 3
    assert agree(totals, sent) == {"unserved": (sent.threads - lingering) * 101}
    assert totals.own("expired_early_total") == sent.threads - lingering
    say(
        "more ended vCPUs than may linger",
        threads=sent.threads,
        exits_sent=sent.exits,
        on_the_pages=totals.total(EXITS),
        on_none=totals.own("unserved_exits_total"),
        expired_early=totals.own("expired_early_total"),
    )
    driver.close(list(programs.values()))
    assert service.end() == 0
