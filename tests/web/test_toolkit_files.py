"""Configurations are taken or refused as exporter-toolkit does. docs/web.md lists the exceptions."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from exporter.config.options import ConfigError
from exporter.web.toolkit import Settings, WebConfigFile
from tests.support.paths import ROOT
from tests.support.prometheus.builds import UnavailableError, find
from tests.web.toolkit_files import CURVES_PROBLEM, FILES, File
from tests.web.toolkit_values import ROWS, Row

GROUPS = hasattr(ssl.SSLContext, "set_groups")
"""True from Python 3.15 on, where several curves can be chosen."""


@pytest.fixture
def folder(tmp_path: Path, pki: Path) -> Path:
    for name in ("server.crt", "server.key", "ca.crt"):
        shutil.copy(pki / name, tmp_path / name)
    (tmp_path / "12").write_text((pki / "server.crt").read_text() + (pki / "server.key").read_text())
    return tmp_path


def write(folder: Path, name: str, text: str) -> Path:
    for pem in ("server.crt", "server.key"):
        text = text.replace(f"{{{pem}}}", json.dumps((folder / pem).read_text()))
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_of_the_toolkit_is_taken_or_refused_here(folder: Path, file: File) -> None:
    problems: list[str] = []
    try:
        settings = WebConfigFile(write(folder, file.name, file.text)).settings()
    except ConfigError as error:
        problems = [problem.split(": ", 2)[2] for problem in error.problems]
    else:
        assert (settings.tls is not None) == ("tls_server_config" in file.text)
    expected = "" if GROUPS and file.problem == CURVES_PROBLEM else file.problem
    assert "\n".join(problems) == expected


def view(settings: Settings, kind: str) -> object:
    if kind == "rate_limit":
        limit = settings.rate_limit
        return limit and (limit._interval, limit._burst)
    return settings.tls is not None if kind == "tls" else getattr(settings, kind)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: json.dumps(row.text))
def test_a_value_is_taken_or_refused_here(folder: Path, row: Row) -> None:
    path = write(folder, "web.yml", row.text)
    if not row.taken:
        with pytest.raises(ConfigError):
            WebConfigFile(path).settings()
        return
    settings = WebConfigFile(path).settings()
    if isinstance(row.seen, tuple):
        kind, value = row.seen
        assert view(settings, kind) == value


def test_the_toolkit_in_promtool_takes_or_refuses_the_same(folder: Path) -> None:
    """The older toolkits in promtool 2.42 and 2.53 lack some of the keys."""
    build = find("sid")
    if isinstance(build, UnavailableError):
        pytest.skip(str(build))  # the package cannot be had without a network
    there = {file.name: file.there for file in FILES}
    for file in FILES:
        write(folder, file.name, file.text)
    for number, row in enumerate(ROWS):
        there[f"row{number}.yml"] = row.there
        write(folder, f"row{number}.yml", row.text)
    done = subprocess.run(
        [build.promtool, "check", "web-config", *there], cwd=folder, capture_output=True, text=True, check=False
    )
    taken = {line.split()[0] for line in done.stderr.splitlines() if line.endswith(" SUCCESS")}
    assert {name: name in taken for name in there} == there


def test_the_documentation_lists_each_file_that_is_refused_here_and_taken_there() -> None:
    text = (ROOT / "docs/web.md").read_text()
    table = text.split("Of the 41 configurations in the toolkit's own tests,")[1].split("\n\n")[1]
    listed = [file.name for file in FILES if f"`{file.name}`" in table]
    assert listed == [file.name for file in FILES if file.there is not (file.problem == "")]
    assert table.count(".y") == len(listed)


def test_there_are_41_files() -> None:
    assert (len(FILES), len({file.name for file in FILES})) == (41, 41)
