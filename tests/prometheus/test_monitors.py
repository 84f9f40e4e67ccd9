"""Which durations each shipped scrape configuration stores, in the servers of Debian 11, 12, 13 and unstable.

The tests read the shipped files, and change only the target and the interval. A monitor of the Prometheus operator is
translated as the operator does it. Each test prints the numbers of series that the server has.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config.options import Config, Web
from tests.prometheus.receiver import Receiver
from tests.support.paths import ROOT
from tests.support.prometheus import builds, exporters
from tests.support.prometheus.exporters import Standstill
from tests.support.prometheus.server import Prometheus

DEPLOY = ROOT / "deploy"
COMPONENTS = DEPLOY / "kubernetes/components"
SUITES = (*builds.WITHOUT_NATIVE, *builds.SUITES)
NATIVE = "--enable-feature=native-histograms"
DURATION = "kvm_(userspace_)?exit_duration_seconds"

HISTOGRAMS = 41
"""The recording has 28 pairs of vCPU and exit reason, and 13 pairs of vCPU and reason of a return to the VMM."""
STORED = {"classic": (HISTOGRAMS * 16, 0), "native": (0, HISTOGRAMS), "nothing": (0, 0)}
"""The numbers of series with classic and with native histograms. A classic one has 13 bounds, +Inf, count and sum."""


@dataclass(frozen=True)
class Setup:
    """A shipped scrape configuration, on a server with or without native histograms."""

    source: str
    """A component of deploy/kubernetes, or a file in deploy."""
    native_server: bool
    native_component: bool
    stored: dict[str, str]
    """The form of the stored durations, by suite. A suite that is not here cannot run the setup."""

    @property
    def rules(self) -> str:
        """The form of histograms that its recording rules read."""
        if self.source.endswith("monitor"):
            return "native" if self.native_component else "classic"
        return "native" if self.native_server else "classic"

    @property
    def name(self) -> str:
        component = ", native-histograms" if self.native_component else ""
        return f"{self.source}{component}; server {'with' if self.native_server else 'without'} native histograms"

    def job(self, version: tuple[int, int]) -> dict[str, Any]:
        if not self.source.endswith("monitor"):
            (job,) = yaml.safe_load((DEPLOY / self.source).read_text())["scrape_configs"]
            return dict(job)
        (file,) = (COMPONENTS / self.source).glob("*monitor.yaml")
        spec = yaml.safe_load(file.read_text())["spec"]
        if self.native_component:
            patches = yaml.safe_load((COMPONENTS / "native-histograms/kustomization.yaml").read_text())["patches"]
            (change,) = yaml.safe_load(patches[0]["patch"])
            assert (change["op"], change["path"]) == ("replace", "/spec/scrapeProtocols")
            spec["scrapeProtocols"] = change["value"]
        (endpoint,) = spec.get("podMetricsEndpoints") or spec["endpoints"]
        relabelings = [{_snake(key): value for key, value in rule.items()} for rule in endpoint["relabelings"]]
        job = {"job_name": self.source, "relabel_configs": relabelings}
        # The operator leaves the field out for versions that do not know it.
        return {**job, "scrape_protocols": spec["scrapeProtocols"]} if version >= (2, 49) else job


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda match: "_" + match[0].lower(), name)


def _setups() -> Iterator[Setup]:
    plain = {"bullseye": "classic", "bookworm": "classic", "trixie": "classic", "sid": "classic"}
    native = {"bookworm": "native", "trixie": "native", "sid": "native"}
    for monitor in ("pod-monitor", "service-monitor"):
        yield Setup(monitor, False, False, plain)
        yield Setup(monitor, True, True, native)
        # 2.42 does not know scrape_protocols. So the server decides, and not the monitor.
        yield Setup(monitor, True, False, {"bookworm": "native", "trixie": "classic", "sid": "classic"})
        yield Setup(monitor, False, True, {"bookworm": "classic", "trixie": "nothing", "sid": "nothing"})
    yield Setup("prometheus/prometheus.example.yml", False, False, plain)
    yield Setup("prometheus/prometheus.example.yml", True, False, native)
    yield Setup("compose/prometheus.yml", True, False, native)


SETUPS = tuple(_setups())


@pytest.fixture(scope="module")
def exporter() -> Iterator[Standstill]:
    with exporters.standstill(Config(web=Web(listen_address=exporters.ADDRESSES), lock_file="")) as made:
        yield made


@contextmanager
def _servers(
    build: builds.Build, suite: str, exporter: Standstill, folder: Path
) -> Iterator[list[tuple[Setup, Prometheus]]]:
    """Start a server for each setup of a suite. They start together, because each waits before its first scrape."""
    with ExitStack() as stack:
        found = []
        for number, setup in enumerate(setup for setup in SETUPS if suite in setup.stored):
            target = {"targets": [exporter.address], "labels": {"__meta_kubernetes_pod_node_name": "node-1"}}
            job = {**setup.job(build.version), "scrape_interval": "1s", "scrape_timeout": "1s"}
            settings = {"scrape_configs": [{**job, "static_configs": [target]}]}
            names = ("recording", f"recording-{setup.rules}", "alerts")
            server = Prometheus(
                build,
                exporter.address,
                folder / str(number),
                native=setup.native_server,
                rules=[DEPLOY / f"prometheus/{name}.rules.yml" for name in names],
                settings=settings,
            )
            stack.callback(server.stop)
            found.append((setup, server))
        yield found


def _series(server: Prometheus) -> tuple[int, int]:
    """Return the numbers of stored series with classic and with native histograms."""
    classic = server.query(f'{{__name__=~"{DURATION}_(bucket|count|sum)"}}')
    # Without native histograms, 2.53 stores the number 0 in place of each native histogram.
    native = [sample for sample in server.query(f'{{__name__=~"{DURATION}"}}') if sample.histogram]
    return len(classic), len(native)


def _missing(server: Prometheus) -> bool:
    """Return True if KvmExitDurationsMissing is pending. Before the first rates are recorded, it always is."""
    return "KvmExitDurationsMissing" in {alert["labels"]["alertname"] for alert in server.api("alerts")["alerts"]}


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _has_rates(server: Prometheus) -> bool:
    return bool(server.query("instance:kvm_exits:rate5m"))


@pytest.mark.parametrize("suite", SUITES)
def test_the_shipped_configurations_store_durations(
    build: Callable[[str], builds.Build],
    suite: str,
    exporter: Standstill,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The alert KvmExitDurationsMissing is pending if and only if the recording rules find no durations."""
    found = build(suite)
    lines = [f"\nPrometheus {found.text}, series with classic and with native histograms:"]
    with _servers(found, suite, exporter, tmp_path) as servers:
        for _, server in servers:
            server.scrapes(0, 2)
            _wait(partial(_has_rates, server))
        since_ms = time.time_ns() // 10**6
        for setup, server in servers:
            server.scrapes(since_ms, 3)  # meanwhile the alerts are evaluated
            series = _series(server)
            lines.append(f"  {series[0]:>4} {series[1]:>3}  {setup.name}")
            assert series == STORED[setup.stored[suite]], setup.name
            if setup.stored[suite] == setup.rules:
                _wait(lambda server=server: not _missing(server))  # type: ignore[misc]
            else:
                assert _missing(server), setup.name
            assert server.complaints() == []
            jobs = {sample.labels["job"] for sample in server.query("kvm_exit_exporter_up")}
            assert jobs == {"kvm-exit"}
    with capsys.disabled():
        print("\n".join(lines))


@pytest.mark.parametrize("native", [False, True], ids=["classic", "native"])
@pytest.mark.parametrize("suite", builds.SUITES)  # agents exist since 2.32
def test_the_shipped_agent_sends_durations(
    build: Callable[[str], builds.Build],
    suite: str,
    exporter: Standstill,
    tmp_path: Path,
    *,
    native: bool,
) -> None:
    found = build(suite)
    configuration = yaml.safe_load((DEPLOY / "prometheus/prometheus-agent.example.yml").read_text())
    receiver = Receiver()
    (job,), (write,) = configuration["scrape_configs"], configuration["remote_write"]
    job.update(scrape_interval="1s", scrape_timeout="1s", static_configs=[{"targets": [exporter.address]}])
    write["url"] = receiver.url
    (tmp_path / "agent.yml").write_text(yaml.safe_dump(configuration))
    mode = ["--agent"] if found.version >= (3, 0) else ["--enable-feature=agent"]
    command = [str(found.binary), *mode, f"--config.file={tmp_path / 'agent.yml'}", "--web.listen-address=127.0.0.1:0"]
    command += [f"--storage.agent.path={tmp_path / 'data'}", *([NATIVE] if native else [])]
    expected = STORED["native" if native else "classic"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path) as agent:
        try:
            _wait(lambda: _received(receiver) == expected)
        finally:
            agent.terminate()
            receiver.close()


def _received(receiver: Receiver) -> tuple[int, int]:
    names = [dict(labels)["__name__"] for labels in list(receiver.series)]
    classic = sum(bool(re.fullmatch(f"{DURATION}_(bucket|count|sum)", name)) for name in names)
    return classic, sum(bool(re.fullmatch(DURATION, name)) for name in names)
