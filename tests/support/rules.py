"""The rules of deploy/prometheus, and every series that a rule may use."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

from exporter.metrics import own
from exporter.metrics.families import HistogramFamily
from tests.support.exits import families
from tests.support.own_metrics import DROPPED, SNAPSHOT, WEB
from tests.support.paths import ROOT

RULES = ROOT / "deploy/prometheus"
FILES = tuple(sorted(path.name for path in RULES.glob("*.rules.yml")))

OF_THE_SPLIT = re.compile(r"_(wait|sleep|vmm_cpu|kernel_cpu|polling)_seconds")
"""Recorded series that need a host whose exporter splits the time of exits. A replay does not."""

TARGET = {"job", "instance"}
PROMETHEUS_OWN = {"up": TARGET, "scrape_duration_seconds": TARGET}


class Rule(NamedTuple):
    """One rule, and the name of its file."""

    file: str
    body: dict[str, Any]

    @property
    def expr(self) -> str:
        return str(self.body["expr"])


def rules(file: str) -> list[Rule]:
    groups = yaml.safe_load((RULES / file).read_text())["groups"]
    return [Rule(file, rule) for group in groups for rule in group["rules"]]


ALL = [rule for file in FILES for rule in rules(file)]


def level(record: str) -> set[str]:
    """Return the labels of a recorded series. They are the first part of its name."""
    labels = set(record.split(":", maxsplit=1)[0].split("_"))
    return labels | {"job"} | ({"le"} if "_bucket:" in record else set())


def known() -> dict[str, set[str]]:
    """Return the labels of every series: those of the exporter, those of Prometheus itself, and the recorded ones."""
    found = {name: set(labels) for name, labels in PROMETHEUS_OWN.items()}
    for family in families([]):
        found[family.name] = TARGET | set(family.labels)
        if isinstance(family, HistogramFamily):
            for part in ("bucket", "sum", "count"):
                found[f"{family.name}_{part}"] = found[family.name] | ({"le"} if part == "bucket" else set())
    collection = own.CollectionStatus(SNAPSHOT, dropped=DROPPED)
    for metric in own.registry(lambda: own.OwnStatus(collection, web=WEB)).collect():
        for sample in metric.samples:
            found[sample.name] = TARGET | set(sample.labels)
    for rule in ALL:
        if "record" in rule.body:
            found[rule.body["record"]] = level(rule.body["record"])
    return found


KNOWN = known()
