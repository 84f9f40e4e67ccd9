"""The protobuf format: length-delimited io.prometheus.client.MetricFamily messages with native histograms.

The encoder is written by hand, because it has few messages and must be fast. The field numbers are those of
https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto. The tests decode
every page with Google's protobuf.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from operator import sub

from prometheus_client.metrics_core import Metric

from exporter.metrics.exposition.buckets import ClassicBounds, nonzero, spans
from exporter.metrics.families import CounterFamily, Family, HistogramFamily, PartFamily, PlainFamily
from exporter.metrics.series import Series
from exporter.model.buckets import SCHEMA, ZERO_THRESHOLD

_COUNTER, _GAUGE, _UNTYPED, _HISTOGRAM = 0, 1, 3, 4  # enum MetricType
_KINDS = {"counter": _COUNTER, "gauge": _GAUGE, "info": _GAUGE}
_VALUE_FIELD = {_COUNTER: 3, _GAUGE: 2, _UNTYPED: 5}  # fields of Metric; each is a message with a double as field 1

_pack_double = struct.Struct("<d").pack


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_TABLE = [_varint(value) for value in range(1 << 14)]
"""All varints of one and two bytes. They cover all lengths and most counts."""


def varint(value: int) -> bytes:
    """Encode a non-negative integer, seven bits in each byte."""
    return _TABLE[value] if value < 1 << 14 else _varint(value)


def zigzag(value: int) -> bytes:
    """Encode a signed integer as sint32 or sint64."""
    return varint(value * 2 if value >= 0 else -value * 2 - 1)


def _tag(field: int, wire: int) -> bytes:
    return varint(field << 3 | wire)


def _bytes_field(field: int, content: bytes) -> bytes:
    return _tag(field, 2) + varint(len(content)) + content


def _double(field: int, value: float) -> bytes:
    return _tag(field, 1) + _pack_double(value)


def _labels(names: Iterable[str], values: Iterable[str]) -> bytes:
    return b"".join(
        _bytes_field(1, _bytes_field(1, name.encode()) + _bytes_field(2, value.encode()))
        for name, value in zip(names, values)
    )


def _family(name: str, text: str, kind: int, metrics: list[bytes]) -> Iterator[bytes]:
    """Yield a delimited MetricFamily of encoded `metric` fields."""
    head = _bytes_field(1, name.encode()) + _bytes_field(2, text.encode()) + _tag(3, 0) + varint(kind)
    yield varint(len(head) + sum(map(len, metrics))) + head
    yield from metrics


def _simple(kind: int, labels: bytes, value: float) -> bytes:
    return _bytes_field(4, labels + _bytes_field(_VALUE_FIELD[kind], _double(1, value)))


class _ClassicEncoder:
    """Encodes the classic buckets of a histogram. The parts that do not depend on its counts are made once."""

    def __init__(self, classic: ClassicBounds) -> None:
        self._last = classic.last
        self._bounds = [_double(2, bound) for bound in classic.bounds]
        below = self._start(0)
        self._empty = [
            b"".join(below + bound for bound in self._bounds[:number]) for number in range(len(self._last) + 1)
        ]
        """By number: this many buckets without a duration."""
        self._rest = [(b"", *self._bounds[number:]) for number in range(len(self._last) + 1)]

    @staticmethod
    def _start(cumulative: int) -> bytes:
        """Return a field `bucket` up to its bound, which takes 9 bytes."""
        count = _tag(1, 0) + varint(cumulative)
        return _tag(3, 2) + varint(len(count) + 9) + count

    def encode(self, first: int, counts: list[int]) -> list[bytes]:
        """Return the fields of all buckets. `counts` begin at the kernel's bucket `first`.

        Most bounds lie below the shortest or above the longest duration. Their fields need no loop in Python.
        """
        below = bisect_left(self._last, first)
        above = bisect_left(self._last, first + len(counts) - 1, below)
        parts = [self._empty[below]]
        if below < above:
            cumulated = list(accumulate(counts))
            parts += (
                self._start(cumulated[last - first]) + bound
                for last, bound in zip(self._last[below:above], self._bounds[below:above])
            )
        parts.append(self._start(sum(counts)).join(self._rest[above]))
        return parts


class ProtobufRenderer:
    """Renders families. A series whose values did not change is not encoded again.

    `native` False leaves out the native buckets. `classic` None leaves out the classic buckets.
    """

    def __init__(self, classic: ClassicBounds | None, *, native: bool) -> None:
        self._classic = _ClassicEncoder(classic) if classic else None
        self._native = native

    def render(self, families: list[Family]) -> Iterator[bytes]:
        """Yield the page in pieces. A family without series is left out: the format cannot express it."""
        for family in families:
            if isinstance(family, PlainFamily):
                kind = _KINDS[family.kind]
                metrics = [_simple(kind, _labels(family.labels, labels), value) for labels, value in family.samples]
            elif isinstance(family, CounterFamily):
                kind = _COUNTER
                metrics = [series.counter_message or self._counter(family, series) for series in family.series]
            elif isinstance(family, PartFamily):
                kind = _COUNTER
                metrics = [_counter(_labels_of(family, series), value) for series, value in family.values()]
            else:
                kind = _HISTOGRAM
                metrics = [series.histogram_message or self._histogram(family, series) for series in family.series]
            if metrics:
                yield from _family(family.name, family.help, kind, metrics)

    def _counter(self, family: CounterFamily, series: Series) -> bytes:
        message = series.counter_message = _counter(_labels_of(family, series), series.total().exits)
        return message

    def _histogram(self, family: HistogramFamily, series: Series) -> bytes:
        total = series.total()
        first, counts = nonzero(total.buckets)
        parts = [_SAMPLE_COUNT, varint(sum(counts)), _SAMPLE_SUM, _pack_double(total.sum_ns / 1e9)]
        if self._classic:
            parts += self._classic.encode(first, counts)
        if self._native:
            parts.append(_NATIVE_HEAD)
            if counts and first == 0:
                parts.append(_ZERO_COUNT + varint(counts[0]))
                first, counts = 1, counts[1:]
            _add_native(parts, first, counts)
        histogram = b"".join(parts)
        labels = _labels_of(family, series)
        size = varint(len(histogram))
        whole = varint(len(labels) + 1 + len(size) + len(histogram))
        message = series.histogram_message = b"".join((_METRIC, whole, labels, _HISTOGRAM_FIELD, size, histogram))
        return message


def _counter(labels: bytes, value: float) -> bytes:
    return _METRIC + varint(len(labels) + len(_COUNTER_HEAD) + 8) + labels + _COUNTER_HEAD + _pack_double(value)


def _labels_of(family: CounterFamily | HistogramFamily | PartFamily, series: Series) -> bytes:
    labels = series.labels_message
    if labels is None:
        labels = series.labels_message = _labels(family.labels, series.labels)
    return labels


_SAMPLE_COUNT, _SAMPLE_SUM = _tag(1, 0), _tag(2, 1)
_METRIC, _HISTOGRAM_FIELD = _tag(4, 2), _tag(7, 2)
_COUNTER_HEAD = _tag(3, 2) + varint(9) + _tag(1, 1)
"""Start of the field `counter` of a Metric: a message with one double."""
_ZERO_COUNT = _tag(7, 0)
_NATIVE_HEAD = _tag(5, 0) + zigzag(SCHEMA) + _double(6, ZERO_THRESHOLD)
_NO_SPAN = _bytes_field(12, _tag(1, 0) + zigzag(0) + _tag(2, 0) + varint(0))
"""A span without buckets: it marks an empty histogram as native."""


_FEW = 8192
_DELTAS = {delta: zigzag(delta) for delta in range(1 - _FEW, _FEW)}
"""Encoded small deltas. Most deltas are small, and this table halves the time of a page."""

_OFFSET, _LENGTH, _POSITIVE_SPAN, _POSITIVE_DELTAS = _tag(1, 0), _tag(2, 0), _tag(12, 2), _tag(13, 2)


def _add_native(parts: list[bytes], first: int, counts: list[int]) -> None:
    """Append spans and deltas of the positive buckets."""
    filled: list[int] = []
    end = 0
    for index, run in spans(first, counts):
        span = _OFFSET + _DELTAS[index - end] + _LENGTH + varint(len(run))
        parts += (_POSITIVE_SPAN, varint(len(span)), span)
        end = index + len(run)
        filled = filled + run if filled else run
    if not filled:
        parts.append(_NO_SPAN)
        return
    deltas = map(sub, filled, [0, *filled])
    try:
        packed = b"".join(map(_DELTAS.__getitem__, deltas))
    except KeyError:
        packed = b"".join(map(zigzag, map(sub, filled, [0, *filled])))
    parts += (_POSITIVE_DELTAS, varint(len(packed)), packed)


def registry_metrics(metrics: Iterable[Metric]) -> Iterator[bytes]:
    """Yield the metrics of prometheus_client's registry as families. The registry has only counters and gauges."""
    for metric in metrics:
        kind = _KINDS.get(metric.type, _UNTYPED)
        samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
        if samples:
            encoded = [_simple(kind, _labels(s.labels, s.labels.values()), s.value) for s in samples]
            yield from _family(samples[0].name, metric.documentation, kind, encoded)
