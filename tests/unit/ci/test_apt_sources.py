"""The apt sources of an emulated host: the machine's own, with another suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.apt import BOOKWORM, Suite, sources

DEB822 = """\
# the first mirror
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://mirror.example/other
Suites: stable
Components: main
"""
FIRST = """\
Types: deb
URIs: http://mirror.example/debian
Suites: {}
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
SECURITY = """\
Types: deb deb-src
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 trusted=yes] http://mirror.example/debian bookworm main
deb http://mirror.example/debian-security bookworm-security main
deb http://mirror.example/other stable main
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        (BOOKWORM, FIRST.format("bookworm bookworm-updates") + "\n" + SECURITY),
        (Suite("bullseye"), FIRST.format("bullseye")),
        (Suite("trixie", ("-updates",)), FIRST.format("trixie trixie-updates")),
    ],
)
def test_stanzas(etc: Path, suite: Suite, expected: str) -> None:
    (etc / "sources.list.d/debian.sources").write_text(DEB822)
    assert sources(suite, etc) == {"debian.sources": expected}


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        (
            BOOKWORM,
            "deb [trusted=yes] http://mirror.example/debian bookworm main\n"
            "deb http://mirror.example/debian-security bookworm-security main\n",
        ),
        (Suite("sid", check_valid_until=False), "deb [trusted=yes] http://mirror.example/debian sid main\n"),
    ],
)
def test_lines(etc: Path, suite: Suite, expected: str) -> None:
    (etc / "sources.list").write_text(ONE_LINE)
    assert sources(suite, etc) == {"sources.list": expected}


def test_a_machine_without_debian(etc: Path) -> None:
    (etc / "sources.list").write_text("deb http://mirror.example/debian stable main\n")
    with pytest.raises(RuntimeError, match="no bookworm source in"):
        sources(BOOKWORM, etc)
