"""The HTML of the page: a row, numbers, and hostile names."""

from __future__ import annotations

import pytest

from exporter.page.markup import figure, fragment, safe, span
from exporter.page.totals import History
from tests.support.readings import SECOND
from tests.unit.page.views import seen, vcpu


def test_a_row_has_this_html() -> None:
    """The interrupts are in bucket 64, which ends at 2^-7 s (7.81 ms)."""
    shown = fragment(seen(History(), 10, vcpu(2, 101, 3)))
    assert (
        "<tr><th scope=row>IRQ <i>interrupt</i><td>0.081<td>10.1<td>7.81\u00a0ms<td>7.81\u00a0ms<td>"
        '<svg role=img viewBox="-.5 -9 24 9" preserveAspectRatio=none><title>7.81\u00a0ms to 7.81\u00a0ms</title>'
        '<path d="M12 0v-9"/></svg>'
    ) in shown
    assert "<span class=lost>0.081 vCPUs</span><span class=rate>10.4 exits/s</span>" in shown
    assert "averages since counting began, 10.0\u00a0s ago" in shown


@pytest.mark.parametrize(
    ("vcpus", "shown"),
    [
        (0, "0"),
        (0.0004, "<0.001"),
        (0.0005, "0.001"),
        (0.0994, "0.099"),
        (0.0996, "0.10"),
        (0.37, "0.37"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (128, "128.0"),
        (4096, "4.10k"),
    ],
)
def test_numbers_of_vcpus_are_shortened(vcpus: float, shown: str) -> None:
    assert figure(vcpus) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(4, "4.0 s"), (99.9, "99.9 s"), (100, "2 min"), (3599, "1 h 0 min"), (12000, "3 h 20 min"), (792000, "9 d 4 h")],
)
def test_spans_have_at_most_two_units(seconds: float, shown: str) -> None:
    assert span(round(seconds * SECOND)).replace("\u00a0", " ") == shown


def test_hostile_names_are_escaped_and_cut() -> None:
    assert safe("<script>alert(1)</script>", 40) == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert safe("a\u202eb\x1b\x00\u2066", 40) == "a\\u202eb\\x1b\\x00\\u2066"
    assert safe("x" * 41, 40) == "x" * 39 + "…"
    assert safe("x" * 40, 40) == "x" * 40
    assert safe("\u202e" * 1_000_000, 40) == ("\\u202e" * 7)[:39] + "…"
    assert safe("'\"&", 40) == "&#x27;&quot;&amp;"
