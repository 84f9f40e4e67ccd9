"""A container engine for the tests: podman and runc, with a store of their own that goes with the tests.

No registry is asked for anything: the base image is made of Debian's packages, by this machine's own apt sources, and
given the name that the Dockerfile asks for. Its tree is cached in ${XDG_CACHE_HOME:-~/.cache}/kvm-exit-exporter.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e import apt
from tests.support.paths import ROOT

SECCOMP = Path("/usr/share/containers/seccomp.json")

_TOOLS = ("podman", "runc", "mmdebstrap")
# What debian:*-slim leaves out, and that /usr is merged without the perl that does it on older systems.
_SLIM = [
    "--variant=minbase",
    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
    "--include=usr-is-merged,usrmerge-",
    *(f"--dpkgopt=path-exclude=/usr/share/{path}/*" for path in ("doc", "man", "locale", "info", "lintian")),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    '--aptopt=Acquire::Check-Valid-Until "false"',
    '--customize-hook=rm -rf "$1"/var/lib/apt/lists/*',
]


class Engine:
    """podman, as the tests want it: nothing of the machine's own configuration or images takes part."""

    def __init__(self, state: Path) -> None:
        missing = [tool for tool in _TOOLS if not shutil.which(tool)]
        if missing:
            raise RuntimeError(f"without {', '.join(missing)}: `make containers-test` installs them")
        # A plain copy of every layer where there is no overlayfs.
        driver = "overlay" if "\toverlay\n" in Path("/proc/filesystems").read_text() else "vfs"
        self._podman = ["podman", "--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=none",
                        f"--root={state / 'store'}", f"--runroot={state / 'run'}",
                        f"--storage-driver={driver}"]  # fmt: skip

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run podman with these arguments; with `check`, a failure shows what it said."""
        command = [*self._podman, *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise AssertionError(f"podman {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`podman run` with limits that a machine without CAP_SYS_RESOURCE can set, and without a network."""
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        # podman mounts tmpfs on more than Docker does.
        return self("run", *limits, "--network=none", "--read-only-tmpfs=false", *arguments, check=check)

    def base(self, suite: str) -> None:
        """Have docker.io/library/debian:SUITE-slim."""
        self("import", str(_base(suite)), f"docker.io/library/debian:{suite}-slim")

    def build(self, suite: str, tag: str, **args: str) -> None:
        """Build the Dockerfile on the suite's base. apt goes the way it goes on this machine."""
        build_args = [f"--build-arg={name}={value}" for name, value in {"DEBIAN": f"{suite}-slim", **args}.items()]
        self("build", "--isolation=chroot", "--format=docker", "--pull=never",
             "--volume=/etc/apt/apt.conf.d:/etc/apt/apt.conf.d:ro", *build_args, f"--tag={tag}", str(ROOT),
             timeout=900)  # fmt: skip

    def inspect(self, kind: str, name: str) -> Any:
        """What `podman inspect` says of an image or a container."""
        return json.loads(self("inspect", f"--type={kind}", name).stdout)[0]


def _base(suite: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvm-exit-exporter/containers"
    tar = cache / f"{suite}.tar"
    if not tar.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            unfinished = Path(scratch) / tar.name
            sources = _sources(suite, Path(scratch))
            subprocess.run(["mmdebstrap", "--quiet", *_SLIM, suite, unfinished, *sources], check=True, timeout=900)
            unfinished.rename(tar)
    return tar


def _sources(suite: str, folder: Path) -> list[Path]:
    """This machine's own Debian sources, turned to another suite."""
    files = []
    for name, text in apt.sources().items():
        files.append(folder / name)
        files[-1].write_text(re.sub(rf"\b{apt.CODENAME}\b", suite, text))
    return files


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Poll until the condition holds, and return what it returned."""
    end = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.1)
