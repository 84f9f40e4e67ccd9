"""Check every manifest against the API's own schemas. Unknown keys are errors."""

from __future__ import annotations

import json

import kubernetes_validate
import pytest
from cloudcoil.models.prometheus_operator import v1 as operator

from tests.deploy.kubernetes.kustomize import Manifest

OLDEST, NEWEST = "1.28", "1.36"
"""The base relies on the seccomp profile of containerd 1.7, which is as old as Kubernetes 1.27."""


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_manifests_follow_the_schemas_of_kubernetes(built: dict[str, Manifest], version: str) -> None:
    checked = 0
    for manifest in built.values():
        if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
            continue
        kubernetes_validate.validate(manifest, version, strict=True)
        checked += 1
    assert checked >= 4


def test_manifests_follow_the_schemas_of_the_prometheus_operator(built: dict[str, Manifest]) -> None:
    for kind, manifest in built.items():
        if manifest["apiVersion"] != "monitoring.coreos.com/v1":
            continue
        model = getattr(operator, kind).model_validate(manifest)
        # The model drops an unknown key. Then the two manifests differ.
        assert json.loads(model.model_dump_json(by_alias=True, exclude_unset=True)) == manifest


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor", "PrometheusRule"])
def test_the_operators_schema_detects_a_misspelt_key(kind: str) -> None:
    manifest = {"apiVersion": "monitoring.coreos.com/v1", "kind": kind, "spec": {"groupz": []}}
    try:
        model = getattr(operator, kind).model_validate(manifest)
    except ValueError:
        return
    assert json.loads(model.model_dump_json(by_alias=True, exclude_unset=True)) != manifest
