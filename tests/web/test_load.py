"""The requirement: beside 2,000 bad connections the next good scrape is answered within a second."""

from __future__ import annotations

from tests.web import load


def test_a_good_scrape_beside_two_thousand_bad_connections() -> None:
    found = load.measure()
    for _ in range(3):
        if max(found.loaded) < 1:
            break
        found = load.measure()  # something else may have had the machine: what is ours comes again
    assert len(found.loaded) == 22
    assert max(found.loaded) < 1
    before, _, after, _, last = found.descriptors
    assert (after, last) == (before, before)
    _, _, first, _, second = found.memory
    assert second < first + 8, "a second flood leaves no more behind than the first"
