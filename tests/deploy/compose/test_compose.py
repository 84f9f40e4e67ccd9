"""compose.yaml, read by Docker Compose, and the configuration that it mounts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config.options import Config
from tests.deploy.containers import documented
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy/compose"


def understood(**environment: str) -> dict[str, Any]:
    docker_compose = Path(sys.executable).parent / "docker-compose"
    command: list[str | Path] = [docker_compose, "--file", FOLDER / "compose.yaml", "config", "--format=json"]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = understood()["services"]
    assert found.keys() == {"exporter", "prometheus", "grafana"}
    return found


def test_docker_compose_reports_unknown_keys(tmp_path: Path) -> None:
    """understood() relies on `config`: it checks the file against the schema and reports errors on stderr."""
    (tmp_path / "compose.yaml").write_text("services: {exporter: {image: x, comand: [demo]}}\n")
    docker_compose = Path(sys.executable).parent / "docker-compose"
    command: list[str | Path] = [docker_compose, "--file", tmp_path / "compose.yaml", "config"]
    done = subprocess.run(command, env={}, check=False, capture_output=True, text=True)
    assert "additional properties 'comand' not allowed" in done.stderr


def test_the_exporter_has_the_documented_rights(services: dict[str, Any]) -> None:
    exporter = services["exporter"]
    options = documented.docker_run()
    assert exporter["cap_drop"] == ["ALL"]
    assert exporter["cap_add"] == documented.capabilities(options)
    assert exporter["pid"] == "host"
    assert exporter["read_only"] is True
    assert exporter["security_opt"] == ["no-new-privileges"]
    assert exporter["command"] == ["demo"]
    assert Path(exporter["build"]["context"]) == ROOT
    assert "privileged" not in exporter


def test_images_are_pinned(services: dict[str, Any]) -> None:
    for name in ("prometheus", "grafana"):
        assert re.fullmatch(r"docker\.io/\w+/\w+:v?\d+\.\d+\.\d+", services[name]["image"])


def test_ports_are_open_only_to_this_machine() -> None:
    chosen = understood(EXPORTER_PORT="19939", PROMETHEUS_PORT="19090", GRAFANA_PORT="13000")["services"]
    published = {name: [(p["host_ip"], p["published"], p["target"]) for p in s["ports"]] for name, s in chosen.items()}
    port = int(Config().web.listen_address[0].rpartition(":")[2])
    assert published == {
        "exporter": [("127.0.0.1", "19939", port)],
        "prometheus": [("127.0.0.1", "19090", 9090)],
        "grafana": [("127.0.0.1", "13000", 3000)],
    }


def test_each_service_waits_until_the_previous_one_is_healthy(services: dict[str, Any]) -> None:
    waits = {name: list(service.get("depends_on", {})) for name, service in services.items()}
    assert waits == {"exporter": [], "prometheus": ["exporter"], "grafana": ["prometheus"]}
    for service in services.values():
        assert all(wait["condition"] == "service_healthy" for wait in service.get("depends_on", {}).values())
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()
    assert services["exporter"]["environment"] == {"HEALTHCHECK_URL": "http://127.0.0.1:9939/-/ready"}
    assert services["prometheus"]["healthcheck"]["test"][-1] == "http://localhost:9090/-/ready"
    assert services["grafana"]["healthcheck"]["test"][-1] == "http://localhost:3000/api/health"


def test_mounted_files_exist(services: dict[str, Any]) -> None:
    sources = [Path(v["source"]) for s in services.values() for v in s.get("volumes", []) if v["type"] == "bind"]
    assert len(sources) == 5
    assert [source for source in sources if not source.exists()] == []


def test_promtool_accepts_the_configuration(services: dict[str, Any], tmp_path: Path) -> None:
    """The files are copied to the places where they are mounted."""
    mounts = {volume["target"]: volume["source"] for volume in services["prometheus"]["volumes"]}
    shutil.copy(mounts["/etc/prometheus/prometheus.yml"], tmp_path)
    shutil.copytree(mounts["/etc/prometheus/rules"], tmp_path / "rules")
    command: list[str | Path] = ["promtool", "check", "config", tmp_path / "prometheus.yml"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS: 3 rule files found" in done.stdout


def test_job_urls_and_intervals_agree(services: dict[str, Any]) -> None:
    prometheus = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert job["job_name"] == "kvm-exit"
    assert job["static_configs"] == [{"targets": ["exporter:9939"]}]
    (source,) = yaml.safe_load((FOLDER / "datasource.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    assert "--enable-feature=native-histograms" in services["prometheus"]["command"]


def test_dashboards_are_mounted_in_the_provisioned_folder(services: dict[str, Any]) -> None:
    provider = ROOT / "deploy/grafana/provisioning/dashboards/kvm-exits.yaml"
    (wanted,) = yaml.safe_load(provider.read_text())["providers"]
    mounts = {volume["target"]: volume["source"] for volume in services["grafana"]["volumes"]}
    assert list(Path(mounts[wanted["options"]["path"]]).glob("*.json"))
