"""The machine image: Debian packages of a host unpacked into an ext4 disk, with kernel and initrd.

The build runs no program of the foreign architecture. The image is cached outside the source tree. Its name contains a
hash of all its ingredients.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import apt
from hosts import HOSTS, Host

HERE = Path(__file__).resolve().parent
# Modules that the initrd loads before it can mount the root disk. Modules that are built into the kernel are skipped.
INITRD_MODULES = ["virtio_pci", "virtio_blk", "virtio_console", "ata_piix", "sd_mod", "crc32c_generic", "ext4"]
# Large folders that no test needs.
LEFT_OUT = ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/iso-codes"]
SPARE_MIB = 512
CYLINDER = 16 * 63 * 512  # bytes


@dataclass(frozen=True)
class Image:
    """The three files that a machine boots from."""

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def disk(self) -> Path:
        return self.folder / "root.img"


def cache_folder() -> Path:
    """Return the folder that keeps images and packages between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvm-exit-exporter"


def image(host: Host) -> Image:
    """Return the image of a host. Build it if the cache has none with the same ingredients."""
    folder = cache_folder() / f"machine-{host.name}-{_ingredients(host)}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="building-", dir=folder.parent) as building:
            _build(host, Path(building))
            try:
                (Path(building) / "image").rename(folder)
            except OSError:
                if not folder.is_dir():  # if the image exists, another run has already built the same image
                    raise
    return Image(folder)


def _ingredients(host: Host) -> str:
    digest = hashlib.sha256(repr((host, host.packages, apt.sources(host.suite))).encode())
    for file in [HERE / "image.py", HERE / "apt.py", *sorted((HERE / "boot").iterdir())]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _build(host: Host, building: Path) -> None:
    debs = apt.download(host.suite, host.architecture, host.packages, cache_folder() / f"packages-{host.name}")
    tree, result = building / "tree", building / "image"
    result.mkdir()
    _unpack(debs, tree)
    _register(debs, tree)
    release = next((tree / "usr/lib/modules").iterdir()).name
    if not release.startswith(f"{host.linux}."):
        raise RuntimeError(f"{host.name} must have Linux {host.linux}, and {host.suite.name} has {release}")
    subprocess.run(["depmod", "-b", tree, release], check=True)
    modules = tree / "usr/lib/modules" / release
    if (modules / "vmlinuz").exists():  # Linux 7 of Debian has its kernel there, and copies it when it is installed
        shutil.copy(modules / "vmlinuz", tree / f"boot/vmlinuz-{release}")
    (kernel,) = (tree / "boot").glob(f"vmlinu[xz]-{release}")  # riscv64 has a vmlinux, all others a vmlinuz
    shutil.copy(kernel, result / "vmlinuz")
    busybox = tree / "bin/busybox"
    (result / "initrd").write_bytes(_initrd(building / "initrd", busybox, HERE / "boot/initrd-init", modules))
    guest = _initrd(building / "guest", busybox, HERE / "boot/guest-init", None)
    (tree / "boot/guest-initrd").write_bytes(guest)
    (tree / "boot/vmlinuz").symlink_to(kernel.name)
    _configure(tree)
    _compile_python(host, tree, building)
    _make_disk(tree, result / "root.img")


def _unpack(debs: list[Path], tree: Path) -> None:
    for folder in ("bin", "sbin", "lib", "lib64"):
        (tree / "usr" / folder).mkdir(parents=True)
        (tree / folder).symlink_to(f"usr/{folder}")
    excludes = [f"--exclude=./{path}/*" for path in LEFT_OUT]

    def unpack(deb: Path) -> None:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as content:
            tar = ["tar", "-C", str(tree), "-xp", "--keep-directory-symlink", *excludes]
            subprocess.run(tar, stdin=content.stdout, check=True)
        if content.returncode:
            raise RuntimeError(f"{deb.name}: dpkg-deb ended with {content.returncode}")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(unpack, debs))


def _register(debs: list[Path], tree: Path) -> None:
    """Write the unpacked packages to the machine's dpkg database, so that dependencies of a new package are met."""
    database = tree / "var/lib/dpkg"
    (database / "info").mkdir(parents=True, exist_ok=True)
    (database / "info/format").write_text("1\n")  # format 1: names of lists contain the architecture
    stanzas = []
    for deb in debs:
        control = subprocess.run(["dpkg-deb", "--field", deb], stdout=subprocess.PIPE, check=True, text=True).stdout
        stanzas.append(f"{control.strip()}\nStatus: install ok installed\n")
        fields = dict(re.findall(r"^([\w-]+): (.*)$", control, re.MULTILINE))
        architecture = f":{fields['Architecture']}" if fields.get("Multi-Arch") == "same" else ""
        (database / f"info/{fields['Package']}{architecture}.list").touch()
    (database / "status").write_text("\n".join(stanzas))


def _configure(tree: Path) -> None:
    """Do the work of the maintainer scripts that the tests need: accounts, folders, init scripts."""
    accounts = [("root", 0, "/root", "/bin/bash"), ("nobody", 65534, "/nonexistent", "/usr/sbin/nologin")]
    # The exporter's package creates this user, and the default configuration runs as it.
    accounts.append(("kvm-exit-exporter", 990, "/nonexistent", "/usr/sbin/nologin"))
    etc = tree / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "passwd").write_text("".join(f"{n}:x:{i}:{i}::{home}:{shell}\n" for n, i, home, shell in accounts))
    (etc / "group").write_text("".join(f"{name}:x:{number}:\n" for name, number, _, _ in accounts))
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    (etc / "ld.so.conf.d").mkdir(exist_ok=True)
    for folder in ("dev", "proc", "sys", "run", "tmp", "root"):
        (tree / folder).mkdir(exist_ok=True)
    for script in ("e2e-init", "e2e-job"):
        shutil.copy(HERE / "boot" / script, tree / "sbin" / script)
        (tree / "sbin" / script).chmod(0o755)
    shutil.copy(HERE / "boot/e2e.service", tree / "usr/lib/systemd/system/e2e.service")
    (etc / "machine-id").write_text("")  # systemd makes an id for this boot


def _initrd(stage: Path, busybox: Path, init: Path, modules: Path | None) -> bytes:
    """Return a gzipped cpio of busybox, an init and the modules that it loads. /modules lists them in load order."""
    (stage / "bin").mkdir(parents=True)
    shutil.copy(busybox, stage / "bin/busybox")
    shutil.copy(init, stage / "init")
    (stage / "init").chmod(0o755)
    if modules:
        order = _load_order(modules, INITRD_MODULES)
        for path in order:
            shutil.copy(modules / path, stage / Path(path).name)
        (stage / "modules").write_text("".join(f"{Path(path).name}\n" for path in order))
    names = "\n".join(str(path.relative_to(stage)) for path in sorted(stage.rglob("*")))
    cpio = subprocess.run(
        ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0"],
        cwd=stage, input=names.encode(), stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return gzip.compress(cpio.stdout, compresslevel=1, mtime=0)


def _load_order(modules: Path, wanted: list[str]) -> list[str]:
    depends: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        depends[path] = rest.split()
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in depends}
    order: list[str] = []
    for name in wanted:
        if name in by_name:
            path = by_name[name]
            # modules.dep lists a module's dependencies in reverse load order.
            order += [one for one in [*reversed(depends[path]), path] if one not in order]
    return order


def _compile_python(host: Host, tree: Path, building: Path) -> None:
    """Byte-compile on this machine, which takes seconds. This needs a Python of the same minor version."""
    version = re.sub("^python", "", (tree / "usr/bin/python3").readlink().name)
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    python = [sys.executable] if own == version else _python_of(host.suite, building / "python")
    options = ["-q", "--invalidation-mode=unchecked-hash", "-s", str(tree), "-p", "/"]
    folders = [str(tree / "usr/lib/python3"), str(tree / f"usr/lib/python{version}")]
    subprocess.run([*python, "-m", "compileall", *options, *folders], check=True)


def _python_of(suite: apt.Suite, tree: Path) -> list[str]:
    """Return a command: the suite's Python for this machine's architecture, with the suite's C library."""
    architecture = subprocess.run(["dpkg", "--print-architecture"], stdout=subprocess.PIPE, check=True, text=True)
    cache = cache_folder() / f"packages-python-{suite.name}"
    _unpack(apt.download(suite, architecture.stdout.strip(), ["python3"], cache), tree)
    (libraries,) = (loader.parent for loader in tree.glob("usr/lib/*/libc.so.6"))
    (loader,) = libraries.glob("ld-linux-*")
    return [str(loader), "--library-path", str(libraries), str(tree / "usr/bin/python3")]


def _make_disk(tree: Path, disk: Path) -> None:
    used = sum(path.lstat().st_size + 4096 for path in tree.rglob("*"))
    size = f"{(used >> 20) * 5 // 4 + SPARE_MIB}M"
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0", "-m", "0"]
    subprocess.run(["mke2fs", *options, "-d", tree, disk, size], check=True, stdout=subprocess.DEVNULL)
    fill_cylinder(disk)


def fill_cylinder(disk: Path) -> None:
    """Let the disk end where a cylinder ends. Bochs derives the geometry from the size and cuts off the rest."""
    os.truncate(disk, -(-disk.stat().st_size // CYLINDER) * CYLINDER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host", choices=sorted(HOSTS))
    print(image(HOSTS[parser.parse_args().host]).folder)


if __name__ == "__main__":
    main()
