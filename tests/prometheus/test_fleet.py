"""Run the examples in deploy/prometheus in real servers. A server sends only recorded series."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus.receiver import Receiver
from tests.support.paths import ROOT
from tests.support.prometheus import builds, exporters
from tests.support.prometheus.server import Prometheus
from tests.support.rules import OF_THE_SPLIT

RULES = ROOT / "deploy/prometheus"
SECONDS = 60


def example(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((RULES / f"{name}.example.yml").read_text()))


@dataclass(frozen=True)
class Sending:
    """A server with the example's rules and remote_write, and its receiver."""

    prometheus: Prometheus
    receiver: Receiver


@pytest.fixture(scope="module", params=builds.SUITES)
def sending(
    request: pytest.FixtureRequest, build: Callable[[str], builds.Build], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sending]:
    found = build(request.param)
    with ExitStack() as stack:
        demo = exporters.Demo(tmp_path_factory.mktemp("demo"), 20)
        stack.callback(demo.end)
        receiver = Receiver()
        stack.callback(receiver.close)
        configuration = example("prometheus")
        (write,) = configuration["remote_write"]
        settings = {
            "global": {"evaluation_interval": "1s", "external_labels": configuration["global"]["external_labels"]},
            "remote_write": [{**write, "url": receiver.url}],
        }
        rules = [RULES / name for name in configuration["rule_files"]]
        folder = tmp_path_factory.mktemp(f"sending-{request.param}") / "server"
        server = Prometheus(found, demo.address, folder, native=False, rules=rules, settings=settings)
        stack.callback(server.stop)
        yield Sending(server, receiver)


def test_remote_write_sends_only_recorded_series(sending: Sending) -> None:
    """All recorded series of hosts are sent, and those of VMs except buckets and reasons.

    No series has label `runbooks`.
    """
    recorded = {
        rule["name"]
        for group in sending.prometheus.api("rules")["groups"]
        for rule in group["rules"]
        if rule["type"] == "recording"
    }
    wanted = {
        name
        for name in recorded
        if not re.match(r"instance_vm(_class)?_reason:|instance_vm_class:.*_bucket:", name)
        and not OF_THE_SPLIT.search(name)
    }
    deadline = time.monotonic() + SECONDS
    while {dict(labels)["__name__"] for labels in sending.receiver.series} != wanted:
        assert time.monotonic() < deadline, {dict(labels)["__name__"] for labels in sending.receiver.series} ^ wanted
        time.sleep(0.2)
    for labels in map(dict, sending.receiver.series):
        assert labels["prometheus"] == "kvm-1"
        assert "runbooks" not in labels


def test_federation_fetches_only_recorded_series_of_hosts(sending: Sending, tmp_path: Path) -> None:
    configuration = example("prometheus-federation")
    (scrape,) = configuration["scrape_configs"]
    address = sending.prometheus.address
    options = {**scrape, "scrape_interval": "1s", "static_configs": [{"targets": [address]}]}
    settings = {"scrape_configs": [options]}
    above = Prometheus(sending.prometheus.build, address, tmp_path / "above", native=False, settings=settings)
    try:
        deadline = time.monotonic() + SECONDS
        query = '{__name__=~".*:.*"}'
        while not (found := [sample.labels for sample in above.query(query)]):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        below = [sample.labels for sample in sending.prometheus.query('{__name__=~"instance(_class)?(_reason)?:.*"}')]
        assert {labels["__name__"] for labels in found} == {labels["__name__"] for labels in below}
        assert all((labels["job"], labels["prometheus"]) == ("kvm", "kvm-1") for labels in found)
        assert not any("vm" in labels or "runbooks" in labels for labels in found)
        assert above.complaints() == []
    finally:
        above.stop()
