"""The demo's page in a real Chromium: its numbers, its updates, its layout."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable

import pytest

from exporter.common.text import count
from exporter.model.records import TimeParts
from exporter.page import view
from exporter.page.drawing import duration
from exporter.page.markup import figure
from exporter.page.page import HEADERS, HtmlPage, PageData
from exporter.page.view import Health
from exporter.readings import document
from exporter.readings.difference import between
from exporter.readings.grouping import grouped, ordered
from exporter.readings.reading import USERSPACE, Reading, nothing
from exporter.service.routes import routes
from exporter.web.server import WebServer
from tests.browser.chromium import Browser
from tests.support.crowd import NAME, crowd
from tests.support.prometheus.exporters import Demo
from tests.support.readings import counted, reading, thread

ROWS = """[...document.querySelectorAll("details")].map(vm => [
  vm.querySelector("bdi").textContent,
  [...vm.querySelectorAll("tbody tr")].map(row => [
    ...[...row.cells].slice(0, 5).map(cell => cell.firstChild.textContent.trim()),
    row.querySelector("title").textContent,
  ]),
])"""
FIGURES = 'document.querySelector("#vms").innerText'
OPEN = '[...document.querySelectorAll("details")].filter(vm => vm.open).map(vm => vm.id)'
WIDTHS = (320, 768, 1280, 1920)


def vcpus(demo: Demo) -> Reading:
    with urllib.request.urlopen(f"http://{demo.address}/-/vcpus", timeout=10) as answer:
        return document.decode(answer.read())


def whole(now: Reading) -> dict[str, list[Any]]:
    """Return the rows of each VM since counting began."""
    found: dict[str, list[Any]] = {}
    for row in ordered(grouped(between(nothing(now.since_ns), now), by="vm")):
        found.setdefault(row.vm, []).append(row)
    return found


def lies(shown: str, *bounds: str) -> bool:
    """Return whether a figure equals one of the bounds or lies between them."""
    return shown in bounds or min(map(float, bounds)) <= float(shown) <= max(map(float, bounds))


def test_the_first_view_agrees_with_vcpus(tmp_path: Path, chromium: Browser) -> None:
    """The counters do not change during the test.

    Each rate must lie between those of a reading before and a reading after.
    """
    demo = Demo(tmp_path, speed=20)
    try:
        time.sleep(2)
        demo.pause()
        before = vcpus(demo)
        chromium.ask("Emulation.setScriptExecutionDisabled", value=True)
        chromium.open(f"http://{demo.address}/")
        shown = dict(chromium.run(ROWS))
        heading = chromium.run('document.querySelector("#over").textContent')
        after = vcpus(demo)
    finally:
        demo.end()
    assert "averages since counting began" in heading
    first, last = whole(before), whole(after)
    assert set(shown) == set(first) == {"web-1", "db-1", "idle-1"}
    for vm, rows in shown.items():
        exact = {row.reason: row for row in first[vm]}
        assert [row[0] for row in rows] == [row.reason for row in last[vm]]
        for reason, lost, rate, p50, p99, title in rows:
            row = exact[reason]
            assert (p50, p99) == (duration(row.p50_ns), duration(row.p99_ns))
            assert title == f"{duration(row.percentile_ns(1))} to {duration(row.max_ns)}"
            (later,) = [each for each in last[vm] if each.reason == reason]
            assert later.exits == row.exits
            assert lies(rate, count(later.rate), count(row.rate))
            assert lies(lost, *(figure(view.lost(each)) for each in (row, later)))


def test_an_update_keeps_open_vms_focus_and_scroll_position(demo: Demo, chromium: Browser) -> None:
    chromium.open(f"http://{demo.address}/")
    chromium.until(lambda: "over the last" in chromium.run('document.querySelector("#over").textContent'))
    chromium.run('document.querySelectorAll("details")[1].querySelector("summary").click()')
    closed = chromium.run('document.querySelectorAll("details")[1].id')
    chromium.size(1280, 400)
    chromium.run(f'document.querySelector("#{closed} summary").focus(); scrollTo(0, 150)')
    opened = chromium.run(OPEN)
    assert len(opened) == 2
    for _ in range(3):
        figures = chromium.run(FIGURES)
        chromium.until(lambda: chromium.run(FIGURES) != figures)
        assert sorted(chromium.run(OPEN)) == sorted(opened)
        assert chromium.run("document.activeElement.parentElement.id") == closed
        assert chromium.run("scrollY") == 150
    assert {url.split("/", 3)[3] for url in chromium.asked_for()} == {"", "-/overview"}
    assert all(url.startswith(f"http://{demo.address}/") for url in chromium.asked_for())
    assert chromium.run('document.querySelector("#live").textContent') == "live"


def test_the_page_shows_the_replay_notice_the_state_and_the_links(demo: Demo, chromium: Browser) -> None:
    chromium.open(f"http://{demo.address}/")
    text = chromium.run("document.body.innerText")
    assert "This is a replay of a recording, not this host." in text
    assert "Exporter up · 0 collection errors" in text
    links = chromium.run("[...document.links].map(link => link.href)")
    assert links == [f"http://{demo.address}{path}" for path in ("/metrics", "/-/vcpus", "/-/healthy")]
    for link in links:
        with urllib.request.urlopen(link, timeout=10) as answer:
            assert answer.status == 200


def test_a_hidden_page_sends_no_requests(demo: Demo, chromium: Browser) -> None:
    chromium.open(f"http://{demo.address}/")
    asked = 'performance.getEntriesByType("resource").length'
    chromium.until(lambda: chromium.run(asked) >= 1)
    # This acts as if another tab were in front. Headless Chromium does not hide a tab by itself.
    chromium.run('Object.defineProperty(document, "hidden", {value: true, configurable: true})')
    time.sleep(1)
    before = chromium.run(asked)
    time.sleep(5)
    assert chromium.run(asked) == before
    chromium.run('delete document.hidden; document.dispatchEvent(new Event("visibilitychange"))')
    chromium.until(lambda: chromium.run(asked) >= before + 2)


def test_without_scripts_the_page_reloads_itself(demo: Demo, chromium: Browser) -> None:
    chromium.ask("Emulation.setScriptExecutionDisabled", value=True)
    chromium.open(f"http://{demo.address}/")
    assert len(chromium.run(ROWS)) == 3
    assert "reloads every 5 s" in chromium.run("document.body.innerText")
    chromium.until(lambda: chromium.asked_for().count(f"http://{demo.address}/") == 2)
    # While the page reloads, there is no body.
    chromium.until(lambda: "over the last" in chromium.run("document.body?.innerText ?? ''"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_every_width_in_both_colour_schemes(
    demo: Demo, chromium: Browser, width: int, scheme: str
) -> None:
    chromium.size(width)
    chromium.scheme(scheme)
    chromium.open(f"http://{demo.address}/")
    assert chromium.run("[innerWidth, document.documentElement.scrollWidth <= innerWidth]") == [width, True]
    dark = chromium.run("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"
    assert dark == (scheme == "dark")
    assert weak(chromium) == []


def weak(chromium: Browser) -> list[Any]:
    """Return texts whose contrast to their background is below 4.5 (WCAG 2.2, 1.4.3)."""
    found: list[Any] = chromium.run("""(() => {
      const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const behind = (node) => { const c = rgb(getComputedStyle(node).backgroundColor);
        return c.length < 4 || c[3] ? c : behind(node.parentElement); };
      return [...document.body.querySelectorAll("*")]
        .filter(node => !["SCRIPT", "NOSCRIPT"].includes(node.nodeName))
        .filter(node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()))
        .filter(node => !node.closest("svg"))
        .map(node => { const a = light(rgb(getComputedStyle(node).color)), b = light(behind(node));
          return [node.outerHTML.slice(0, 80), (Math.max(a, b) + .05) / (Math.min(a, b) + .05)]; })
        .filter(([, contrast]) => contrast < 4.5);
    })()""")
    return found


class Served:
    """The page on the real web server. Its readings come from look(), which a test may replace."""

    def __init__(self, look: Callable[[], PageData]) -> None:
        self.look = look
        page = HtmlPage(self._look, time.monotonic, kernel="6.1.0", telemetry_path="/metrics", notice=NAME)
        self._app = routes(lambda *_: pytest.fail("nobody scrapes"), "/metrics", page=page)
        self.web = WebServer(["127.0.0.1:0"])
        self.web.serve(self._app)

    def _look(self) -> PageData:
        return self.look()

    def again(self, address: str) -> None:
        self.web = WebServer([address])
        self.web.serve(self._app)


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served(lambda: PageData(reading(1), Health(True, 0, 0)))
    yield made
    made.web.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_names_are_shown_as_text(served: Served, chromium: Browser, width: int) -> None:
    made = PageData(crowd(), Health(False, 7, 3))
    served.look = lambda: made
    chromium.size(width)
    for scheme in ("light", "dark"):
        chromium.scheme(scheme)
        chromium.open(f"http://{served.web.addresses[0]}/")
        assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
        assert weak(chromium) == []
    assert chromium.run('document.querySelectorAll("script, img").length') == 1
    first = chromium.run('document.querySelector("bdi").textContent')
    assert first == "0<script>alert('\"&\\u202e\\ud800\U0001f4a5')</scri…"
    red = chromium.run('getComputedStyle(document.querySelector("#stuck tbody th")).color')
    assert red == "rgb(255, 147, 138)"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_parts_of_the_lost_time_are_shown(served: Served, chromium: Browser, width: int) -> None:
    """The bar and the line below a VM have one colour for each part. No cell is wider than its column."""
    irq = counted("IRQ", "interrupt", 997, {64: 997}, 9 * 10**9, parts=TimeParts(83 * 10**8, 84 * 10**8, 0))
    mmio = counted("MMIO", "mmio", 3, {64: 3}, 61 * 10**7, parts=TimeParts(10**8, 2 * 10**8))
    to_vmm = counted("KVM_EXIT_MMIO", "mmio", 3, {64: 3}, 61 * 10**7, kind=USERSPACE, parts=TimeParts(0, 0, 3 * 10**8))
    idle = counted("WFx", "idle", 5, {90: 5}, 541 * 10**8, parts=TimeParts(0, 509 * 10**8))
    vm = thread(1, 2, irq, mmio, to_vmm, idle, vm="compute-0001")
    served.look = lambda: PageData(reading(100, vm), Health(True, 0, 0))
    chromium.size(width)
    chromium.ask("Emulation.setScriptExecutionDisabled", value=True)
    for scheme in ("light", "dark"):
        chromium.scheme(scheme)
        chromium.open(f"http://{served.web.addresses[0]}/")
        assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
        assert weak(chromium) == []
        said = chromium.run('document.querySelector(".where").innerText')
        assert said.replace("\u00a0", " ") == (
            "Waiting for a CPU 0.084 asleep 0.002 kernel 0.007 VMM 0.003 · idle: asleep 0.51, polling 0.032"
        )
        colours = "[...document.querySelectorAll('.bar path')].map(path => getComputedStyle(path).stroke)"
        marks = "[...document.querySelectorAll('.where i')].map(i => getComputedStyle(i, '::before').color)"
        assert chromium.run(colours) == chromium.run(marks)
        assert len(set(chromium.run(marks))) == 4
        cut = """[...document.querySelectorAll("details td, details thead th")]
          .filter(cell => cell.scrollWidth > cell.clientWidth + 1).map(cell => cell.textContent)"""
        assert chromium.run(cut) == []
    assert chromium.run(ROWS)[0][1][0][:5] == ["IRQ", "0.090", "9.97", "0.083", "0.001"]


def test_the_page_shows_since_when_it_is_stale(served: Served, chromium: Browser) -> None:
    chromium.open(f"http://{served.web.addresses[0]}/")
    stale = 'document.querySelector("#stale")'
    assert chromium.run(f"{stale}.hidden")
    address = served.web.addresses[0]
    served.web.close()
    chromium.until(lambda: not chromium.run(f"{stale}.hidden"))
    text = chromium.run(f"{stale}.textContent")
    assert text.startswith("Stale since ")
    assert text.endswith(": the exporter does not answer")
    time.sleep(3)
    assert chromium.run(f"{stale}.textContent") == text
    served.again(address)
    chromium.until(lambda: chromium.run(f"{stale}.hidden"))
    # The browser itself logs refused connections on the console. No other message is allowed.
    assert {json.loads(line)["entry"]["source"] for line in chromium.said()} == {"network"}
    chromium.events.clear()


def test_an_open_vm_stays_open_and_focused_when_the_order_changes(served: Served, chromium: Browser) -> None:
    """The order of five VMs changes with each update."""
    looks = [0]

    def look() -> PageData:
        looks[0] += 1
        step = looks[0]
        vms = []
        for pid in range(1, 6):
            # After each reading another VM has the largest sum.
            total = sum(((pid + at) % 5 + 1) * 10**7 for at in range(step))
            vms.append(thread(pid, pid, counted("IRQ", "interrupt", step, {64: step}, total), vm=f"vm-{pid}"))
        return PageData(reading(10 + step, *vms), Health(True, 0, 0))

    served.look = look
    chromium.open(f"http://{served.web.addresses[0]}/")
    order = '[...document.querySelectorAll("details")].map(vm => vm.id).join()'
    chromium.run('document.querySelector("details:not([open]) summary").click()')
    chromium.run('document.querySelectorAll("details")[3].querySelector("summary").focus()')
    mine = chromium.run('document.querySelectorAll("details")[3].id')
    seen = set()
    for _ in range(4):
        before = chromium.run(order)
        seen.add(before)
        chromium.until(lambda: chromium.run(order) != before)
        assert len(chromium.run(OPEN)) == 4
        assert mine in chromium.run(OPEN)
        assert chromium.run("document.activeElement.parentElement.id") == mine
    assert len(seen) > 2


def test_the_page_works_below_a_path_of_a_reverse_proxy(demo: Demo, chromium: Browser) -> None:
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path.startswith("/host-7/")
            with urllib.request.urlopen(f"http://{demo.address}{self.path[7:]}", timeout=10) as answer:
                body = answer.read()
                self.send_response(answer.status)
                for name in ("Content-Type", "Content-Security-Policy"):
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{proxy.server_address[1]}/host-7/"
        chromium.open(base)
        chromium.until(lambda: "over the last" in chromium.run('document.querySelector("#over").textContent'))
        figures = chromium.run(FIGURES)
        chromium.until(lambda: chromium.run(FIGURES) != figures)
        assert chromium.run("document.links[0].href") == base + "metrics"
        assert all(url.startswith(base) for url in chromium.asked_for())
        assert dict(HEADERS)["Content-Security-Policy"]
    finally:
        chromium.open("about:blank")
        proxy.shutdown()
        proxy.server_close()
