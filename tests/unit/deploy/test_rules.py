"""The rules of deploy/prometheus use only known names.

They are equal for both forms of histograms. Each alert is explained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from exporter.model.reason import CLASSES
from exporter.naming.vmm.registry import MOVING
from tests.support.paths import ROOT
from tests.support.rules import ALL, FILES, KNOWN, RULES, Rule, rules

OPERATIONS = ROOT / "docs/operations.md"

_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*(\"[^\"]*\")")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)")
_METRIC = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?![\w:]|\s*\()")
_WORDS = {"and", "or", "unless", "bool", "offset"}

ALERTS = [rule for rule in ALL if "alert" in rule.body]
LABELS = set().union(*KNOWN.values())


def read(expr: str) -> tuple[set[str], Iterator[tuple[str, set[str]]], set[str]]:
    """Return the metric names, the selectors as (name, labels), and the labels by which the expression groups."""
    selectors = [(name, {label for label, _ in _MATCHER.findall(inside)}) for name, inside in _SELECTOR.findall(expr)]
    grouped = {label.strip() for labels in _GROUPING.findall(expr) for label in labels.split(",")} - {""}
    bare = _GROUPING.sub("", re.sub(r"\[[^]]*\]|\boffset \w+|\{[^}]*\}", "", expr))
    return set(_METRIC.findall(bare)) - _WORDS, iter(selectors), grouped


def test_the_names_and_labels_of_an_expression_are_found() -> None:
    names, selectors, grouped = read(
        'sum by (a, b) (rate(x_total{c=~"d|e"}[5m] offset 1h)) > bool 2e3 unless on (f) y:z'
    )
    assert (names, list(selectors), grouped) == ({"x_total", "y:z"}, [("x_total", {"c"})], {"a", "b", "f"})


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.body.get("record") or rule.body["alert"])
def test_each_rule_uses_only_names_and_labels_that_exist(rule: Rule) -> None:
    names, selectors, grouped = read(rule.expr)
    assert names
    assert names <= KNOWN.keys()
    for name, labels in selectors:
        assert labels <= KNOWN[name], name
    assert grouped <= LABELS
    for value in re.findall(r'class[=!~]+"([^"]*)"', rule.expr):
        assert set(value.split("|")) <= set(CLASSES)
    text = " ".join(rule.body.get("annotations", {}).values())
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= LABELS


@pytest.mark.parametrize("path", sorted((RULES / "tests").glob("*.yml")), ids=lambda path: path.name)
def test_the_rule_tests_use_only_series_that_exist(path: Path) -> None:
    """The exporter never serves an invented series, but a rule test with this series would pass."""
    for test in yaml.safe_load(path.read_text())["tests"]:
        for series in test["input_series"]:
            found = re.fullmatch(r"([\w:]+)\{(.*)\}", series["series"])
            assert found, series["series"]
            assert {label for label, _ in _MATCHER.findall(found[2])} <= KNOWN[found[1]] | {"rack"}


def test_every_alert_has_a_test_in_which_it_fires_and_a_test_in_which_it_is_silent() -> None:
    outcomes: dict[str, set[bool]] = {}
    for path in (RULES / "tests").glob("*.yml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", ()):
                outcomes.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert outcomes == {rule.body["alert"]: {True, False} for rule in ALERTS}


def test_every_recorded_series_is_tested() -> None:
    text = "".join(path.read_text() for path in (RULES / "tests").glob("recording*.yml"))
    missing = {rule.body["record"] for rule in ALL if "record" in rule.body and rule.body["record"] not in text}
    # The test of another rule covers this one: the other rule sums this series over VMs.
    assert missing == {"instance_vm_class:kvm_exit_duration_seconds_bucket:rate5m"}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.body["alert"])
def test_every_alert_has_all_its_parts_and_a_runbook(rule: Rule) -> None:
    name = rule.body["alert"]
    assert rule.body.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert rule.body["labels"].keys() == {"severity"}
    assert rule.body["labels"]["severity"] in {"critical", "warning", "info"}
    annotations = rule.body["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f'{{{{ or $externalLabels.runbooks "docs/operations.md" }}}}#{name.lower()}'
    headings = re.findall(r"^### (\w+)$", OPERATIONS.read_text(), re.MULTILINE)
    assert headings.count(name) == 1


def test_every_runbook_belongs_to_an_alert() -> None:
    names = {rule.body["alert"] for rule in ALERTS}
    assert set(re.findall(r"^### (Kvm\w+)$", OPERATIONS.read_text(), re.MULTILINE)) == names


def test_no_name_is_recorded_twice() -> None:
    """Prometheus loads two files together: the shared rules, and the rules for one form of histograms."""
    for form in ("classic", "native"):
        files = [file for file in FILES if file.startswith(("recording.", f"recording-{form}"))]
        names = [rule.body["record"] for file in files for rule in rules(file)]
        assert len(set(names)) == len(names)


def test_the_rules_for_both_forms_of_histograms_are_equal() -> None:
    """The native file differs only in two ways. Its histograms have another syntax, and it records no histogram."""
    buckets = {"vm_class": "sum without (pid, tid, vcpu, reason) (rate(kvm_exit_duration_seconds_bucket[5m]))"}
    buckets["class"] = buckets["vm_class"].replace("(pid,", "(vm, pid,")

    def translated(text: str) -> str:
        for level, expr in buckets.items():
            text = text.replace(f"instance_{level}:kvm_exit_duration_seconds_bucket:rate5m", expr)
        text = re.sub(r"rate\((kvm_\w+)_bucket(\[\w+\])\)", r"rate(\1\2)", text)
        return re.sub(r"rate\((kvm_\w+)_sum(\[\w+\])\)", r"histogram_sum(rate(\1\2))", text)

    classic = rules("recording-classic.rules.yml")
    assert [rule.expr for rule in classic[:2]] == [
        buckets["vm_class"],
        "sum without (vm) (instance_vm_class:kvm_exit_duration_seconds_bucket:rate5m)",
    ]
    expected = [{key: translated(value) for key, value in rule.body.items()} for rule in classic[2:]]
    assert expected == [rule.body for rule in rules("recording-native.rules.yml")]
    (fleet,) = rules("recording-native-fleet.rules.yml")
    assert fleet.expr == translated(buckets["class"])


@pytest.mark.parametrize(
    ("join", "alerts"),
    [("pid", {"KvmVcpuStuck", "KvmVmStandsStill"}), ("vm", {"KvmExitTimeHigh", "KvmExitP99High"})],
)
def test_alerts_about_long_exits_leave_out_programs_whose_vcpus_move(join: str, alerts: set[str]) -> None:
    (label,) = MOVING
    without = f'unless on (job, instance, {join}) kvm_vm_info{{vmm="{label}"}}'
    assert {rule.body["alert"] for rule in ALERTS if without in rule.body["expr"]} == alerts
