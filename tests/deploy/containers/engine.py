"""A container engine for the tests: podman and runc, with a store that is removed after the tests.

The tests use no registry. They make the base image from Debian packages of this machine's own apt sources, and give it
the name in the Dockerfile. Its tree is cached in ${XDG_CACHE_HOME:-~/.cache}/kvm-exit-exporter.
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
# mmdebstrap options for a file system like that of the image debian:*-slim. Its /usr is merged. It lacks the perl
# package that merges older systems.
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
    """podman without this machine's own configuration and images."""

    def __init__(self, state: Path) -> None:
        missing = [tool for tool in _TOOLS if not shutil.which(tool)]
        if missing:
            raise RuntimeError(f"without {', '.join(missing)}: `make containers-test` installs them")
        # Without overlayfs, vfs makes a plain copy of every layer.
        driver = "overlay" if "\toverlay\n" in Path("/proc/filesystems").read_text() else "vfs"
        self._podman = ["podman", "--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=none",
                        f"--root={state / 'store'}", f"--runroot={state / 'run'}",
                        f"--storage-driver={driver}"]  # fmt: skip

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run podman with these arguments. With `check`, a failure raises AssertionError with podman's output."""
        command = [*self._podman, *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise AssertionError(f"podman {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `podman run` without a network, and with limits that need no CAP_SYS_RESOURCE."""
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        # By default podman mounts tmpfs on more folders than Docker does.
        return self("run", *limits, "--network=none", "--read-only-tmpfs=false", *arguments, check=check)

    def base(self, suite: str) -> None:
        """Make the image docker.io/library/debian:SUITE-slim."""
        self("import", str(_base(suite)), f"docker.io/library/debian:{suite}-slim")

    def build(self, suite: str, tag: str, **args: str) -> None:
        """Build the Dockerfile on the suite's base image, with this machine's apt configuration."""
        build_args = [f"--build-arg={name}={value}" for name, value in {"DEBIAN": f"{suite}-slim", **args}.items()]
        self("build", "--isolation=chroot", "--format=docker", "--pull=never",
             "--volume=/etc/apt/apt.conf.d:/etc/apt/apt.conf.d:ro", *build_args, f"--tag={tag}", str(ROOT),
             timeout=900)  # fmt: skip

    def inspect(self, kind: str, name: str) -> Any:
        """Return the output of `podman inspect` for an image or a container."""
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
    """Write this machine's Debian sources, changed to another suite, into `folder`; return the files."""
    files = []
    for name, text in apt.sources().items():
        files.append(folder / name)
        files[-1].write_text(re.sub(rf"\b{apt.CODENAME}\b", suite, text))
    return files


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Poll until the condition returns a true value; return that value."""
    end = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.1)
