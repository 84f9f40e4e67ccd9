"""Bochs, an emulator of Intel's VMX: QEMU's TCG has none.

Debian's packages of Bochs have the debugger and several CPUs built in, which makes them slow. So Bochs is built from
Debian's source, with the two changes of bochs.patch. The result is cached outside the source tree. Its name contains a
hash of all its ingredients.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import apt
from image import HERE, cache_folder

SUITE = apt.Suite("trixie")
"""Debian 13 is the first release with Bochs 3.0."""
PATCH = HERE / "bochs.patch"
# "vmx=2" includes EPT and unrestricted guests. CPU models need the other instruction sets.
CONFIGURE = """
    --with-nogui --enable-x86-64 --enable-cpu-level=6 --enable-vmx=2 --enable-svm --enable-avx --enable-evex
    --enable-cet --enable-uintr --enable-protection-keys --enable-perfmon --enable-memtype --enable-pci
    --enable-monitor-mwait --enable-all-optimizations --enable-trace-linking --disable-smp --disable-docbook
"""
COMPILER = "-O3 -fno-pie"
FIRMWARE = {"bochsbios": "usr/share/bochs/BIOS-bochs-latest", "vgabios": "usr/share/vgabios/vgabios.bin"}


@dataclass(frozen=True)
class Bochs:
    """The emulator and its firmware."""

    folder: Path

    @property
    def program(self) -> Path:
        return self.folder / "bochs"

    @property
    def bios(self) -> Path:
        return self.folder / "bochsbios"

    @property
    def vgabios(self) -> Path:
        return self.folder / "vgabios"


def bochs() -> Bochs:
    """Return Bochs. Build it if the cache has none with the same ingredients, which takes minutes."""
    folder = cache_folder() / f"bochs-{_ingredients()}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="building-", dir=folder.parent) as building:
            _build(Path(building))
            (Path(building) / "result").rename(folder)
    return Bochs(folder)


def _ingredients() -> str:
    ingredients = repr((apt.sources(SUITE), CONFIGURE, COMPILER, FIRMWARE, PATCH.read_text()))
    return hashlib.sha256(ingredients.encode()).hexdigest()[:16]


def _build(building: Path) -> None:
    packages = cache_folder() / "packages-bochs"
    source, result = building / "source", building / "result"
    source.mkdir()
    result.mkdir()
    tar = apt.upstream_source(SUITE, "bochs", packages / "source")
    subprocess.run(["tar", "-C", source, "--strip-components=1", "-xf", tar], check=True)
    subprocess.run(["patch", "--quiet", "-p1", "-i", PATCH], cwd=source, check=True)
    flags = [f"CFLAGS={COMPILER}", f"CXXFLAGS={COMPILER}", "LDFLAGS=-no-pie"]
    _run(["./configure", *CONFIGURE.split(), *flags], source)
    _run(["make", f"-j{os.cpu_count()}", "bochs"], source)
    shutil.copy(source / "bochs", result / "bochs")
    debs = apt.download(SUITE, "amd64", sorted(FIRMWARE), packages / "firmware")
    for package, path in FIRMWARE.items():
        (deb,) = (deb for deb in debs if deb.name.startswith(f"{package}_"))
        subprocess.run(["dpkg-deb", "--extract", deb, building / package], check=True)
        shutil.copy(building / package / path, result / package)


def _run(command: list[str], folder: Path) -> None:
    """Run a command that prints much. Show the end of its output if it fails."""
    run = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if run.returncode:
        end = "\n".join(run.stdout.splitlines()[-20:])
        raise RuntimeError(f"{command[0]} of Bochs ended with {run.returncode}:\n{end}")


if __name__ == "__main__":
    print(bochs().folder)
