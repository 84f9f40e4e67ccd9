"""A running Prometheus with a storage of its own, and what it answers."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.support.prometheus import builds
from tests.support.prometheus.builds import Build

INTERVAL_MS = 1000
_SECONDS = 60
"""How long anything here is waited for."""

_SCRAPE = "up|scrape_.*"
"""Series that Prometheus itself adds to every target."""

Labels = dict[str, str]


class Sample(NamedTuple):
    """One element of an instant vector: a number, or a native histogram as the API writes it."""

    labels: Labels
    value: float
    histogram: dict[str, Any] | None


class Prometheus:
    """One server that scrapes one exporter and `others`. `native`: native histograms; `classic_too`: and classic.

    `rules` are rule files, evaluated as often as is scraped; `settings` more of its configuration,
    `flags` more of its command line.
    """

    def __init__(
        self,
        build: Build,
        target: str,
        folder: Path,
        *,
        native: bool,
        classic_too: bool = False,
        others: tuple[str, ...] = (),
        rules: Sequence[Path] = (),
        settings: Mapping[str, Any] = MappingProxyType({}),
        flags: Sequence[str] = (),
    ) -> None:
        folder.mkdir()
        self.build = build
        self._log = folder / "log"
        arguments = [
            str(build.binary),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
            *flags,
        ]
        options: dict[str, Any] = {
            "job_name": "kvm",
            "scrape_interval": f"{INTERVAL_MS}ms",
            "scrape_timeout": f"{INTERVAL_MS}ms",
            "static_configs": [{"targets": [target, *others]}],
        }
        # 3.8 made the feature flag a setting; 3.0 renamed that of the classic form, which came with 2.45.
        if native and build.version < (3, 8):
            arguments.append("--enable-feature=native-histograms")
        elif native:
            options["scrape_native_histograms"] = True
        if classic_too:
            old = build.version < (3, 0)
            options["scrape_classic_histograms" if old else "always_scrape_classic_histograms"] = True
        configuration = {
            "global": {"evaluation_interval": f"{INTERVAL_MS}ms"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [options],
            **settings,
        }
        (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
        try:
            self.address = self._address()
            self._url = f"http://{self.address}"
            self._wait_until_ready()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _address(self) -> str:
        """Where it listens, which its log says."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            match = re.search(r'msg="Listening on" .*address=(127\.0\.0\.1:[1-9]\d*)', self.log())
            if match:
                return match[1]
            assert self._process.poll() is None, self.log()
            time.sleep(0.02)
        raise AssertionError(self.log())

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                self._open(f"{self._url}/-/ready", timeout=_SECONDS).close()
                return
            except urllib.error.HTTPError:
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)

    def log(self) -> str:
        return self._log.read_text()

    def complaints(self) -> list[str]:
        """Lines of its log at level warn and error: out of order, duplicate, different value, ..."""
        return [line for line in self.log().splitlines() if re.search(r"level=(?!info|debug)", line, re.IGNORECASE)]

    def api(self, path: str, **parameters: str) -> Any:
        body = urllib.parse.urlencode(parameters).encode() or None
        try:
            with self._open(f"{self._url}/api/v1/{path}", body, timeout=_SECONDS) as answer:
                said = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from error
        assert said["status"] == "success"
        assert not said.get("warnings"), said["warnings"]
        return said["data"]

    def query(self, expression: str, at_ms: int | None = None) -> list[Sample]:
        """An instant query; its result is a vector."""
        when = {} if at_ms is None else {"time": f"{at_ms / 1000:.3f}"}
        data = self.api("query", query=expression, **when)
        assert data["resultType"] == "vector"
        return [
            Sample(
                each["metric"],
                float(each["value"][1]) if "value" in each else math.nan,
                each["histogram"][1] if "histogram" in each else None,
            )
            for each in data["result"]
        ]

    def raw(self, selector: str, at_ms: int) -> list[tuple[Labels, dict[int, float]]]:
        """The stored samples of the ten minutes until then, by their time stamps in ms. A histogram's are its count."""
        data = self.api("query", query=f"{selector}[10m]", time=f"{at_ms / 1000:.3f}")
        assert data["resultType"] == "matrix"
        return [
            (
                each["metric"],
                {
                    **{round(stamp * 1000): float(value) for stamp, value in each.get("values", ())},
                    **{round(stamp * 1000): float(value["count"]) for stamp, value in each.get("histograms", ())},
                },
            )
            for each in data["result"]
        ]

    def stored(self) -> list[Labels]:
        """Labels of all series of the exporter that the last scrape brought."""
        return [sample.labels for sample in self.query(f'{{job="kvm", __name__!~"{_SCRAPE}"}}')]

    def scrapes(self, after_ms: int, count: int) -> list[int]:
        """Time stamps of successful scrapes that began after a moment; waits until there are so many."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            found = [
                stamp
                for _, samples in self.raw("up", time.time_ns() // 10**6)
                for stamp, value in samples.items()
                if stamp > after_ms and value == 1.0
            ]
            if len(found) >= count:
                return sorted(found)
            time.sleep(0.05)
        raise AssertionError(f"no scrape: {self.api('targets')['activeTargets']}")

    def stop(self) -> None:
        """End it; it must end well."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        assert status == 0, self.log()


def of_every_kind(
    address: str, folders: pytest.TempPathFactory, stack: ExitStack
) -> dict[tuple[str, bool], Prometheus]:
    """Start each suite's server that can be had, with native histograms and without; the stack will stop them."""
    servers = {}
    for suite in builds.SUITES:
        build = builds.find(suite)
        if isinstance(build, builds.UnavailableError):
            continue
        for native in (True, False):
            folder = folders.mktemp(f"{suite}-{native}") / "server"
            servers[suite, native] = server = Prometheus(build, address, folder, native=native)
            stack.callback(server.stop)
    return servers
