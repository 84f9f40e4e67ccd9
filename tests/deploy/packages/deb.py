"""Build the Debian package, and list its files."""

from __future__ import annotations

import subprocess
from pathlib import Path

NAME, NEXT = "kvm-exit-exporter", "999.1.0"


def build(checkout: Path, folder: Path) -> Path:
    said = subprocess.run([checkout / "deploy/debian/build", folder], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return Path(said.stdout.strip())


def contents(package: Path) -> list[str]:
    listing = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True).stdout
    return [line.split(maxsplit=5)[5][1:] for line in listing.splitlines()]
