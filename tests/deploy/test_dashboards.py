"""The dashboards' files: made from the source, valid for Grafana, with queries only for the exporter's metrics."""

from __future__ import annotations

import json
import re
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.model.reason import CLASSES
from tests.deploy import boards
from tests.support.paths import ROOT

sdk = pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk needs Python 3.11")

DOCS = ROOT / "docs/metrics.md"
GRAFANA = ROOT / "deploy/grafana"

UNITS = {"count:vCPUs", "count:exits/s", "percentunit", "s", "short", "none"}

# Metrics of every scrape or of every Python process, not only of this exporter.
FOREIGN = {"up", "process_start_time_seconds"}
SCRAPED = {"job", "instance", "le"}
MADE_BY_QUERIES = {"problem"}

FUNCTIONS = {
    "and", "or", "on", "unless", "by", "sum", "max", "min", "count", "topk", "bool", "ignoring", "offset", "end",
    "group_left", "rate", "increase", "changes", "vector", "label_replace", "histogram_quantile", "histogram_sum",
    "clamp_min", "histogram_count", "avg_over_time", "max_over_time", "last_over_time",
}  # fmt: skip


@pytest.fixture(params=boards.NAMES)
def board(request: pytest.FixtureRequest) -> boards.Board:
    return boards.load(request.param)


def test_the_source_makes_the_committed_files(tmp_path: Path) -> None:
    """If this fails, run `make dashboards` and commit the result."""
    from deploy.grafana.source.__main__ import dashboards

    made = dashboards()
    assert made == dashboards()
    assert made == {path.name: path.read_text() for path in boards.FOLDER.iterdir()}
    assert sorted(made) == [f"{name}.json" for name in sorted(boards.NAMES)]


def test_grafanas_schema_has_every_key(board: boards.Board) -> None:
    """The SDK has Grafana 11.6's schema as types. They would drop a key that the schema does not have."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(board))) == board


def test_panels_are_numbered_and_do_not_overlap(board: boards.Board) -> None:
    everything = board["panels"]
    assert [panel["id"] for panel in everything] == list(range(1, len(everything) + 1))
    assert len({panel["title"] for panel in everything}) == len(everything)
    places = [panel["gridPos"] for panel in everything]
    for place in places:
        assert place["x"] >= 0
        assert place["w"] > 0
        assert place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    for one, other in pairwise(places):
        assert (one["y"], one["x"]) < (other["y"], other["x"])


def test_every_panel_has_title_description_and_unit(board: boards.Board) -> None:
    for panel in boards.panels(board):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert _units(panel) <= UNITS, panel["title"]


def _units(panel: dict[str, Any]) -> set[str]:
    """Return a panel's units. A table has a unit for each column, any other panel has one unit."""
    config = panel["fieldConfig"]
    if panel["type"] != "table":
        return {config["defaults"]["unit"]}
    units = {}
    for override in config["overrides"]:
        for setting in override["properties"]:
            if setting["id"] == "unit":
                units[override["matcher"]["options"]] = setting["value"]
    (order,) = (each["options"] for each in panel["transformations"] if each["id"] == "organize")
    assert set(units) == set(order["renameByName"].values())
    assert len(units) == len(panel["targets"])
    return set(units.values())


def test_the_datasource_is_a_variable(board: boards.Board) -> None:
    def uids(part: object) -> list[object]:
        if isinstance(part, list):
            return [uid for each in part for uid in uids(each)]
        if isinstance(part, dict):
            own = [part["datasource"]] if part.get("datasource") else []
            return own + [uid for each in part.values() for uid in uids(each)]
        return []

    for panel in boards.panels(board):
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    found = uids(board)
    assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in found)
    assert boards.variables(board)["datasource"]["query"] == "prometheus"


def test_the_variable_class_has_every_class_except_idle(board: boards.Board) -> None:
    assert boards.variables(board)["class"]["query"].split(",") == [name for name in CLASSES if name != "idle"]


def _contract() -> tuple[set[str], set[str]]:
    """Return the metrics and labels in docs/metrics.md."""
    text = DOCS.read_text()
    names = set(re.findall(r"^### `(kvm_\w+)`", text, re.MULTILINE))
    histograms = {name for name in names if f"### `{name}`\nHistogram" in text}
    assert len(histograms) == 2
    names |= {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    labels = {"pid", "tid", "vm", "vcpu", "reason", "class", "uuid", "vmm"}
    _, own = text.split("## The exporter about itself")
    for line in own.split("\n## ")[0].splitlines():
        if line.startswith("| `"):
            first, _, label = line.split("|")[1:4]
            names |= {f"kvm_exit_exporter_{name}" for name in re.findall(r"`(\w+)`", first)}
            labels |= set(re.findall(r"\w+", label))
    return names, labels


def test_queries_use_only_metrics_and_labels_of_the_exporter(board: boards.Board) -> None:
    metrics, labels = _contract()
    for where, text in boards.expressions(board):
        bare = re.sub(r'"[^"]*"', "", text)
        for matchers in re.findall(r"\{([^}]*)\}", bare):
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= labels | SCRAPED, where
        for group in re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", bare):
            assert set(re.findall(r"\w+", group)) <= labels | SCRAPED | MADE_BY_QUERIES, where
        bare = re.sub(r"\b(?:by|on|group_left) \([^)]*\)|\{[^}]*\}|\[[^\]]*\]|\$\w+|\b\d[\w.]*", " ", bare)
        named = set(re.findall(r"[a-zA-Z_]\w*", bare)) - FUNCTIONS
        assert named <= metrics | FOREIGN, where
        assert named, where


def test_interrupted_returns_are_no_time_of_the_vmm(board: boards.Board) -> None:
    """A signal can interrupt KVM_RUN while a vCPU sleeps. The interval of `restart` then holds the whole sleep."""
    for metric in ("kvm_userspace_exit_duration_seconds", "kvm_userspace_exit_vmm_"):
        found = [each.text for each in boards.expressions(board) if metric in each.text]
        assert found
        for text in found:
            for matchers in re.findall(metric + r"\w*{([^}]*)}", text):
                assert 'reason!~"restart|error_.*"' in matchers


def test_links_open_the_vms_dashboard() -> None:
    """Rows and lines of a VM link to its dashboard and keep the variables that both dashboards have."""
    fleet, vm = map(boards.load, boards.NAMES)
    urls = re.findall(r'"url": "(/d/[^"]+)"', json.dumps(fleet))
    assert len(urls) == 3
    known = boards.variables(vm)
    for url in urls:
        assert url.startswith(f"/d/{vm['uid']}?")
        own = re.findall(r"var-(\w+)=\$\{__(?:data\.fields|field\.labels)\.(\w+):percentencode\}", url)
        assert own == [("vm", "vm"), ("instance", "instance")]
        carried = re.findall(r"\$\{(\w+):queryparam\}", url)
        assert carried == ["datasource", "job", "class"]
        assert {*carried, "vm", "instance"} <= known.keys()
        assert url.endswith("&${__url_time_range}")


def test_provisioning_has_the_documented_folder() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/kvm-exits.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] in (GRAFANA / "README.md").read_text()
