"""The text formats 0.0.4 and OpenMetrics 1.0. They differ only in headers.

Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and the OpenMetrics specification.
A printed number is parsed as the same float again. `le` values are powers of two, so their text is exact.
"""

from __future__ import annotations

from collections.abc import Iterator

from exporter.metrics.exposition.buckets import ClassicBounds
from exporter.metrics.families import CounterFamily, Family, HistogramFamily, PartFamily, PlainFamily
from exporter.metrics.series import Series

_LABEL_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


def escaped_labels(names: tuple[str, ...], values: tuple[str, ...]) -> bytes:
    """Return the text between the braces: `pid="1",vm="a\\"b"`."""
    pairs = (f'{name}="{value.translate(_LABEL_ESCAPES)}"' for name, value in zip(names, values))
    return ",".join(pairs).encode()


class TextRenderer:
    """Renders families. A series whose values did not change is not formatted again."""

    def __init__(self, classic: ClassicBounds) -> None:
        self._classic = classic
        self._templates: dict[str, bytes] = {}

    def render(self, families: list[Family], *, openmetrics: bool) -> Iterator[bytes]:
        """Yield the page in pieces, without the end mark of OpenMetrics."""
        for family in families:
            yield _header(family, openmetrics)
            if isinstance(family, CounterFamily):
                yield from self._counters(family)
            elif isinstance(family, HistogramFamily):
                yield from self._histograms(family)
            elif isinstance(family, PartFamily):
                yield from _parts(family)
            else:
                yield from _plain(family)

    def _counters(self, family: CounterFamily) -> Iterator[bytes]:
        start = family.name.encode() + b"{"
        for series in family.series:
            line = series.counter_line
            if line is None:
                line = series.counter_line = b"%b%b} %d\n" % (start, _labels(family, series), series.total().exits)
            yield line

    def _histograms(self, family: HistogramFamily) -> Iterator[bytes]:
        template = self._templates.get(family.name)
        if template is None:
            template = self._templates[family.name] = self._template(family.name)
        for series in family.series:
            yield series.histogram_lines or self._histogram(family, series, template)

    def _template(self, name: str) -> bytes:
        lines = [f'{name}_bucket{{%b,le="{bound!r}"}} %d\n' for bound in self._classic.bounds]
        lines += [f'{name}_bucket{{%b,le="+Inf"}} %d\n', f"{name}_count{{%b}} %d\n", f"{name}_sum{{%b}} %a\n"]
        return "".join(lines).encode()

    def _histogram(self, family: HistogramFamily, series: Series, template: bytes) -> bytes:
        total = series.total()
        values: list[int | float] = [*self._classic.cumulate(total.buckets)]
        values += (values[-1], total.sum_ns / 1e9)
        arguments: list[bytes | float] = [_labels(family, series)] * (2 * len(values))
        arguments[1::2] = values
        lines = series.histogram_lines = template % tuple(arguments)
        return lines


def _parts(family: PartFamily) -> Iterator[bytes]:
    start = family.name.encode() + b"{"
    for series, value in family.values():
        yield b"%b%b} %a\n" % (start, _labels(family, series), value)


def _labels(family: CounterFamily | HistogramFamily | PartFamily, series: Series) -> bytes:
    labels = series.labels_text
    if labels is None:
        labels = series.labels_text = escaped_labels(family.labels, series.labels)
    return labels


def _header(family: Family, openmetrics: bool) -> bytes:
    if isinstance(family, PlainFamily):
        kind = family.kind
    else:
        kind = "histogram" if isinstance(family, HistogramFamily) else "counter"
    name = family.name
    if openmetrics and kind == "counter":
        name = name[: -len("_total")]  # in OpenMetrics only the samples have the suffix
    text = family.help.translate(_LABEL_ESCAPES if openmetrics else _HELP_ESCAPES)
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()


def _plain(family: PlainFamily) -> Iterator[bytes]:
    start = family.name.encode() + b"{"
    for labels, value in family.samples:
        yield b"%b%b} %a\n" % (start, escaped_labels(family.labels, labels), value)
