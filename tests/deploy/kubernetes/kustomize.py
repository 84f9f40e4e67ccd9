"""Build the manifests with `kubectl kustomize`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.support.paths import ROOT

FOLDER = ROOT / "deploy/kubernetes"
OVERLAYS = sorted(path.parent for path in FOLDER.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent for path in FOLDER.glob("components/*/kustomization.yaml"))

Manifest = dict[str, Any]


def build(folder: Path) -> dict[str, Manifest]:
    """Return the manifests of a kustomization by kind. No overlay here has two manifests of one kind."""
    kubectl = Path(sys.executable).parent / "kubectl"
    done = subprocess.run([kubectl, "kustomize", folder], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    manifests = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    by_kind = {manifest["kind"]: manifest for manifest in manifests}
    assert len(by_kind) == len(manifests)
    return by_kind


def with_components(folder: Path, *components: Path) -> dict[str, Manifest]:
    """Build the base with these components. Writes a kustomization to `folder`, which must lie in deploy/kubernetes."""
    lines = [
        "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
        "resources: [../base]",
        "components:",
    ]
    lines += [f"  - ../components/{component.name}" for component in components]
    (folder / "kustomization.yaml").write_text("\n".join(lines) + "\n")
    return build(folder)
