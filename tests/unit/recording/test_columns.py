"""The columns of a block of events are packed and unpacked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.recording import columns
from exporter.recording.events import COUNTED, Event, Kind, pack, unpack

_TIDS = st.integers(1, 1 << 22)


@given(
    st.lists(
        st.tuples(
            st.integers(0, (1 << 63) - 1),
            st.sampled_from(COUNTED),
            _TIDS,
            st.integers(0, (1 << 31) - 1),
        ),
        min_size=1,
        max_size=300,
    )
)
def test_packed_columns_are_unpacked(happened: list[tuple[int, Kind, int, int]]) -> None:
    events = [(ns, Event(kind, tid, 9, 3, code, 5)) for ns, kind, tid, code in happened]
    table = list(dict.fromkeys(pack(event) for _, event in events))
    numbers = [table.index(pack(event)) for _, event in events]
    content = columns.pack(table, numbers, [ns for ns, _ in events])
    assert len(content) == 32 * len(table) + 10 * len(events)
    again, numbers_again, times = columns.unpack(content, len(events))
    assert [(ns, unpack(again[number])) for ns, number in zip(times, numbers_again)] == events


@given(st.binary(max_size=2000), st.integers(0, 70_000))
def test_any_content_is_unpacked_or_raises_value_error(content: bytes, entries: int) -> None:
    try:
        table, _, _ = columns.unpack(content, entries)
        for what in table:
            unpack(what)
    except ValueError:
        pass
