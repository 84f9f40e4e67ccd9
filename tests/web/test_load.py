"""With 2,000 bad connections open, every good scrape is answered, and nothing of the flood stays behind.

How fast they are answered is a figure: `make hostile` prints it.
"""

from __future__ import annotations

from tests.web import load

CONNECTIONS = 2000
LEFT_BEHIND_MB = CONNECTIONS * 16 / 1024
"""A second flood may leave less than 16 KB for each of its connections. The allocator keeps some memory."""


def test_good_scrapes_are_answered_during_a_flood() -> None:
    found = load.measure()
    assert len(found.loaded) == 22
    before, _, after, _, last = found.descriptors
    assert (after, last) == (before, before)
    _, _, first, _, second = found.memory
    assert second < first + LEFT_BEHIND_MB, "the second flood left more memory in use than the first"
