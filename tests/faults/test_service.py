"""The whole service under churn: the sums over its pages are what was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults import driver
from tests.faults.figures import often, say
from tests.faults.service import EXITS, Scraper, Service, agree

Start = Callable[..., Service]

pytestmark = pytest.mark.kvm


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(**options: object) -> Service:
            service = Service(tmp_path, **options)  # type: ignore[arg-type]
            stack.callback(service.end)
            return service

        yield begin


@pytest.mark.parametrize(("vcpus", "what"), [(0, "threads of one process"), (4, "VMs of four threads")])
def test_churn_is_on_the_page(start: Start, vcpus: int, what: str) -> None:
    service = start(config="linger: 2s\n")
    service.up()
    programs = driver.programs_of(service.pid)
    scraper = Scraper(service)
    scraper.once()
    before = service.descriptors()
    scraper.start()
    threads = often(20_012, 2_012)
    sent = driver.drive(programs, threads=threads, parallel=5, rounds=1009, reasons=2, vcpus=vcpus)
    totals = scraper.finish()
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
        seconds=sent.seconds,
    )
    driver.close(list(programs.values()))
    assert service.end() == 0
