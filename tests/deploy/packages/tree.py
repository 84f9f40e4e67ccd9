"""A fresh Debian for the installation of packages: a chroot whose changes are discarded."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.deploy.packages.deb import NAME
from tests.e2e import apt

CLONE_NEWNS = 0x00020000  # include/uapi/linux/sched.h
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvm-exit-exporter" / "packages"
PACKAGES = (
    *("bash-completion", "man-db", "procps", "systemd"),
    *("python3-bpfcc", "python3-prometheus-client", "python3-tornado", "python3-yaml"),
)
# Folders in which the programs and maintainer scripts of every package leave files.
NOISE = ("var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "tmp", "run/systemd", "proc", "sys", "dev")


def base(suite: apt.Suite) -> Path:
    """Return the tree of a suite that mmdebstrap makes. It is cached."""
    tree = CACHE / suite.name
    if not (tree / ".complete").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["rm", "-rf", tree], check=True)
        texts = apt.sources(suite)
        lines = "\n".join(text for name, text in texts.items() if name.endswith(".list"))
        stanzas = [text for name, text in texts.items() if name.endswith(".sources")]
        options = ["--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}"]
        if not suite.check_valid_until:
            options.append('--aptopt=Acquire::Check-Valid-Until "false"')
        command: list[str | Path] = ["mmdebstrap", *options, suite.name, tree, "-"]
        subprocess.run(command, input="\n\n".join([lines, *stanzas]), text=True, check=True)
        (tree / ".complete").touch()
    return tree


def own_mounts() -> None:
    """Give this process its own mount namespace, so that its mounts end with it. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


class Tree:
    """A temporary layer over base(). No package may start a service in this layer."""

    def __init__(self, folder: Path, suite: apt.Suite = apt.BOOKWORM) -> None:
        # The layer is on a tmpfs, because overlayfs cannot have its upper layer on another overlayfs.
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
        self.root = folder / "root"
        for name in ("root", "upper", "work"):
            (folder / name).mkdir()
        layers = f"lowerdir={base(suite)},upperdir={folder}/upper,workdir={folder}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True)
        subprocess.run(["mount", "-t", "proc", "proc", self.root / "proc"], check=True)
        for name in ("sys", "dev"):
            subprocess.run(["mount", "--rbind", f"/{name}", self.root / name], check=True)
        tracing = self.root / "sys/kernel/tracing"
        if not (tracing / "events").exists():
            subprocess.run(["mount", "-t", "tracefs", "nodev", tracing], check=True)
        policy = self.root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)

    def command(self, *words: str | Path) -> list[str]:
        """Return the command that this machine must run, so that `command` runs in the tree."""
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
        return [*clean, "chroot", str(self.root), *map(str, words)]

    def run(self, *words: str | Path, status: int = 0) -> str:
        """Run a command in the tree, and return what it writes to either stream."""
        said = subprocess.run(
            self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
        )
        assert said.returncode == status, said.stdout
        return said.stdout

    def apt(self, action: str, *packages: str | Path) -> str:
        """Run an action of apt-get that needs no network."""
        keep = ("-o", "Dpkg::Options::=--force-confold", "--no-install-recommends")
        return self.run("apt-get", "-y", "-q", *keep, action, *packages)

    def files(self) -> set[str]:
        """Return every path, except in the folders that always change."""
        found = set()
        for folder, names, files in os.walk(self.root):
            inside = Path(folder).relative_to(self.root)
            names[:] = [name for name in names if str(inside / name) not in NOISE]
            found |= {str(inside / name) for name in (*names, *files)}
        return found


@contextlib.contextmanager
def running(debian: Tree, command: str, vms: int) -> Iterator[str]:
    """Run `demo` or `serve` of the installed program in the tree. Yield its URL when its page has that many VMs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    words = debian.command(NAME, command, f"--web.listen-address={url[7:]}")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    if urllib.request.urlopen(f"{url}/metrics", timeout=10).read().count(b"\nkvm_vm_info{") == vms:
                        break
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()
            assert process.wait(60) == 0, process.stderr.read() if process.stderr else ""
