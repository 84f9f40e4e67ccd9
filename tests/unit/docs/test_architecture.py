"""docs/architecture.md: its picture matches the contract of import-linter, and every file that it names exists."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()


def _layers(text: str) -> list[list[str]]:
    return [re.split(r"\s*\|\s*", layer) for layer in re.findall(r'"([^"]+)"', text)]


def _contract() -> list[list[str]]:
    """Return the layers in pyproject.toml.

    The test parses them itself, because the oldest supported Python has no tomllib.
    """
    contract = (ROOT / "pyproject.toml").read_text().split('type = "layers"')[1]
    assert "exhaustive = true" in contract
    return _layers(contract.split("layers = [")[1].split("]")[0])


def _picture() -> list[list[str]]:
    lines = PAGE.split("## The rooms\n")[1].split("\nTwo more contracts")[0].splitlines()
    rows = [line.strip() for line in lines if line.startswith("    ")]
    return [re.split(r"\s*\|\s*", re.split(r"\s{2,}", row)[0]) for row in rows]


def test_the_picture_matches_the_contract() -> None:
    assert _picture() == _contract()


def test_the_package_contains_only_rooms() -> None:
    found = {path.name for path in (ROOT / "exporter").iterdir() if path.name != "__pycache__"}
    assert found == {room for layer in _contract() for room in layer} | {"__init__.py", "__main__.py"}


def test_every_file_that_the_page_names_exists() -> None:
    rooms = "|".join(room for layer in _contract() for room in layer)
    named = set(re.findall(rf"(?<![\w/])((?:{rooms})/[a-z0-9_/]+(?:\.py)?)", PAGE))
    assert {name for name in named if not (ROOT / "exporter" / name).exists()} == set()
    assert len(named) == len({*named, "collect/maps.py", "service/lifecycle.py", "web/heartbeat.py"})
