"""The format and the encoding are chosen for a scraper, from headers that real scrapers send."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from exporter.metrics.exposition.negotiation import (
    OPENMETRICS,
    OPENMETRICS_OLD,
    PROTOBUF,
    TEXT,
    Format,
    accepts_gzip,
    choose_format,
)
from exporter.metrics.exposition.page import Exposition
from exporter.model.reason import Space
from tests.support import pages
from tests.support.exits import WEB, cell, families, of, record

DELIMITED = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
OLD = "application/openmetrics-text;version=0.0.1"
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"

SCRAPERS = {
    "none": ("", TEXT),
    "curl": ("*/*", TEXT),
    "Firefox": ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
    "Chrome": (CHROME + "application/signed-exchange;v=b3;q=0.7", TEXT),
    # The headers are from scrape/scrape.go of these versions. Grafana Agent and Alloy contain Prometheus' scraper.
    "Prometheus 2.30": ("application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", OLD),
    "Prometheus 2.42": (
        f"application/openmetrics-text;version=1.0.0,{OLD};q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        OPENMETRICS,
    ),
    "Prometheus 2.42, native histograms": (
        f"{DELIMITED},application/openmetrics-text;version=1.0.0;q=0.8,{OLD};q=0.75,"
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        PROTOBUF,
    ),
    "Prometheus 2.53": (
        f"application/openmetrics-text;version=1.0.0;q=0.5,{OLD};q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        OPENMETRICS,
    ),
    "Prometheus 2.53, native histograms": (
        f"{DELIMITED};q=0.5,application/openmetrics-text;version=1.0.0;q=0.4,{OLD};q=0.3,"
        "text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        PROTOBUF,
    ),
    "Prometheus 3": (
        f"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,{OLD};q=0.5,"
        "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        OPENMETRICS,
    ),
    "Prometheus 3, native histograms": (
        f"{DELIMITED};q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,{OLD};q=0.4,"
        "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        PROTOBUF,
    ),
    "Prometheus 3, scrape_protocols: [PrometheusText1.0.0]": (
        "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.2,*/*;q=0.1",
        TEXT,
    ),
    "Prometheus 1": (
        f"{DELIMITED};q=0.7,text/plain;version=0.0.4;q=0.3,"
        'application/json;schema="prometheus/telemetry";version=0.0.2;q=0.2,*/*;q=0.1',
        PROTOBUF,
    ),
    "VictoriaMetrics, Netdata": ("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT),
    "Telegraf": (f"{DELIMITED};q=0.7,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", PROTOBUF),
    "Metricbeat": ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", TEXT),
    "Datadog": (
        f"application/openmetrics-text;version=1.0.0,{OLD};q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        OPENMETRICS,
    ),
}


@pytest.mark.parametrize("scraper", SCRAPERS)
def test_each_real_scraper_gets_its_format(scraper: str) -> None:
    accept, expected = SCRAPERS[scraper]
    assert choose_format(accept) == (OPENMETRICS_OLD if expected == OLD else expected)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        # The format with the highest quality wins, in any order. Of formats with equal quality, the first one wins.
        ("text/plain;q=0.9,application/openmetrics-text;q=0.1", TEXT),
        ("text/plain;q=0.1,application/openmetrics-text;q=0.9", OPENMETRICS),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.5", OPENMETRICS),
        ("text/plain;q=0.5,application/openmetrics-text;q=0.5", TEXT),
        ("text/plain;q=0.999,application/openmetrics-text", OPENMETRICS),
        # q=0 refuses a format
        (f"{DELIMITED};q=0,application/openmetrics-text;q=0.1", OPENMETRICS),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0.000", TEXT),
        # a quality that is not a number from 0 to 1 counts as 0
        ("application/openmetrics-text;q=", TEXT),
        ("application/openmetrics-text;q", TEXT),
        ("application/openmetrics-text;q=x", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=inf", TEXT),
        ("application/openmetrics-text;q=-1", TEXT),
        ("application/openmetrics-text;q=2", TEXT),
        # These headers vary case, white space, quotes, and parameters after q.
        ("APPLICATION/OpenMetrics-Text;VERSION=1.0.0;Q=0.5", OPENMETRICS),
        (" application/openmetrics-text ; version = 1.0.0 ; q = 0.5 , text/plain ; q = 0.4 ", OPENMETRICS),
        ('application/openmetrics-text;version="1.0.0"', OPENMETRICS),
        ("application/openmetrics-text;q=0.5;version=9", OPENMETRICS),
        # These versions, protos and encodings are not served.
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;version=2.0.0,application/openmetrics-text;version=0.0.1", OPENMETRICS_OLD),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/vnd.google.protobuf", PROTOBUF),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text", TEXT),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=compact-text", TEXT),
        ("application/vnd.google.protobuf;proto=io.prometheus.write.v2.Request;encoding=delimited", TEXT),
        ("application/vnd.google.protobuf;encoding=text,application/openmetrics-text;q=0.1", OPENMETRICS),
        # These headers name no format of the exporter, or no format at all.
        ("application/json", TEXT),
        ("text/*", TEXT),
        (",", TEXT),
        (";", TEXT),
        (";q=1", TEXT),
        ("/", TEXT),
        ("=;=,=", TEXT),
        ("\0\xff,;q=\x80", TEXT),
        ("," * 100_000 + "application/openmetrics-text", TEXT),
    ],
)
def test_the_format_follows_type_version_and_quality(accept: str, expected: Format) -> None:
    assert choose_format(accept) == expected


TYPES = st.sampled_from(["text/plain", "*/*", "application/openmetrics-text", "application/vnd.google.protobuf"])
WORDS = st.sampled_from(["q", "q=", "version=", "0.0.4", "1.0.0", "proto=", "encoding=", "gzip", "0", "0.5", "1"])
MARKS = st.sampled_from([",", ";", "=", '"', " "])
HEADERS = st.text() | st.lists(TYPES | WORDS | MARKS | st.text(max_size=2)).map("".join)


@given(HEADERS)
def test_any_header_gets_one_of_the_formats(header: str) -> None:
    assert choose_format(header) in (TEXT, OPENMETRICS, OPENMETRICS_OLD, PROTOBUF)
    assert accepts_gzip(header) in (True, False)


GZIP = [
    ("", False),
    ("gzip", True),
    ("gzip, deflate, br, zstd", True),  # this header is from browsers and from curl --compressed
    ("deflate, gzip;q=1.0, *;q=0.5", True),
    ("GZIP", True),
    ("gzip;q=0.001", True),
    ("gzip;q=0", False),
    ("gzip;q=0, *", False),
    ("identity", False),
    ("identity;q=0.5, gzip;q=0.4", True),
    ("*", True),
    ("*;q=0", False),
    ("identity;q=1, *;q=0", False),
    ("gzip, *;q=0", True),
    ("gzip;q=0, gzip", False),  # if an encoding is given twice, the first one counts
    ("gzip, gzip;q=0", True),
    ("deflate, br", False),
    ("gzipped", False),
    ("gzip;q=x", False),
    (",;,", False),
]


@pytest.mark.parametrize(("header", "expected"), GZIP)
def test_gzip_is_accepted_by_name_or_by_star(header: str, expected: bool) -> None:
    assert accepts_gzip(header) == expected


MADE = families(of(WEB, record(100, 101, cell(Space.VMX, 12, 7, {10: 5}, 50), guest_ns=5)))


@pytest.mark.parametrize("accept", pages.FORMATS)
@pytest.mark.parametrize(("encoding", "expected"), GZIP)
def test_a_compressed_page_has_the_same_content(accept: str, encoding: str, expected: bool) -> None:
    exposition = pages.exposition()
    page = exposition.page(MADE, accept, "")
    asked = exposition.page(MADE, accept, encoding)
    assert page.headers == [("Content-Type", choose_format(accept).content_type), ("Vary", "Accept, Accept-Encoding")]
    assert asked.headers == [*page.headers, *([("Content-Encoding", "gzip")] if expected else [])]
    assert (gzip.decompress(asked.body) if expected else asked.body) == page.body


def test_a_page_of_many_batches_is_one_gzip_stream() -> None:
    """Batches of 256 KiB are compressed one after the other. All batches belong to one gzip stream."""
    vcpus = of(
        WEB, *(record(100, tid, *(cell(Space.VMX, n, n, {n: n}, n) for n in range(9))) for tid in range(101, 201))
    )
    exposition, made = pages.exposition(), families(vcpus)
    body = exposition.page(made, "", "").body
    packed = exposition.page(made, "", "gzip").body
    assert len(body) > 5 << 18
    assert gzip.decompress(packed) == body
    assert len(packed) < len(body) / 10


@pytest.mark.parametrize("accept", pages.FORMATS)
def test_gzip_can_be_switched_off(accept: str) -> None:
    page = Exposition(pages.DEFAULT, CollectorRegistry(), gzip=False).page(MADE, accept, "gzip")
    assert page == pages.page(MADE, accept, "")
