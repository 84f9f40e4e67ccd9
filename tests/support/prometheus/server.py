"""A running Prometheus with a storage folder of its own, and its query API."""

from __future__ import annotations

import json
import math
import re
import signal
import socket
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
"""The time limit of every wait in this file."""

_SCRAPE = "up|scrape_.*"
"""The series that Prometheus itself adds to every target."""

Labels = dict[str, str]


class Sample(NamedTuple):
    """One element of an instant vector. Its value is a number, or a native histogram in the API's form."""

    labels: Labels
    value: float
    histogram: dict[str, Any] | None


def _free_port() -> int:
    """Return a port that is free now. Old servers need one: they do not log the port that the kernel chose."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Prometheus:
    """A server that scrapes one exporter and `others`.

    If `native` is set, it stores native histograms. If `classic_too` is set as well, it also stores classic histograms.
    `rules` are rule files, which are evaluated once per scrape interval. `settings` are added to the configuration, and
    `flags` to the command line.
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
            f"--web.listen-address=127.0.0.1:{_free_port() if build.version < (2, 42) else 0}",
            *flags,
        ]
        options: dict[str, Any] = {
            "job_name": "kvm",
            "scrape_interval": f"{INTERVAL_MS}ms",
            "scrape_timeout": f"{INTERVAL_MS}ms",
            "static_configs": [{"targets": [target, *others]}],
        }
        # Native histograms need a feature flag before 3.8, and a setting since 3.8. The setting for the classic form
        # exists since 2.45, and 3.0 renamed it.
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
        (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is also valid YAML
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
        """Return the server's address. It is taken from the server's log."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            match = re.search(
                r'msg="(?:Listening on|Start listening .*)" .*address=(127\.0\.0\.1:[1-9]\d*)', self.log()
            )
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
        """Return the log's lines at level warn and error.

        They report for example samples out of order, duplicate samples and different values.
        """
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
        """Return the result of an instant query. It must be a vector."""
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
        """Return the samples in the ten minutes before at_ms, by time stamp in ms.

        The value of a histogram is its count.
        """
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
        """Return the labels of all series that the last scrape of the exporter gave."""
        return [sample.labels for sample in self.query(f'{{job="kvm", __name__!~"{_SCRAPE}"}}')]

    def scrapes(self, after_ms: int, count: int) -> list[int]:
        """Wait for `count` successful scrapes that began after after_ms. Return their time stamps."""
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
        """End the server. Its exit status must be 0."""
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
    """Start the server of each available suite twice: with and without native histograms. `stack` stops the servers."""
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
