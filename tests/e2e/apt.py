"""Download Debian packages of any architecture with a private apt. It does not change this machine's own apt."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

CODENAME = "bookworm"  # the suite whose sources this machine must have


@dataclass(frozen=True)
class Suite:
    """A suite of Debian, with the endings of the other suites that belong to it."""

    name: str
    endings: tuple[str, ...] = ()
    check_valid_until: bool = True


BOOKWORM = Suite(CODENAME, ("-updates", "-security"))


def sources(suite: Suite = BOOKWORM, etc: Path = Path("/etc/apt")) -> dict[str, str]:
    """Return apt sources for a suite, in both of apt's formats: file name -> text.

    They are the machine's own sources for Debian bookworm, with the name of the suite in place of bookworm. Raises
    RuntimeError if the machine has no such source.
    """
    names = {f"{CODENAME}{ending}": f"{suite.name}{ending}" for ending in ("", *suite.endings)}
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    found = {}
    for file in files:
        if not file.is_file() or file.suffix not in (".list", ".sources"):
            continue
        keep = _one_line if file.suffix == ".list" else _deb822
        text = keep(file.read_text(), names)
        if text:
            found[file.name] = text
    if not found:
        raise RuntimeError(f"no {CODENAME} source in {etc}: the machine image needs its packages")
    return found


def _one_line(text: str, names: dict[str, str]) -> str:
    lines = (re.sub(r"arch=[\w,-]+ ?", "", line) for line in text.splitlines() if line.startswith("deb "))
    words = (line.split() for line in lines)
    return "".join(" ".join(names.get(word, word) for word in line) + "\n" for line in words if {*line} & {*names})


def _deb822(text: str, names: dict[str, str]) -> str:
    stanzas = []
    for stanza in re.split(r"\n\s*\n", text):
        # Leave Architectures out: the field names this machine's architecture, not the image's.
        lines = [line for line in stanza.splitlines() if line and not line.startswith(("#", "Architectures:"))]
        fields = dict(line.split(":", 1) for line in lines if re.match(r"[\w-]+:", line))
        suites = [names[name] for name in fields.get("Suites", "").split() if name in names]
        if suites and "deb" in fields.get("Types", "").split():
            lines = [f"Suites: {' '.join(suites)}" if line.startswith("Suites:") else line for line in lines]
            stanzas.append("".join(f"{line}\n" for line in lines))
    return "\n".join(stanzas)


def download(suite: Suite, architecture: str, packages: list[str], root: Path) -> list[Path]:
    """Download packages of a suite and all their dependencies into `root`; return the .deb files."""
    base, env = _private_apt(suite, architecture, sources(suite), root)
    install = [*base, "install", "--yes", "--no-install-recommends"]
    subprocess.run([*base, "update"], env=env, check=True)
    subprocess.run([*install, "--download-only", *packages], env=env, check=True, stdout=subprocess.DEVNULL)
    # The folder may hold older versions from an earlier build: return only the files that this plan names.
    plan = subprocess.run([*install, "--simulate", *packages], env=env, check=True, stdout=subprocess.PIPE, text=True)
    chosen = re.findall(r"^Inst (\S+) \((\S+) .*\[(\S+)\]\)", plan.stdout, re.MULTILINE)
    names = [f"{name}_{version.replace(':', '%3a')}_{arch}.deb" for name, version, arch in chosen]
    return [root / "archives" / name for name in sorted(names)]


def upstream_source(suite: Suite, package: str, root: Path) -> Path:
    """Download the tar of a package's unchanged source into `root`; return it."""
    texts = {name: of_sources(text) for name, text in sources(suite).items()}
    base, env = _private_apt(suite, "amd64", texts, root)
    subprocess.run([*base, "update"], env=env, check=True)
    # Only the tar is downloaded: not every mirror has the .dsc, without which `apt-get source` fails.
    command = [*base, "source", "--print-uris", "--only-source", package]
    uris = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    uri, name, digest = upstream_tar(uris)
    helper = ["/usr/lib/apt/apt-helper", "-qq", "-oAPT::Sandbox::User=root", "download-file"]
    subprocess.run([*helper, uri, root / name, digest], env=env, check=True)
    return root / name


def of_sources(text: str) -> str:
    """Return apt sources of source packages for apt sources of binary packages."""
    return re.sub(r"(?m)^(deb(?= )|Types: .*)", lambda match: "Types: deb-src" if ":" in match[0] else "deb-src", text)


def upstream_tar(uris: str) -> tuple[str, str, str]:
    """Return address, file name and digest of the upstream tar, from apt's list of a source package's files."""
    tar = re.search(r"^'(\S+)' (\S+\.orig\.tar\.\S+) \d+ (SHA256:\w+)$", uris, re.MULTILINE)
    if not tar:
        raise RuntimeError(f"no .orig.tar is among the files of the source package: {uris}")
    return tar[1], tar[2], tar[3]


def _private_apt(
    suite: Suite, architecture: str, texts: dict[str, str], root: Path
) -> tuple[list[str], dict[str, str]]:
    """Write sources into `root`; return the command and the environment of an apt-get that uses only them."""
    parts = root / "sources.list.d"
    for folder in (parts, root / "lists/partial", root / "archives/partial"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (parts / name).write_text(text)
    (root / "status").write_text("")  # no package counts as installed, so every dependency is downloaded
    conf = root / "apt.conf"
    conf.write_text(f'APT::Architecture "{architecture}";\nAPT::Architectures {{ "{architecture}"; }};\n')
    # Set on the command line: apt reads the machine's apt.conf.d (for example its proxy) after APT_CONFIG.
    options = {
        "Dir::State": root,
        "Dir::State::lists": root / "lists",
        "Dir::State::status": root / "status",
        "Dir::State::extended_states": root / "extended_states",
        "Dir::Cache": root,
        "Dir::Cache::archives": root / "archives",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": parts,
        "Acquire::Check-Valid-Until": str(suite.check_valid_until).lower(),
        "Acquire::Languages": "none",
        "Acquire::Retries": 3,
        "APT::Sandbox::User": "root",
        "APT::Keep-Downloaded-Packages": "true",
    }
    base = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
    return base, {**os.environ, "APT_CONFIG": str(conf), "LC_ALL": "C"}
