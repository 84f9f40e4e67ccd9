"""Readers of metrics pages.

Text is read by a strict reader and by the parsers of prometheus_client. Protobuf is read with Google's library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.config.options import Histogram
from exporter.metrics.exposition.page import Exposition, MetricsPage
from exporter.metrics.families import Family
from tests.support import prometheus_messages
from tests.support.exits import BUCKETS

TEXT = "text/plain;version=0.0.4"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
FORMATS = [TEXT, OPENMETRICS, PROTOBUF]

DEFAULT = Histogram()


def exposition(registry: CollectorRegistry | None = None, histogram: Histogram = DEFAULT) -> Exposition:
    """Return an exposition. Without a registry, it has no metrics of the exporter itself."""
    return Exposition(histogram, registry or CollectorRegistry())


def page(made: list[Family], accept: str = TEXT, encoding: str = "", histogram: Histogram = DEFAULT) -> MetricsPage:
    """Return the first page with these families."""
    return exposition(histogram=histogram).page(made, accept, encoding)


class Sample(NamedTuple):
    """One line of a page. The value is kept as text."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: str


class TextFamily(NamedTuple):
    """A family with its headers and samples."""

    name: str
    help: str
    kind: str
    samples: list[Sample]


_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"(,(?=[a-z])|$)')
_SAMPLE = re.compile(r"([a-z_]+)(?:\{(.*)\})? (\S+)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)")


def read_text(body: bytes) -> list[TextFamily]:
    """Return the families of a text page.

    Raises AssertionError unless each family has one HELP, one TYPE and one block.
    """
    found: list[TextFamily] = []
    lines = body.decode().split("\n")
    assert lines.pop() == "", "the last line does not end with a newline"
    if lines and lines[-1] == "# EOF":
        lines.pop()
    awaited = ""
    for line in lines:
        if line.startswith("# HELP "):
            _, _, name, text = line.split(" ", 3)
            found.append(TextFamily(name, text, "", []))
            awaited = f"# TYPE {name} "
        elif awaited:
            assert line.startswith(awaited), line
            found[-1] = found[-1]._replace(kind=line[len(awaited) :])
            awaited = ""
        else:
            assert not line.startswith("#"), line
            found[-1].samples.append(_sample(line))
    seen = [family.name for family in found]
    assert len(set(seen)) == len(seen), "a family has two blocks"
    return found


def _sample(line: str) -> Sample:
    match = _SAMPLE.fullmatch(line)
    assert match, line
    name, inside, value = match.groups()
    labels, at = [], 0
    while inside and at < len(inside):
        label = _LABEL.match(inside, at)
        assert label, line
        labels.append((label[1], _ESCAPED.sub(lambda escape: {"n": "\n"}.get(escape[1], escape[1]), label[2])))
        at = label.end()
    return Sample(name, tuple(labels), value)


def agrees_with_client(body: bytes, accept: str) -> None:
    """Assert that prometheus_client's parser reads the same samples as read_text()."""
    text = body.decode()
    families = parse_openmetrics(text) if accept == OPENMETRICS else parse_text(text)
    theirs = [sample for family in families for sample in family.samples]
    ours = [sample for family in read_text(body) for sample in family.samples]
    assert [(sample.name, sample.labels) for sample in theirs] == [(name, dict(labels)) for name, labels, _ in ours]
    for sample, (_, _, value) in zip(theirs, ours):
        # Some versions of prometheus_client return integers, others return floats.
        assert sample.value == (int(value) if isinstance(sample.value, int) else float(value))


@dataclass(frozen=True)
class TextHistogram:
    """A histogram of a text page. Each bucket is (le, cumulative count). All values are kept as text."""

    buckets: list[tuple[str, str]]
    count: str
    sum: str


def simple(family: TextFamily, suffix: str = "") -> dict[tuple[str, ...], str]:
    """Return the values of a counter or gauge by label values. Raises AssertionError if a label set occurs twice."""
    found = {}
    for sample in family.samples:
        assert sample.name == family.name + suffix
        labels = tuple(value for _, value in sample.labels)
        assert labels not in found
        found[labels] = sample.value
    return found


def histograms(family: TextFamily) -> dict[tuple[str, ...], TextHistogram]:
    """Return the histograms by label values. Raises AssertionError if the lines are in the wrong order."""
    found: dict[tuple[str, ...], TextHistogram] = {}
    buckets: list[tuple[str, str]] = []
    count = ""
    for name, labels, value in family.samples:
        key = tuple(text for label, text in labels if label != "le")
        assert key not in found
        if name == family.name + "_bucket":
            assert labels[-1][0] == "le"
            buckets.append((labels[-1][1], value))
        elif name == family.name + "_count":
            count = value
        else:
            assert name == family.name + "_sum"
            found[key] = TextHistogram(buckets, count, value)
            buckets, count = [], ""
    assert not buckets
    return found


def native_counts(histogram: Any) -> tuple[int, ...]:
    """Return the counts of all 142 buckets, from a native histogram of schema 2."""
    assert (histogram.schema, histogram.zero_threshold) == (2, 2.0**-23)
    counts = [0] * BUCKETS
    counts[0] = histogram.zero_count
    index = value = 0
    deltas = iter(histogram.positive_delta)
    for number, span in enumerate(histogram.positive_span):
        assert number == 0 or span.offset > 0
        index += span.offset
        for _ in range(span.length):
            value += next(deltas)
            assert 0 <= value < 1 << 63
            assert 1 <= index + 92 < BUCKETS
            counts[index + 92] = value
            index += 1
    assert next(deltas, None) is None
    return tuple(counts)


def read_protobuf(body: bytes) -> dict[str, Any]:
    """Return the families by name.

    Raises AssertionError if a family is empty, or if a family or label set occurs twice.
    """
    found: dict[str, Any] = {}
    for family in prometheus_messages.decode(body):
        assert family.name not in found
        assert family.metric
        found[family.name] = family
        keys = [tuple((pair.name, pair.value) for pair in metric.label) for metric in family.metric]
        assert len(set(keys)) == len(keys)
    return found


def label_values(metric: Any) -> tuple[str, ...]:
    """Return the label values of one protobuf metric."""
    return tuple(pair.value for pair in metric.label)
