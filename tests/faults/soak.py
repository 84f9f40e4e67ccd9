"""Run the service at full load for half an hour: check that its memory stays constant, and that no exit is lost.

    python3 -m tests.faults.soak [--minutes 30]

Threads start and end all the time, and all formats are scraped every second. Every 10 s the program prints a line with
the daemon's memory (KiB), descriptors and threads. Exit status 1 if a column is not steady or a sum is wrong.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults import driver
from tests.faults.service import EXITS, Scraper, Service, agree

_SAMPLE_SECONDS = 10
_WARM_UP = 0.25  # this part is left out: pools fill, caches and Python's heap grow to their size


class Sample(NamedTuple):
    seconds: float
    rss: int
    pss: int
    descriptors: int
    threads: int
    pages: int


class Trend(NamedTuple):
    """The straight line that fits the samples after the warm-up best (least squares)."""

    mean: float
    growth: float
    """How much the line grows from the first to the last sample."""
    noise: float
    """The standard deviation of the samples from the line."""

    @property
    def steady(self) -> bool:
        """True if the growth is below twice the noise, or below 1 % of the mean."""
        return self.growth < max(2 * self.noise, 0.01 * self.mean)


def trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    middle, mean = statistics.fmean(times), statistics.fmean(values)
    square = sum((time - middle) ** 2 for time in times)
    slope = sum((time - middle) * (value - mean) for time, value in zip(times, values)) / square
    noise = statistics.pstdev(value - slope * (time - middle) for time, value in zip(times, values))
    return Trend(mean, slope * (times[-1] - times[0]), noise)


def run(seconds: int, folder: Path) -> bool:
    service = Service(folder, config="linger: 10s\n")
    try:
        service.up()
        programs = driver.programs_of(service.pid)
        scraper = Scraper(service, pause=1.0)
        scraper.once()
        scraper.start()
        driven = driver.begin(programs, seconds=seconds, parallel=2, rounds=20_011, reasons=2)
        samples = _watch(service, scraper, driven.poll)
        sent = driver.finish(driven)
        totals = scraper.finish()
        print(
            f"sent: threads {sent.threads}, thread IDs reused {sent.reused}, exits {sent.exits}\n"
            f"on {totals.pages} text pages: exits {totals.total(EXITS)}; scrapes failed {scraper.failed}"
        )
        print(f"on no page: {agree(totals, sent) or 0}")
        return _verdict(samples) and scraper.failed == 0
    finally:
        status = service.end()
        print(f"ended with status {status}; log: {[line for line in service.log if 'level=info' not in line]}")


def _watch(service: Service, scraper: Scraper, ended: Callable[[], int | None]) -> list[Sample]:
    print("seconds    RSS    PSS descriptors threads  pages")
    samples: list[Sample] = []
    started = time.monotonic()
    while ended() is None:
        seconds = time.monotonic() - started
        memory = service.memory()
        made = Sample(seconds, *memory, service.descriptors(), service.threads(), scraper.totals.pages)
        samples.append(made)
        print("{:7.0f} {:6} {:6} {:11} {:7} {:6}".format(*made), flush=True)
        time.sleep(max(0.0, started + len(samples) * _SAMPLE_SECONDS - time.monotonic()))
    return samples


def _verdict(samples: Sequence[Sample]) -> bool:
    warm = samples[int(len(samples) * _WARM_UP) :]
    steady = True
    for name in ("rss", "pss", "descriptors", "threads"):
        found = trend([sample.seconds for sample in warm], [getattr(sample, name) for sample in warm])
        steady &= found.steady
        print(
            f"{name}: mean {found.mean:.0f}, growth {found.growth:+.1f} in {warm[-1].seconds - warm[0].seconds:.0f} s, "
            f"noise {found.noise:.1f}: {'steady' if found.steady else 'GROWS'}"
        )
    return steady


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if run(round(parser.parse_args().minutes * 60), Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
