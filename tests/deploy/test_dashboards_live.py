"""Every query of both dashboards, filled in like Grafana does, on real Prometheus servers that scrape the replay.

A panel without a value fails. The time range lies between two pauses of the replay, so the values of a panel can be
compared exactly with the exporter's own pages in the pauses.
"""

from __future__ import annotations

import math
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.samples import Sample

from tests.deploy import boards
from tests.support.prometheus import builds, exporters
from tests.support.prometheus.fixtures import _programs_can_be_loaded, build  # noqa: F401  (fixtures)
from tests.support.prometheus.pause import EXACT, paused, values
from tests.support.prometheus.server import INTERVAL_MS, Prometheus, of_every_kind

SPEED = 20
RUNNING_SECONDS = 12.0
SERIES = 28
"""Number of pairs of vCPU and reason in the recording."""

EMPTY_WHEN_HEALTHY = {"Exporters that need attention"}
"""A list of problems. On the replay it has one line: the exporter replays a recording."""
OF_THE_SPLIT = re.compile(r"kvm_\w*_(wait|sleep|vmm)_seconds|time_split")
"""In queries that need a host whose exporter splits the time of exits. A recording has no such time."""
OF_A_MOMENT = {"vCPUs out of their guest now", "Out of the guest now", "Age of exits in flight"}
"""These panels are empty while every vCPU runs its guest. So one scrape with a value is enough."""


@dataclass(frozen=True)
class Server:
    """A server, and the time range between the two pauses."""

    prometheus: Prometheus
    pages: tuple[list[Sample], list[Sample]]
    first_ms: int
    last_ms: int

    @property
    def seconds(self) -> float:
        return (self.last_ms - self.first_ms) / 1000

    def settings(self, board: boards.Board, **chosen: str) -> dict[str, str]:
        """Return the values of all variables, like Grafana with a data source whose scrape interval is set."""
        scrape = INTERVAL_MS / 1000
        return boards.settings(
            board,
            self.prometheus,
            chosen,
            __rate_interval=f"{round(max(2 * scrape, 4 * scrape))}s",
            __range=f"{self.last_ms - self.first_ms + 1}ms",  # Grafana uses whole seconds; ms are exact
        )

    def table(self, panel: dict[str, Any], settings: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the rows of a table, merged like Grafana does: series with the same labels become one row."""
        results = [self.instant(target, settings) for target in panel["targets"]]
        key = set.intersection(*({*sample.labels} for result in results for sample in result))
        rows: dict[tuple[str, ...], dict[str, Any]] = {}
        for column, result in zip(_columns(panel), results):
            for sample in result:
                row = rows.setdefault(tuple(sample.labels[label] for label in sorted(key)), {})
                row.update(sample.labels)
                assert column not in row, f"{panel['title']}: two values for a row"
                row[column] = sample.value
        return list(rows.values())

    def instant(self, target: Mapping[str, Any], settings: Mapping[str, str], at_ms: int = 0) -> list[Any]:
        return self.prometheus.query(boards.fill(target["expr"], settings), at_ms or self.last_ms)

    def over_time(self, expression: str, settings: Mapping[str, str]) -> list[dict[str, Any]]:
        data = self.prometheus.api(
            "query_range",
            query=boards.fill(expression, settings),
            start=f"{self.first_ms / 1000:.3f}",
            end=f"{self.last_ms / 1000:.3f}",
            step="1",
        )
        found: list[dict[str, Any]] = data["result"]
        return found


def _columns(panel: Mapping[str, Any]) -> list[str]:
    """Return the titles of a table's columns, in the order of its queries."""
    (order,) = (each["options"] for each in panel["transformations"] if each["id"] == "organize")
    names = order["renameByName"]
    return [names.get(f"Value #{target['refId']}") or names["Value"] for target in panel["targets"]]


@dataclass(frozen=True)
class Ran:
    """The servers, and the pages of the two pauses."""

    servers: dict[tuple[str, bool], Prometheus]
    pages: tuple[list[Sample], list[Sample]]
    paused_ms: tuple[int, int]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    with ExitStack() as stack:
        demo = exporters.Demo(tmp_path_factory.mktemp("demo"), SPEED)
        stack.callback(demo.end)
        servers = of_every_kind(demo.address, tmp_path_factory, stack)
        deadline = time.monotonic() + 60
        while len(values(demo.page(), "kvm_exits_total")) < SERIES:  # otherwise some series begin in the time range
            assert time.monotonic() < deadline
            time.sleep(0.5)
        for server in servers.values():
            server.scrapes(0, 1)
        first_ms, first = paused(demo, servers)
        demo.resume()
        time.sleep(RUNNING_SECONDS)
        last_ms, last = paused(demo, servers)
        yield Ran(servers, (first, last), (first_ms, last_ms))


@pytest.fixture(
    scope="module",
    params=[(suite, native) for suite in builds.SUITES for native in (True, False)],
    ids=lambda param: f"{param[0]}-{'native' if param[1] else 'classic'}",
)
def server(request: pytest.FixtureRequest, build: Callable[[str], builds.Build], ran: Ran) -> Server:  # noqa: F811
    suite, native = request.param
    build(suite)
    prometheus = ran.servers[suite, native]
    first_ms, last_ms = (prometheus.scrapes(since, 1)[0] for since in ran.paused_ms)
    return Server(prometheus, ran.pages, first_ms, last_ms)


def _boards(server: Server) -> Iterator[tuple[str, boards.Board, dict[str, str]]]:
    """Yield the fleet dashboard, and the VM dashboard for each VM."""
    fleet, vm = map(boards.load, boards.NAMES)
    yield fleet["uid"], fleet, server.settings(fleet)
    names = boards.choices(boards.variables(vm)["vm"], server.settings(vm), server.prometheus)
    assert len(names) == 3
    for name in names:
        yield f"{vm['uid']} of {name}", vm, server.settings(vm, vm=name)


def test_no_panel_is_empty(server: Server) -> None:
    for name, board, settings in _boards(server):
        for panel in boards.panels(board):
            for target in panel["targets"]:
                where = f"{name}: {panel['title']} {target['refId']}"
                split = bool(OF_THE_SPLIT.search(target["expr"]))
                assert _has_value(server, panel, target, settings) != split, where


def _has_value(
    server: Server, panel: Mapping[str, Any], target: Mapping[str, Any], settings: Mapping[str, str]
) -> bool:
    if target.get("range"):
        return any(_real(series) for series in server.over_time(target["expr"], settings))
    moments = [server.last_ms]
    if panel["title"] in OF_A_MOMENT:
        moments += range(server.first_ms, server.last_ms, INTERVAL_MS)
    found = [sample for at in moments for sample in server.instant(target, settings, at)]
    return any(sample.histogram is None and math.isfinite(sample.value) for sample in found)


def _real(series: Mapping[str, Any]) -> bool:
    """Return whether a line has a point, or a native histogram has a bucket that is not empty."""
    points = any(math.isfinite(float(value)) for _, value in series.get("values", ()))
    return points or any(float(value["count"]) > 0 for _, value in series.get("histograms", ()))


def test_annotations_are_accepted(server: Server) -> None:
    for name, board, settings in _boards(server):
        marks = {
            annotation["name"]: server.over_time(annotation["expr"], settings)
            for annotation in board["annotations"]["list"]
        }
        if "New process of this VM" in marks:  # the processes are less than a minute old
            assert marks["New process of this VM"], name


def test_every_table_has_a_column_for_each_label_and_value(server: Server) -> None:
    """A label without a column would split rows. At least one row must have all its labels and values."""
    for name, board, settings in _boards(server):
        for panel in boards.panels(board):
            if panel["type"] != "table" or panel["title"] in OF_A_MOMENT:
                continue
            (order,) = (each["options"]["indexByName"] for each in panel["transformations"] if each["id"] == "organize")
            rows = server.table(panel, settings)
            columns = _columns(panel)
            labels = {label for label in order if not label.startswith("Value")}
            for row in rows:
                assert row.keys() <= {*labels, *columns}, f"{name}: {panel['title']}"
            complete = [row for row in rows if {*labels, *columns} <= row.keys()]
            assert complete, f"{name}: {panel['title']}"


def test_the_heatmap_shows_only_one_kind_of_histogram(server: Server, request: pytest.FixtureRequest) -> None:
    """Grafana can draw native histograms or classic buckets, but not both in one panel."""
    native = "native" in request.node.callspec.id
    for _, board, settings in _boards(server):
        for panel in boards.panels(board):
            if panel["type"] == "heatmap":
                (target,) = panel["targets"]
                found = server.over_time(target["expr"], settings)
                assert {"histograms" in series for series in found} == {native}
                assert {"le" in series["metric"] for series in found} == {not native}
                assert native or {len(found)} == {14}  # 13 bounds by default, and +Inf


def _increase(server: Server, metric: str, **labels: str) -> float:
    """Return the increase of a metric on the page in the time range, without idle."""
    before, after = (values(page, metric) for page in server.pages)
    assert before.keys() == after.keys()
    return sum(
        after[each] - before[each]
        for each in after
        if dict(each).get("class") != "idle" and labels.items() <= dict(each).items()
    )


def _panel(board: boards.Board, title: str) -> dict[str, Any]:
    (panel,) = (panel for panel in board["panels"] if panel["title"] == title)
    return dict(panel)


def _number(server: Server, board: boards.Board, settings: Mapping[str, str], title: str) -> float:
    (target,) = _panel(board, title)["targets"]
    (sample,) = server.instant(target, settings)
    assert sample.labels == {}
    return float(sample.value)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=EXACT, abs_tol=1e-12)


def test_numbers_of_the_fleet_dashboard_equal_the_page(server: Server) -> None:
    fleet = boards.load("kvm-exits-fleet")
    settings = server.settings(fleet)
    lost = _increase(server, "kvm_exit_duration_seconds_sum")
    exits = _increase(server, "kvm_exits_total")
    assert exits > 38801  # more than one pass of the recording
    assert _close(_number(server, fleet, settings, "Time lost"), lost / server.seconds)
    assert _close(_number(server, fleet, settings, "Exits"), exits / server.seconds)
    assert _number(server, fleet, settings, "Exits dropped") == 0
    assert _number(server, fleet, settings, "Exporters down") == 0
    rows = server.table(_panel(fleet, "VMs that lose most time"), settings)
    assert len(rows) == 3
    for row in rows:
        of_vm = _increase(server, "kvm_exit_duration_seconds_sum", vm=row["vm"])
        of_reason = _increase(server, "kvm_exit_duration_seconds_sum", vm=row["vm"], reason=row["reason"])
        assert _close(row["Lost"], of_vm / server.seconds)
        assert _close(row["By this reason"], of_reason / server.seconds)
        assert _close(row["Exits"], _increase(server, "kvm_exits_total", vm=row["vm"]) / server.seconds)
        assert _close(row["Overhead"], row["Lost"] / (row["Lost"] + row["In guest"]))
    (host,) = server.table(_panel(fleet, "Hosts"), settings)
    assert _close(host["Lost"], lost / server.seconds)
    assert (host["State"], host["vCPUs"], host["VMs"], host["Dropped"]) == (3, 5, 3, 0)
    (attention,) = server.table(_panel(fleet, "Exporters that need attention"), settings)
    assert attention["problem"].startswith("replays a recording")


def test_numbers_of_the_vm_dashboard_equal_the_page(server: Server) -> None:
    reasons = 0
    for _, board, settings in list(_boards(server))[1:]:
        vm = settings["vm"]
        lost = _increase(server, "kvm_exit_duration_seconds_sum", vm=vm)
        assert _close(_number(server, board, settings, "Lost"), lost / server.seconds)
        for row in server.table(_panel(board, "Reasons"), settings):
            spent, ended, exits = (
                _increase(server, metric, vm=vm, reason=row["reason"])
                for metric in ("kvm_exit_duration_seconds_sum", "kvm_exit_duration_seconds_count", "kvm_exits_total")
            )
            assert _close(row["Lost"], spent / server.seconds)
            assert _close(row["Share"], spent / lost)
            assert _close(row["Exits"], exits / server.seconds)
            assert _close(row["Mean"], spent / ended)
            reasons += 1
        for row in server.table(_panel(board, "Each vCPU"), settings):
            of_vcpu = _increase(server, "kvm_exit_duration_seconds_sum", vm=vm, vcpu=row["vcpu"])
            assert _close(row["Lost"], of_vcpu / server.seconds)
    assert reasons > 10


def test_a_chosen_class_and_host_exclude_all_others(server: Server) -> None:
    fleet = boards.load("kvm-exits-fleet")
    (host,) = boards.choices(boards.variables(fleet)["instance"], server.settings(fleet), server.prometheus)
    settings = server.settings(fleet, **{"class": "mmio", "instance": host})
    exits = _increase(server, "kvm_exits_total", **{"class": "mmio"})
    assert exits > 0
    assert _close(_number(server, fleet, settings, "Exits"), exits / server.seconds)


def test_panels_show_at_most_top_series(server: Server) -> None:
    """A graph must show the same few lines at every step, even for a large fleet."""
    for _, board, settings in _boards(server):
        settings["top"] = "1"
        for panel in boards.panels(board):
            for target in panel["targets"]:
                if "topk($top, " not in target["expr"]:
                    continue
                if target.get("range"):
                    labels = [series["metric"] for series in server.over_time(target["expr"], settings)]
                else:
                    labels = [sample.labels for sample in server.instant(target, settings)]
                if panel["type"] == "barchart":  # a bar has a part for each class
                    labels = [{"vcpu": vcpu} for vcpu in {each["vcpu"] for each in labels}]
                assert len(labels) <= 1, panel["title"]


def test_problems_are_shown(build: Callable[[str], builds.Build], tmp_path: Path) -> None:  # noqa: F811
    """One exporter has too few slots for its five vCPUs, another is down."""
    found = build("bookworm")
    fleet = boards.load("kvm-exits-fleet")
    with ExitStack() as stack:
        small = exporters.Demo(tmp_path, SPEED, "limits: {vcpus: 3, cells: 7}\n")
        stack.callback(small.end)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            down = f"127.0.0.1:{listening.getsockname()[1]}"
        prometheus = Prometheus(found, small.address, tmp_path / "server", native=False, others=(down,))
        stack.callback(prometheus.stop)
        prometheus.scrapes(0, 3)
        time.sleep(3)
        stamps = prometheus.scrapes(0, 5)
        server = Server(prometheus, ([], []), stamps[0], stamps[-1])
        settings = server.settings(fleet)
        assert _number(server, fleet, settings, "Exporters down") == 1
        assert _number(server, fleet, settings, "Exits dropped") > 0
        hosts = {row["instance"]: row for row in server.table(_panel(fleet, "Hosts"), settings)}
        assert hosts[down]["State"] == 0
        assert hosts[small.address]["Dropped"] > 0
        assert hosts[small.address]["Full"] == 1
        attention = server.table(_panel(fleet, "Exporters that need attention"), settings)
        assert {(row["instance"], row["problem"].split(":")[0]) for row in attention} == {
            (down, "down"),
            (small.address, "dropped exits"),
            (small.address, "nearly full"),
            (small.address, "replays a recording"),
        }
        (target,) = _panel(fleet, "Dropped exits by host")["targets"]
        (line,) = server.over_time(target["expr"], settings)
        assert line["metric"] == {"instance": small.address}
        assert float(line["values"][-1][1]) > 0
