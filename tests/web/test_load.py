"""The requirement: with 2,000 bad connections open, a good scrape is answered within a second."""

from __future__ import annotations

from tests.web import load


def test_good_scrapes_are_answered_within_a_second_during_a_flood() -> None:
    found = load.measure()
    for _ in range(3):
        if max(found.loaded) < 1:
            break
        found = load.measure()  # another program may have used the CPU: our own slowness would come again
    assert len(found.loaded) == 22
    assert max(found.loaded) < 1
    before, _, after, _, last = found.descriptors
    assert (after, last) == (before, before)
    _, _, first, _, second = found.memory
    assert second < first + 8, "the second flood left more memory in use than the first"
