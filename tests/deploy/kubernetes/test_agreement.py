"""Names, ports, labels and paths that must be the same in several places."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter import __version__
from exporter.config import load as configfile
from exporter.config.options import Config
from tests.deploy.containers import documented
from tests.deploy.kubernetes.kustomize import FOLDER, OVERLAYS, Manifest, build, with_components
from tests.support.paths import ROOT

RULES = {"classic": "prometheus-rule", "native": "native-histograms"}
"""The component with the rules of each form of histograms."""
NATIVE = FOLDER / "components/native-histograms"
Built = dict[str, Manifest]


def pod(built: Built) -> Manifest:
    template: Manifest = built["DaemonSet"]["spec"]["template"]
    return template


def container(built: Built) -> Manifest:
    (only,) = pod(built)["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def probes(built: Built) -> dict[str, Manifest]:
    return {key: value for key, value in container(built).items() if key.endswith("Probe")}


def labels(manifest: Manifest) -> set[tuple[str, str]]:
    return set(manifest["metadata"]["labels"].items())


def selected(selector: dict[str, str]) -> set[tuple[str, str]]:
    return set(selector.items())


def test_every_file_belongs_to_a_kustomization() -> None:
    used = set()
    for kustomization in FOLDER.rglob("kustomization.yaml"):
        text = yaml.safe_load(kustomization.read_text())
        named = [*text.get("resources", []), *text.get("components", [])]
        named += [file for generator in text.get("configMapGenerator", []) for file in generator["files"]]
        named += [patch["path"] for patch in text.get("patches", []) if "path" in patch]
        for name in named:
            path = (kustomization.parent / name).resolve()
            assert path.exists(), f"{kustomization}: {name}"
            used.add(path)
        used.add(kustomization.resolve())
    there = {path for path in FOLDER.rglob("*") if path.is_file()} - {FOLDER / "prometheus-rule.sh"}
    assert there - used == set()
    assert len(OVERLAYS) == 3


def test_selectors_find_the_pods(built: Built) -> None:
    namespace = built["Namespace"]["metadata"]["name"]
    assert {m["metadata"]["namespace"] for kind, m in built.items() if kind != "Namespace"} == {namespace}
    assert selected(built["DaemonSet"]["spec"]["selector"]["matchLabels"]) <= labels(pod(built))
    assert selected(built["Service"]["spec"]["selector"]) <= labels(pod(built))
    if policy := built.get("NetworkPolicy"):
        assert selected(policy["spec"]["podSelector"]["matchLabels"]) <= labels(pod(built))
    if monitor := built.get("PodMonitor"):
        assert selected(monitor["spec"]["selector"]["matchLabels"]) <= labels(pod(built))
    if monitor := built.get("ServiceMonitor"):
        assert selected(monitor["spec"]["selector"]["matchLabels"]) <= labels(built["Service"])


def test_all_ports_are_those_of_the_container(built: Built) -> None:
    port = int(Config().web.listen_address[0].rpartition(":")[2])
    assert container(built)["ports"] == [{"name": "metrics", "containerPort": port}]
    named: list[Any] = [probe["httpGet"]["port"] for probe in probes(built).values()]
    (service,) = built["Service"]["spec"]["ports"]
    assert (service["name"], service["port"]) == ("metrics", port)
    named.append(service["targetPort"])
    for kind, key in (("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints")):
        if kind in built:
            (endpoint,) = built[kind]["spec"][key]
            named.append(endpoint["port"])
    if policy := built.get("NetworkPolicy"):
        named += [allowed["port"] for rule in policy["spec"]["ingress"] for allowed in rule["ports"]]
    assert set(named) == {"metrics"}


def test_every_path_of_the_configuration_is_mounted(built: Built, tmp_path: Path) -> None:
    volumes = {volume["name"]: volume for volume in pod(built)["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container(built)["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == volumes.keys()
    assert volumes["config"]["configMap"]["name"] == built["ConfigMap"]["metadata"]["name"]
    file = Path(container(built)["args"][1].partition("=")[2])
    assert mounts[str(file.parent)]["name"] == "config"
    assert built["ConfigMap"]["data"].keys() == {file.name}
    (tmp_path / file.name).write_text(built["ConfigMap"]["data"][file.name])
    config = configfile.load(tmp_path / file.name)
    assert config.log.format == "json"
    assert mounts[str(Path(config.lock_file).parent.parent)]["name"] == "scratch"  # root creates the lock file's folder
    assert volumes["tracefs"]["hostPath"]["path"] in mounts
    written = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert written == {"/run", "/tmp"}


def test_rights_are_the_documented_ones(built: Built) -> None:
    options = documented.docker_run()
    security = container(built)["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": documented.capabilities(options)}
    assert security["readOnlyRootFilesystem"] is ("--read-only" in options)
    assert security["allowPrivilegeEscalation"] is ("no-new-privileges" not in options)
    assert security["privileged"] is False
    spec = pod(built)["spec"]
    assert spec["hostPID"] is True
    assert spec["automountServiceAccountToken"] is False
    assert {"hostNetwork", "hostIPC", "serviceAccountName"} & spec.keys() == set()


def test_the_image_tag_is_this_version(built: Built) -> None:
    assert container(built)["image"] == f"kvm-exit-exporter:{__version__}"


TEXT = ["OpenMetricsText1.0.0", "PrometheusText0.0.4"]
"""In these formats, histograms are classic. Every Prometheus stores them."""


def test_monitors_ask_for_text_and_name_the_job_of_the_rules(built: Built) -> None:
    for kind, key in (("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints")):
        if kind in built:
            assert built[kind]["spec"]["scrapeProtocols"] == TEXT
            (endpoint,) = built[kind]["spec"][key]
            *replaced, dropped = endpoint["relabelings"]
            assert {rule["targetLabel"]: rule.get("replacement") for rule in replaced} == {
                "job": "kvm-exit",
                "instance": None,
            }
            assert dropped == {"action": "labeldrop", "regex": "pod"}  # so a rollout starts no new series


def test_a_pod_without_kvm_is_unready_only_on_nodes_that_were_chosen_for_vms() -> None:
    """A rollout waits for every pod to be ready, and the base runs pods on nodes without KVM too."""
    alive = {"startupProbe": "/-/healthy", "livenessProbe": "/-/healthy"}
    for folder in (FOLDER / "base", *OVERLAYS):
        built = build(folder)
        chosen = "nodeSelector" in pod(built)["spec"]
        expected = alive | {"readinessProbe": "/-/ready"} if chosen else alive
        assert {key: probe["httpGet"]["path"] for key, probe in probes(built).items()} == expected, folder
        assert built["Service"]["spec"]["publishNotReadyAddresses"] is True


def test_the_documented_patch_removes_the_readiness_probe(scratch: Path) -> None:
    readme = (ROOT / "deploy/README.md").read_text()
    (patch,) = [block for block in readme.split("```yaml\n") if block.startswith("patches:")]
    (scratch / "kustomization.yaml").write_text("resources: [../overlays/kubevirt]\n" + patch.split("```")[0])
    assert probes(build(scratch)).keys() == {"startupProbe", "livenessProbe"}


def test_overlays_have_the_documented_parts() -> None:
    built = {folder.name: build(folder) for folder in OVERLAYS}
    everywhere = {"Namespace", "ConfigMap", "Service", "DaemonSet"}
    assert {name: set(kinds) - everywhere for name, kinds in built.items()} == {
        "kubevirt": set(),
        "prometheus-operator": {"PodMonitor", "PrometheusRule"},
        "kubevirt-prometheus-operator": {"PodMonitor", "PrometheusRule", "NetworkPolicy"},
    }
    selectors = {name: pod(kinds)["spec"].get("nodeSelector") for name, kinds in built.items()}
    assert selectors == {
        "kubevirt": {"kubevirt.io/schedulable": "true"},
        "prometheus-operator": {"kvm-exit-exporter/node": "true"},
        "kubevirt-prometheus-operator": {"kubevirt.io/schedulable": "true"},
    }


@pytest.mark.parametrize("monitor", ["pod-monitor", "service-monitor"])
def test_only_the_native_component_asks_for_protobuf_and_it_changes_the_rules_too(scratch: Path, monitor: str) -> None:
    folder = FOLDER / "components"
    classic = with_components(scratch, folder / monitor, folder / "prometheus-rule")
    native = with_components(scratch, folder / monitor, folder / "prometheus-rule", NATIVE)
    changed = {kind for kind in classic if classic[kind] != native[kind]}
    (kind,) = changed - {"PrometheusRule"}
    assert native[kind]["spec"].pop("scrapeProtocols") == ["PrometheusProto", *TEXT]
    assert classic[kind]["spec"].pop("scrapeProtocols") == TEXT
    assert native[kind] == classic[kind]
    assert native["PrometheusRule"]["spec"] == {"groups": groups("native")}
    assert classic["PrometheusRule"]["spec"] == {"groups": groups("classic")}


@pytest.mark.parametrize("overlay", ["prometheus-operator", "kubevirt-prometheus-operator"])
def test_an_overlay_with_the_native_component_asks_for_protobuf(scratch: Path, overlay: str) -> None:
    text = f"resources: [../overlays/{overlay}]\ncomponents: [../components/{NATIVE.name}]\n"
    (scratch / "kustomization.yaml").write_text(text)
    assert build(scratch)["PodMonitor"]["spec"]["scrapeProtocols"] == ["PrometheusProto", *TEXT]


def sources(form: str) -> list[Path]:
    return [ROOT / f"deploy/prometheus/{name}.rules.yml" for name in ("recording", f"recording-{form}", "alerts")]


def groups(form: str) -> list[Manifest]:
    return [group for path in sources(form) for group in yaml.safe_load(path.read_text())["groups"]]


@pytest.mark.parametrize("form", RULES)
def test_the_prometheus_rule_equals_the_rules_of_deploy_prometheus(form: str) -> None:
    command = [FOLDER / "prometheus-rule.sh", *sources(form)]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    file = FOLDER / "components" / RULES[form] / "prometheusrule.yaml"
    assert file.read_text() == made, "stale: make prometheus-rule"
    assert yaml.safe_load(made)["spec"] == {"groups": groups(form)}


def test_prometheus_rule_refuses_a_file_that_is_no_rules_file(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text("namespace: x\ngroups:\n  - name: x\n")
    done = subprocess.run(
        [FOLDER / "prometheus-rule.sh", tmp_path / "x.yml"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path}/x.yml: expected groups: as the only top-level key\n"
