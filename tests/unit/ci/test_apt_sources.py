"""The apt sources of an emulated host: the machine's own, with another suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.apt import BOOKWORM, Suite, of_sources, sources, upstream_tar

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SECURITY, SECURITY.replace("Types: deb deb-src", "Types: deb-src")),
        (FIRST, FIRST.replace("Types: deb", "Types: deb-src")),
        ("deb [trusted=yes] http://a.example trixie main\n", "deb-src [trusted=yes] http://a.example trixie main\n"),
    ],
)
def test_sources_of_source_packages(text: str, expected: str) -> None:
    assert of_sources(text) == expected


def test_the_upstream_tar_is_chosen_among_the_files_of_a_source_package() -> None:
    uris = """\
'http://mirror.example/pool/b/bochs_3.0%2bdfsg-1.dsc' bochs_3.0+dfsg-1.dsc 2554 SHA256:6a4e
'http://mirror.example/pool/b/bochs_3.0%2bdfsg.orig.tar.xz' bochs_3.0+dfsg.orig.tar.xz 3896488 SHA256:78f6
'http://mirror.example/pool/b/bochs_3.0%2bdfsg-1.debian.tar.xz' bochs_3.0+dfsg-1.debian.tar.xz 30720 SHA256:c68f
"""
    assert upstream_tar(uris) == (
        "http://mirror.example/pool/b/bochs_3.0%2bdfsg.orig.tar.xz",
        "bochs_3.0+dfsg.orig.tar.xz",
        "SHA256:78f6",
    )
    with pytest.raises(RuntimeError, match=r"no \.orig\.tar is among the files"):
        upstream_tar("")
