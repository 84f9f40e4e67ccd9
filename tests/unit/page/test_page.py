"""The page at /: hostile names, its size, its warnings and links, and how often it collects."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from exporter.model.records import TimeParts
from exporter.page.markup import BUDGET
from exporter.page.page import HEADERS, HtmlPage, PageData
from exporter.page.view import Health
from exporter.readings.reading import Reading, nothing
from tests.support.crowd import NAME, crowd
from tests.support.readings import counted, reading, thread
from tests.unit.page.views import UP, vcpu


def page(now: Reading, health: Health = UP, **more: str) -> bytes:
    options = {"kernel": "6.1.0", "telemetry_path": "/metrics", **more}
    return HtmlPage(lambda: PageData(now, health), lambda: 1.0, **options).page()


class Tags(HTMLParser):
    """This parser collects the tags and the text of a page."""

    def __init__(self, made: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(made.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("parts", [None, TimeParts(10**17, 7 * 10**17)], ids=["not split", "split"])
def test_4096_vcpus_with_hostile_names_stay_under_50_kilobytes(parts: TimeParts | None) -> None:
    made = page(crowd(parts), Health(False, 10**9, 4096), notice=NAME, kernel=NAME, telemetry_path="/<metrics>\"'")
    assert len(made) < 50_000
    tags = Tags(made).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert "img" not in [tag for tag, _ in tags]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on") or name == "style"]
    assert "\u202e" not in made.decode()
    assert made.count(b"<details") == 20
    assert b"and 44 more VMs" in made
    assert b"and 4,086 more vCPUs" in made
    assert made.count(b"and 4 more reasons") == 3
    shown = [block.count(b"<tr><th scope=row") for block in made.split(b"<details")[1:]]
    assert shown[:3] == [8, 8, 8]


def test_twenty_ordinary_vms_fit_on_the_page() -> None:
    """Each VM has eight reasons. Each reason has durations in ten octaves."""
    spread = {number: 1 + number % 7 for number in range(40, 80)}
    reasons = [counted(f"EC_DABT_{code}", "mmio", 10**6 + code, spread, 10**9) for code in range(8)]
    vms = [thread(pid, pid, *reasons, vm=f"compute-{pid:04}") for pid in range(1, 31)]
    made = page(reading(100, *vms))
    shown = [block.count(b"<tr><th scope=row") for block in made.split(b"<details")[1:]]
    assert shown[:3] == [8, 8, 8]
    assert (len(shown), min(shown)) == (20, 3)  # later VMs have fewer rows, because the page is full
    assert b"and 10 more VMs" in made
    assert len(made) < 50_000
    assert sum(map(len, re.findall(rb"<details.*?</details>", made))) < BUDGET


def test_each_problem_is_shown_with_a_remedy() -> None:
    made = page(reading(1, counters={"dropped_no_slot": 3, "unmatched_exit": 5}), Health(False, 2, 1)).decode()
    warnings = re.findall(r"<li>([^<]*)</li>", made[made.index("<main") :])
    assert warnings == [
        "3 exits were not counted: no room for their vCPU (raise limits.vcpus and restart)",
        "Nothing is counted: KVM is not attached yet, or the last collection failed; the log says why.",
        "2 collections failed since the start; the log says why.",
        "The VM of 1 vCPU is still being looked up; its pid is shown until then.",
    ]
    assert "Exporter <b>down</b> · 2 collection errors · 1 look-up pending" in made
    assert "No exit was seen yet" in made
    assert "<li>" not in page(reading(1)).decode().partition("<main")[2]


def test_links_are_relative_and_nothing_is_loaded_from_other_hosts() -> None:
    made = page(nothing(0), notice="<replay>", telemetry_path="/kvm/métriques")
    tags = Tags(made).tags
    assert [attributes["href"] for tag, attributes in tags if tag == "a"] == [
        "./kvm/m%C3%A9triques",
        "./-/vcpus",
        "./-/healthy",
    ]
    assert b"&lt;replay&gt;" in made
    assert not [attributes for _, attributes in tags if "src" in attributes]
    assert re.findall(rb"https?://[^' ]*", made) == [b"http://www.w3.org/2000/svg"]
    policy = dict(HEADERS)["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_many_browsers_cost_only_one_collection_a_second() -> None:
    now, looked = [100.0], []

    def look() -> PageData:
        looked.append(now[0])
        return PageData(reading(now[0], vcpu(2, round(now[0]))), UP)

    made = HtmlPage(look, lambda: now[0], kernel="", telemetry_path="/metrics")
    first = made.fragment()
    now[0] = 100.9
    assert made.fragment() == first
    assert first in made.page()
    assert looked == [100.0]
    now[0] = 101.0
    assert made.fragment() != first
    assert looked == [100.0, 101.0]
    now[0] = 160.9
    made.forget()
    now[0] = 161.0
    made.forget()
    assert b"since counting began" in made.fragment()
