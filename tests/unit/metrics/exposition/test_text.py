"""Records are rendered as text and read back: every value is exact."""

from __future__ import annotations

import pytest
from hypothesis import given

from exporter.config.options import Classic, Histogram, Level
from exporter.metrics.kvm import Identified
from tests.support import pages
from tests.support.exits import NAMES, Name, families, snapshots
from tests.support.pages import OPENMETRICS, TEXT
from tests.unit.metrics.exposition.wanted import CLASSICS, COUNTERS, HISTOGRAMS, LEVELS_OF_BOTH, as_text, plain, wanted


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
@given(vcpus=snapshots(), name=NAMES, level=LEVELS_OF_BOTH, classic=CLASSICS)
def test_text_has_every_value_of_the_records(
    accept: str, vcpus: list[Identified], name: Name, level: Level, classic: Classic
) -> None:
    body = pages.page(families(vcpus, level, name), accept, histogram=Histogram(classic=classic)).body
    found = {family.name: family for family in pages.read_text(body)}
    suffix = "_total" if accept == OPENMETRICS else ""
    stem = (lambda family: family[: -len("_total")]) if accept == OPENMETRICS else str

    for family, series in wanted(vcpus, level.counters, name, COUNTERS).items():
        values = pages.simple(found[stem(family)], suffix)
        assert values == {labels: str(total.exits) for labels, total in series.items()}
        assert found.pop(stem(family)).kind == "counter"
    for family, series in wanted(vcpus, level.histograms, name, HISTOGRAMS).items():
        lines = pages.histograms(found[family])
        assert lines == {labels: as_text(total, classic) for labels, total in series.items()}
        assert found.pop(family).kind == "histogram"
    for family, samples in plain(vcpus, name, level).items():
        counter = family.endswith("_total")
        values = pages.simple(found[stem(family) if counter else family], suffix if counter else "")
        assert values == {labels: repr(value) for labels, value in samples.items()}
        assert found.pop(stem(family) if counter else family).kind == ("counter" if counter else "gauge")
    assert not found
    pages.agrees_with_client(body, accept)
