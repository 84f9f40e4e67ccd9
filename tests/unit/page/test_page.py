"""The page at /: what is compared with what, golden figures, hostile names, and how large it gets."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from exporter.model.buckets import BUCKETS
from exporter.page.drawing import bars, duration
from exporter.page.markup import BUDGET, figure, fragment, safe, span
from exporter.page.page import HEADERS, HtmlPage, PageData
from exporter.page.totals import History
from exporter.page.view import Health, PageView, Stuck, view
from exporter.readings.reading import InProgress, Reading, VcpuReading, nothing
from tests.support.readings import SECOND, counted, reading, thread

UP = Health(True, 0, 0)


def vcpu(tid: int, irq: int, wfx: int = 0, *, pid: int = 1, vm: str | None = "web", **more: object) -> VcpuReading:
    """`irq` interrupts of 8 ms each, and `wfx` waits of 250 ms."""
    interrupts = counted("IRQ", "interrupt", irq, {64: irq}, irq * 8_000_000)
    waits = counted("WFx", "idle", wfx, {84: wfx}, wfx * 250_000_000)
    return thread(pid, tid, *([interrupts, waits] if wfx else [interrupts]), vm=vm, **more)  # type: ignore[arg-type]


def seen(history: History, at: float, *vcpus: VcpuReading, since_ns: int = 0) -> PageView:
    now = reading(at, *vcpus, since_ns=since_ns)
    return view(now, history.add(now, at), UP)


def figures(shown: PageView) -> list[tuple[str, float, list[tuple[str, int, float]]]]:
    return [(vm.name, round(vm.lost, 6), [(row.reason, row.exits, row.rate) for row in vm.rows]) for vm in shown.vms]


def test_the_first_look_is_since_counting_began_and_the_next_since_that_one() -> None:
    history = History()
    first = seen(history, 10, vcpu(2, 101, 3), vcpu(3, 7))
    assert (first.whole, first.elapsed_ns) == (True, 10 * SECOND)
    assert figures(first) == [("web", 0.0864, [("IRQ", 108, 10.8), ("WFx", 3, 0.3)])]
    second = seen(history, 12, vcpu(2, 114, 3), vcpu(3, 24), vcpu(4, 5, pid=9, vm="db"))
    assert (second.whole, second.elapsed_ns) == (False, 2 * SECOND)
    assert figures(second) == [("web", 0.12, [("IRQ", 30, 15.0)]), ("db", 0.02, [("IRQ", 5, 2.5)])]


def test_rates_are_over_about_four_seconds_whoever_asks() -> None:
    history = History()
    spans = [seen(history, at, vcpu(2, at * 10)).elapsed_ns // SECOND for at in (1, 3, 5, 7, 9, 14, 15, 16, 17, 18, 19)]
    assert spans == [1, 2, 4, 4, 4, 5, 6, 7, 8, 4, 5]
    assert len(history) <= 4


def test_what_is_kept_is_dropped_a_minute_after_the_last_look() -> None:
    history = History()
    seen(history, 1, vcpu(2, 1))
    history.forget(60.9)
    assert len(history) == 1
    history.forget(61)
    assert len(history) == 0
    assert seen(history, 62, vcpu(2, 1)).whole
    assert seen(history, 122, vcpu(2, 1)).whole
    assert not seen(history, 181, vcpu(2, 1)).whole


def test_no_difference_is_made_of_what_cannot_be_compared() -> None:
    """Counting began anew; or a vCPU that was in the sums is gone with what it counted."""
    history = History()
    seen(history, 10, vcpu(2, 100), vcpu(3, 50))
    gone = seen(history, 12, vcpu(2, 103))
    assert gone.whole
    assert figures(gone)[0][2] == [("IRQ", 103, 103 / 12)]
    assert figures(seen(history, 14, vcpu(2, 114)))[0][2] == [("IRQ", 11, 5.5)]
    assert seen(history, 16, vcpu(2, 3), since_ns=1).whole


def test_a_vcpu_that_ends_is_counted_to_its_end_and_not_again() -> None:
    history = History()
    seen(history, 10, vcpu(2, 100), vcpu(3, 50))
    ended = vcpu(3, 57, alive=False)
    assert figures(seen(history, 14, vcpu(2, 103), ended)) == [("web", 0.02, [("IRQ", 10, 2.5)])]
    assert figures(seen(history, 18, vcpu(2, 108), ended)) == [("web", 0.01, [("IRQ", 5, 1.25)])]
    assert figures(seen(history, 22, vcpu(2, 121))) == [("web", 0.026, [("IRQ", 13, 3.25)])]  # linger is over


def test_a_name_that_comes_later_does_not_begin_anew() -> None:
    """Nor is a VM shown twice while one of its vCPUs has no name yet."""
    history = History()
    assert figures(seen(history, 10, vcpu(2, 100, vm=None)))[0][0] == "1"
    named = seen(history, 12, vcpu(2, 103), vcpu(3, 1, vm=None))
    assert figures(named) == [("web", 0.016, [("IRQ", 4, 2.0)])]


def test_an_exit_in_flight_is_lost_time_and_listed_after_a_second() -> None:
    history = History()
    irq = counted("IRQ", "interrupt", 1)
    held = thread(1, 2, irq, vcpu="3", in_progress=InProgress("IRQ", "interrupt", SECOND))
    assert seen(history, 10, held).stuck == []
    later = held._replace(in_progress=InProgress("IRQ", "interrupt", 3 * SECOND))
    idle = vcpu(5, 0, 1, vcpu="4", in_progress=InProgress("WFx", "idle", 9 * SECOND))
    shown = seen(history, 12, idle, later)
    assert shown.stuck == [Stuck("web-1", "3", 2, "IRQ", 3 * SECOND)]
    assert [vm.lost for vm in shown.vms] == [1.0]
    made = fragment(shown)
    assert '<th scope="row"><bdi>web-1</bdi></th><td>3</td><td>IRQ</td><td>3.00\u00a0s</td>' in made
    assert "In an exit for more than 1\u00a0s, and not idle" in made


def test_vms_by_time_lost_and_idle_reasons_last() -> None:
    history = History()
    shown = seen(
        history,
        10,
        vcpu(2, 1, 1000, pid=1, vm="sleeps"),
        vcpu(3, 101, pid=2, vm="busy"),
        vcpu(4, 0, pid=3, vm="quiet"),
        vcpu(5, 53, 5, pid=4, vm="half"),
    )
    assert [vm.name for vm in shown.vms] == ["busy", "half", "sleeps", "quiet"]
    assert [row.reason for row in shown.vms[1].rows] == ["IRQ", "WFx"]
    made = fragment(shown)
    assert made.index("busy") < made.index("half") < made.index("sleeps") < made.index("quiet")
    assert "<tr class=idle><th scope=row>WFx <i>idle</i>" in made
    assert [bool(opened) for opened in re.findall(r"<details id=vm-\d+( open)?>", made)] == [True, True, True, False]


def test_a_golden_row() -> None:
    """8 ms is in the bucket that ends at 2^-6.75 s, 250 ms in that which ends at 2^-2 s."""
    shown = fragment(seen(History(), 10, vcpu(2, 101, 3)))
    assert (
        "<tr><th scope=row>IRQ <i>interrupt</i><td>0.081<td>10.1<td>7.81\u00a0ms<td>7.81\u00a0ms<td>"
        '<svg role=img viewBox="-.5 -9 24 9" preserveAspectRatio=none><title>7.81\u00a0ms to 7.81\u00a0ms</title>'
        '<path d="M12 0v-9"/></svg>'
    ) in shown
    assert "<span class=lost>0.081 vCPUs</span><span class=rate>10.4 exits/s</span>" in shown
    assert "averages since counting began, 10.0\u00a0s ago" in shown


def test_bars_are_octaves_rounded_up() -> None:
    assert bars({}) == ""
    assert bars({0: 1, 12: 1, 13: 4, 17: 1_000_000, 141: 500_000}) == "M0 0v-1M1 0v-9M23 0v-5"


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
def test_vcpus(vcpus: float, shown: str) -> None:
    assert figure(vcpus) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(4, "4.0 s"), (99.9, "99.9 s"), (100, "2 min"), (3599, "1 h 0 min"), (12000, "3 h 20 min"), (792000, "9 d 4 h")],
)
def test_spans(seconds: float, shown: str) -> None:
    assert span(round(seconds * SECOND)).replace("\u00a0", " ") == shown


def test_times_have_a_space_and_a_sign() -> None:
    assert [duration(ns) for ns in (None, 119, 1234, 17_200_000_000)] == [
        "–",
        "119\u00a0ns",
        "1.23\u00a0µs",
        "17.2\u00a0s",
    ]


def test_hostile_names() -> None:
    assert safe("<script>alert(1)</script>", 40) == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert safe("a\u202eb\x1b\x00\u2066", 40) == "a\\u202eb\\x1b\\x00\\u2066"
    assert safe("x" * 41, 40) == "x" * 39 + "…"
    assert safe("x" * 40, 40) == "x" * 40
    assert safe("\u202e" * 1_000_000, 40) == ("\\u202e" * 7)[:39] + "…"
    assert safe("'\"&", 40) == "&#x27;&quot;&amp;"


def page(now: Reading, health: Health = UP, **more: str) -> bytes:
    options = {"kernel": "6.1.0", "telemetry_path": "/metrics", **more}
    return HtmlPage(lambda: PageData(now, health), lambda: 1.0, **options).page()


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, made: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(made.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


NAME = "<script>alert('\"&\u202e\ud800\U0001f4a5')</script><img src=x onerror=alert(1)>"


def crowd() -> Reading:
    """4,096 vCPUs of 64 VMs, all with twelve reasons that fill every bucket, all held in an exit."""
    everywhere = {number: 10**12 + 7919 * number for number in range(BUCKETS)}
    held = InProgress("<b>" * 20, "sysreg", 5000 * SECOND)
    reasons = [counted(f"UNKNOWN_0x{code:08x}{NAME}", "hypercall<", 10**15, everywhere, 10**18) for code in range(12)]
    return reading(
        10**6,
        *(
            thread(
                2**22 - number % 64, number + 1, *reasons, vm=f"{number % 64}{NAME}", vcpu=NAME, in_progress=held
            )._replace(vmm=NAME)
            for number in range(4096)
        ),
        counters={"dropped_no_slot": 2**63, "dropped_no_cell": 2**63, "missed_kvm_exit": 2**63, "expired_early": 2**63},
    )


def test_a_crowd_with_hostile_names_is_under_50_kilobytes() -> None:
    made = page(crowd(), Health(False, 10**9, 4096), notice=NAME, kernel=NAME, telemetry_path="/<metrics>\"'")
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


def test_twenty_ordinary_vms_fit() -> None:
    """Eight reasons each, of ten octaves."""
    spread = {number: 1 + number % 7 for number in range(40, 80)}
    reasons = [counted(f"EC_DABT_{code}", "mmio", 10**6 + code, spread, 10**9) for code in range(8)]
    vms = [thread(pid, pid, *reasons, vm=f"compute-{pid:04}") for pid in range(1, 31)]
    made = page(reading(100, *vms))
    shown = [block.count(b"<tr><th scope=row") for block in made.split(b"<details")[1:]]
    assert shown[:3] == [8, 8, 8]
    assert (len(shown), min(shown)) == (20, 3)  # as many as there is room for
    assert b"and 10 more VMs" in made
    assert len(made) < 50_000
    assert sum(map(len, re.findall(rb"<details.*?</details>", made))) < BUDGET


def test_what_is_wrong_is_said_with_a_remedy() -> None:
    made = page(reading(1, counters={"dropped_no_slot": 3, "unmatched_exit": 5}), Health(False, 2, 1)).decode()
    warnings = re.findall(r"<li>([^<]*)</li>", made[made.index("<main") :])
    assert warnings == [
        "3 exits were not counted: no room for their vCPU (raise limits.vcpus)",
        "Nothing is counted: KVM is not attached yet, or the last collection failed; the log says why.",
        "2 collections failed since the start; the log says why.",
        "The VM of 1 vCPU is still being looked up; its pid is shown until then.",
    ]
    assert "Exporter <b>down</b> · 2 collection errors · 1 look-up pending" in made
    assert "No exit was seen yet" in made
    assert "<li>" not in page(reading(1)).decode().partition("<main")[2]


def test_links_are_relative_and_nothing_is_fetched_from_elsewhere() -> None:
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


def test_many_browsers_cost_one_collection_a_second() -> None:
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
