"""The totals of a recording: events and lost events by kind, and the times of the first and the last event."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping, Sequence

from exporter.recording.events import COUNTED, Kind


class RecordingTotals:
    """Sums over the blocks that were written or read so far."""

    def __init__(self) -> None:
        self.events: Counter[Kind] = Counter()
        self.lost: Counter[Kind] = Counter()
        self.first_ns = self.last_ns = 0

    def add(self, kinds: Sequence[Kind], numbers: Sequence[int], times: Sequence[int]) -> None:
        """Add the events of a block: event i has the kind kinds[numbers[i]] and the time times[i] ns.

        The block has at least one event.
        """
        for number, count in Counter(numbers).items():
            self.events[kinds[number]] += count
        first = min(times)
        self.first_ns = min(self.first_ns, first) if self.first_ns else first
        self.last_ns = max(self.last_ns, *times)

    def counted(self) -> int:
        """Number of events. Announcements of threads do not count."""
        return sum(self.events[kind] for kind in COUNTED)

    def by_name(self) -> tuple[dict[str, int], dict[str, int]]:
        """Events, and lost events, by the names of their kinds. An END block holds both."""
        return by_name(self.events), by_name(self.lost)


def by_name(counts: Mapping[Kind, int]) -> dict[str, int]:
    """Counts by the names of their kinds: exit, entry, userspace_exit, thread_end."""
    return {kind.name.lower(): counts[kind] for kind in COUNTED}


LOST = struct.Struct(f"<QQ{len(COUNTED)}Q")
"""Start and end on CLOCK_MONOTONIC in ns, and the number of lost events of each kind."""
