"""A page of metrics in the format that a scraper asks for."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from exporter.common.batches import batches
from exporter.config.options import Histogram
from exporter.metrics.exposition.buckets import ClassicBounds
from exporter.metrics.exposition.negotiation import Format, accepts_gzip, choose_format
from exporter.metrics.exposition.protobuf import ProtobufRenderer, registry_metrics
from exporter.metrics.exposition.text import TextRenderer
from exporter.metrics.families import Family

_FASTEST = 1  # zlib's level: half the size of the page, in a fifth of the time of the default level
_GZIP = 31  # zlib's window bits for a gzip header


class MetricsPage(NamedTuple):
    """A page of metrics: its headers without the length, and its body in pieces.

    Most pieces are cached bytes of the renderers, so a page of 20 MB does not take another 20 MB.
    """

    headers: list[tuple[str, str]]
    pieces: list[bytes]

    @property
    def body(self) -> bytes:
        """The body in one piece."""
        return b"".join(self.pieces)


class Exposition:
    """Renders pages in all formats. The renderers keep their caches on the series."""

    def __init__(self, histogram: Histogram, registry: CollectorRegistry, *, gzip: bool = True) -> None:
        classic = ClassicBounds.of(histogram.classic)
        self._gzip = gzip
        self._registry = registry
        self._text = TextRenderer(classic)
        with_classic = histogram.classic.in_protobuf or not histogram.native
        self._protobuf = ProtobufRenderer(classic if with_classic else None, native=histogram.native)

    def page(self, families: list[Family], accept: str, accept_encoding: str) -> MetricsPage:
        """Render the page for a scraper that sent these headers."""
        chosen = choose_format(accept)
        pieces = self._pieces(chosen, families)
        headers = [("Content-Type", chosen.content_type), ("Vary", "Accept, Accept-Encoding")]
        if self._gzip and accepts_gzip(accept_encoding):
            return MetricsPage([*headers, ("Content-Encoding", "gzip")], list(_compressed(pieces)))
        return MetricsPage(headers, list(pieces))

    def _pieces(self, chosen: Format, families: list[Family]) -> Iterator[bytes]:
        if chosen.name == "protobuf":
            yield from self._protobuf.render(families)
            yield from registry_metrics(self._registry.collect())
        elif chosen.name == "openmetrics":
            yield from self._text.render(families, openmetrics=True)
            yield openmetrics.generate_latest(self._registry)  # with the end mark
        else:
            yield from self._text.render(families, openmetrics=False)
            yield generate_latest(self._registry)


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP)
    yield from map(compressor.compress, batches(pieces))
    yield compressor.flush()
