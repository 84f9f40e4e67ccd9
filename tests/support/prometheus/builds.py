"""Find the Prometheus of each Debian release. It is the installed one, or a package unpacked into a cache folder."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUITES = ("bookworm", "trixie", "sid")
WITHOUT_NATIVE = ("bullseye",)
"""Suites whose Prometheus has no native histograms. Only the tests of the shipped scrape configurations run it."""

_ARCHIVE = {*SUITES, *WITHOUT_NATIVE, "stable", "testing", "unstable"}
"""Suite names of Debian's archive. They distinguish this archive from other apt sources."""

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class UnavailableError(Exception):
    """This Prometheus is not available on this machine. The message is one line with the cause."""


@dataclass(frozen=True)
class Build:
    """The Prometheus binary and the promtool of one package."""

    binary: Path
    promtool: Path
    text: str
    """The version, as printed by the binary."""

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.text.split(".")[:2]
        return int(major), int(minor)


@functools.cache
def find(suite: str) -> Build | UnavailableError:
    """Return the Prometheus of a suite, or the error.

    Search only once, because a failed download would fail again.
    """
    try:
        if _codename() == suite and (installed := shutil.which("prometheus")):
            return _build(Path(installed))
        cache = _cache("prometheus")
        link = cache / suite
        if not (link / "promtool").exists():
            _fetch(suite, cache, link)
        return _build(link / "prometheus")
    except UnavailableError as error:
        return UnavailableError(f"Prometheus of {suite}: {error}")


def cached(suite: str) -> Build | None:
    """Return the Prometheus of a suite if it was downloaded before; None otherwise."""
    found = find(suite) if (_cache("prometheus") / suite / "promtool").exists() else None
    return found if isinstance(found, Build) else None


@functools.cache
def find_alertmanager() -> Path | UnavailableError:
    """Return the unpacked package prometheus-alertmanager of the oldest Debian release, or the error."""
    folder = _cache("alertmanager") / SUITES[0]
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as name:
                new = Path(name)
                _download(SUITES[0], new, "prometheus-alertmanager")
                (package,) = new.glob("*.deb")
                _run("dpkg-deb", "--extract", str(package), str(new / "tree"))
                with contextlib.suppress(OSError):  # another run has made the folder meanwhile
                    (new / "tree").rename(folder)
        _run(str(folder / "usr/bin/amtool"), "--version")
    except UnavailableError as error:
        return UnavailableError(f"Alertmanager of {SUITES[0]}: {error}")
    return folder


def _cache(name: str) -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvm-exit-exporter" / name


def _codename() -> str:
    release = Path("/etc/os-release")
    match = re.search(r"^VERSION_CODENAME=(\S+)", release.read_text() if release.exists() else "", re.MULTILINE)
    return match[1] if match else ""


def _build(binary: Path) -> Build:
    said = _run(str(binary), "--version")
    match = re.search(r"prometheus, version (\d+\.\d+\.[\w.+~-]+)", said)
    if not match:
        raise UnavailableError(f"{binary} does not print its version")
    return Build(binary, binary.with_name("promtool"), match[1])


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        environment = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        raise UnavailableError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UnavailableError(f"{Path(command[0]).name}: {last}")
    return done.stdout + done.stderr


def _fetch(suite: str, cache: Path, link: Path) -> None:
    """Download and unpack the packages into a folder `<version>`, and make the link `<suite>` to it."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=cache) as name:
        new = Path(name)
        _download(suite, new, "prometheus", "promtool")
        (package,) = new.glob("prometheus_*.deb")
        version = _run("dpkg-deb", "--field", str(package), "Version").strip()
        for each in new.glob("*.deb"):
            _run("dpkg-deb", "--extract", str(each), str(new / "tree"))
        unpacked = new / "unpacked"
        unpacked.mkdir()
        for binary in ("prometheus", "promtool"):
            (new / "tree/usr/bin" / binary).rename(unpacked / binary)
        _build(unpacked / "prometheus")  # check that it runs here, because the Go binary needs a new enough C library
        folder = cache / version.replace(":", "_")
        try:
            unpacked.rename(folder)
        except OSError:
            if not (folder / "prometheus").exists():  # another run has made the folder meanwhile
                raise
            # a folder from an older version of this code has only the server
            (unpacked / "promtool").replace(folder / "promtool")
        (new / "link").symlink_to(folder.name)
        (new / "link").replace(link)


def _download(suite: str, new: Path, *packages: str) -> None:
    """Download those packages that the suite has from this machine's mirror. apt uses a separate state folder.

    promtool is a package of its own since Debian 13.
    """
    for folder in (new / "lists/partial", new / "archives/partial"):
        folder.mkdir(parents=True)
    (new / "status").write_text("")
    signed = f" [signed-by={_KEYRING}]" if _KEYRING.exists() else ""
    (new / "sources.list").write_text(f"deb{signed} {_mirror(Path('/etc/apt'))} {suite} main\n")
    options = {
        "Dir::State": new,
        "Dir::State::lists": new / "lists",
        "Dir::State::status": new / "status",
        "Dir::Cache": new,
        "Dir::Cache::archives": new / "archives",
        "Dir::Etc::sourcelist": new / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",  # the mirror may be an old snapshot
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",  # otherwise apt only warns of a failed list
    }
    settings = [f"-o{key}={value}" for key, value in options.items()]
    _run("apt-get", "-qq", *settings, "update")
    known = set(_run("apt-cache", *settings, "pkgnames").split())
    _run("apt-get", "-qq", *settings, "download", *known.intersection(packages), cwd=new)


def _mirror(etc: Path) -> str:
    """Return the URI of this machine's Debian source. Raises UnavailableError."""
    for uri, suites in _sources(etc):
        if suites & (_ARCHIVE | {_codename()}):
            return uri
    raise UnavailableError(f"no source of Debian in {etc}")


def _sources(etc: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield the URI and the suites of every apt source. Sources are read in both of apt's formats."""
    for file in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        if file.suffix == ".list" and file.is_file():
            for line in file.read_text().splitlines():
                match = re.match(r"deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+(\S+)", line)
                if match:
                    yield match[1], {match[2]}
        elif file.suffix == ".sources" and file.is_file():
            text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE)
            for stanza in re.split(r"\n\s*\n", text):
                fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
                if "deb" in fields.get("Types", "").split() and fields.get("URIs"):
                    yield fields["URIs"].split()[0], set(fields.get("Suites", "").split())
