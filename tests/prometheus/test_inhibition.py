"""Alertmanager with the example's configuration: an overcommitted host silences the alerts of its VMs that follow."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.rules import ALL

EXAMPLE = ROOT / "deploy/prometheus/alertmanager.example.yml"
SECONDS = 60


def test_amtool_accepts_the_example(alertmanager: Path) -> None:
    command = [str(alertmanager / "usr/bin/amtool"), "check-config", str(EXAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 inhibit rules" in done.stdout


def test_the_example_names_only_alerts_that_exist() -> None:
    names = {rule.body["alert"] for rule in ALL if "alert" in rule.body}
    (rule,) = yaml.safe_load(EXAMPLE.read_text())["inhibit_rules"]
    told = re.findall(r"Kvm\w+", " ".join(rule["source_matchers"] + rule["target_matchers"]))
    assert set(told) <= names
    assert told[0] == "KvmHostOvercommitted"


def test_the_cause_fires_no_later_than_the_alerts_that_it_silences() -> None:
    """Otherwise the VMs' alerts would be sent first."""
    minutes = {rule.body["alert"]: int(rule.body["for"].rstrip("m")) for rule in ALL if "alert" in rule.body}
    assert minutes["KvmHostOvercommitted"] < min(minutes["KvmExitTimeHigh"], minutes["KvmExitP99High"])


class Alertmanager:
    """A running server with the example's configuration."""

    def __init__(self, folder: Path, storage: Path) -> None:
        self._log = storage / "log"
        # Debian's binary expects its templates in /usr/share. Only this process sees them there.
        mount = 'mount --bind "$0" /usr/share && exec "$@"'
        command = [
            *("unshare", "--mount", "sh", "-c", mount, str(folder / "usr/share")),
            str(folder / "usr/bin/prometheus-alertmanager"),
            f"--config.file={EXAMPLE}",
            f"--storage.path={storage}",
            "--web.listen-address=127.0.0.1:0",
            "--cluster.listen-address=",
        ]
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._url = ""

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            assert time.monotonic() < deadline, self._log.read_text()
            found = re.search(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', self._log.read_text())
            if found:
                self._url = f"http://{found[1]}/api/v2"
                try:
                    self._open(f"{self._url}/status", timeout=10).close()
                except urllib.error.URLError:
                    pass
                else:
                    return
            time.sleep(0.1)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def send(self, *alerts: dict[str, str]) -> None:
        body = json.dumps([{"labels": labels} for labels in alerts]).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}/alerts", body, headers)
        self._open(request, timeout=10).close()

    def silenced(self, number: int) -> set[tuple[str, str]]:
        """Return name and host of the inhibited alerts, as soon as `number` alerts have a state."""
        deadline = time.monotonic() + SECONDS
        while True:
            with self._open(f"{self._url}/alerts", timeout=10) as answer:
                found: list[dict[str, Any]] = json.load(answer)
            if len(found) == number and all(each["status"]["state"] != "unprocessed" for each in found):
                return {
                    (each["labels"]["alertname"], each["labels"]["instance"])
                    for each in found
                    if each["status"]["inhibitedBy"]
                }
            assert time.monotonic() < deadline, found
            time.sleep(0.2)


@pytest.fixture
def server(alertmanager: Path, tmp_path: Path) -> Iterator[Alertmanager]:
    made = Alertmanager(alertmanager, tmp_path)
    try:
        made.wait_until_ready()
        yield made
    finally:
        made.stop()


def test_an_overcommitted_host_silences_the_latency_alerts_of_its_own_vms(server: Alertmanager) -> None:
    hosts = [{"job": "kvm-exit", "instance": f"h{number}:9939"} for number in (1, 2)]
    of_vms = ("KvmExitTimeHigh", "KvmExitP99High", "KvmVcpuStuck", "KvmExitStorm")
    server.send({"alertname": "KvmHostOvercommitted", "severity": "warning", **hosts[0]})
    server.send(
        *({"alertname": name, "vm": "web-1", "severity": "warning", **host} for name in of_vms for host in hosts)
    )
    assert server.silenced(9) == {("KvmExitTimeHigh", "h1:9939"), ("KvmExitP99High", "h1:9939")}
