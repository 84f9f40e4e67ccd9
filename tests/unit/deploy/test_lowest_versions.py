"""The lowest versions of the dependencies are those of Debian 11, where the tests run. Each package states the same."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

LOWEST = {"prometheus": "0.9", "tornado": "6.1", "yaml": "5.3.1"}
WITH_BCC = {**LOWEST, "bcc": "0.18"}
VERSION = r"\(?>= *([\d.]+)"


@pytest.mark.parametrize(
    ("file", "name", "lowest"),
    [
        ("deploy/debian/control", r"python3-(?:bpf)?(bcc|cc|prometheus|tornado|yaml)(?:-client)? ", WITH_BCC),
        ("deploy/rpm/kvm-exit-exporter.spec", r"python3-(?:bpf)?(?:py)?(bcc|cc|prometheus|tornado|yaml)\w* ", WITH_BCC),
        ("pyproject.toml", r'"(?:Py)?(prometheus|YAML|tornado)(?:_client)?', LOWEST),
    ],
)
def test_the_packages_state_the_lowest_versions_that_are_run(file: str, name: str, lowest: dict[str, str]) -> None:
    found = re.findall(name + VERSION, (ROOT / file).read_text())
    assert {("bcc" if key == "cc" else key.lower()): version for key, version in found} == lowest


def test_pyproject_states_the_lowest_python() -> None:
    assert 'requires-python = ">=3.9"' in (ROOT / "pyproject.toml").read_text()
