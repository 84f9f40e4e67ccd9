"""Boot a machine image under QEMU's TCG and run one command in it. The emulated CPU can virtualize."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import IO

from image import Image

TIMED_OUT = 124  # timeout(1) uses the same status
FAILED = 125

QEMU = {
    "arm64": """
        qemu-system-aarch64 -M virt,virtualization=on,gic-version=3 -accel tcg,thread=multi,tb-size=512
        -cpu neoverse-n1
    """,
    # With thread=multi, guests of an emulated SVM sometimes hang. Without hpet=off and tsc=reliable, the emulated
    # clocks drift, and Linux switches its clock source during a run.
    "amd64": "qemu-system-x86_64 -M q35,hpet=off -accel tcg,thread=single,tb-size=512 -cpu max",
    "riscv64": "qemu-system-riscv64 -M virt -accel tcg,thread=multi,tb-size=512 -cpu rv64,h=true",
}
CONSOLE = {
    "arm64": "console=ttyAMA0",
    "amd64": "console=ttyS0 tsc=reliable mitigations=off",
    "riscv64": "console=ttyS0",
}
COMMON = "-smp 2 -m 3G -snapshot -nodefaults -no-user-config -display none -no-reboot"


def checkout_files(checkout: Path) -> list[Path]:
    """Return all files that git does not ignore. Without git, return all files except hidden ones and caches."""
    command = ["git", "-C", str(checkout), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        names = [Path(name) for name in listing.stdout.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = [path.relative_to(checkout) for path in checkout.rglob("*")]
        hidden = ("__pycache__", ".")
        names = [name for name in names if not any(part.startswith(hidden) for part in name.parts)]
    return [name for name in sorted(names) if (checkout / name).is_file()]


def make_job(job: Path, checkout: Path, extra: dict[str, Path], command: str) -> None:
    """Write the tar for the second disk: checkout/, the extra files under their names in the tar, and ./run."""
    with tarfile.open(job, "w") as tar:
        for file in checkout_files(checkout):
            tar.add(checkout / file, f"checkout/{file}", recursive=False)
        for name, path in extra.items():
            tar.add(path, name)
        script = f"#!/bin/bash\ncd /job/checkout || exit\n{command}\n".encode()
        run = tarfile.TarInfo("run")
        run.size, run.mode = len(script), 0o755
        tar.addfile(run, io.BytesIO(script))


def run(
    architecture: str,
    image: Image,
    checkout: Path,
    *,
    extra: dict[str, Path],
    command: str,
    timeout: float,
    shell: bool = False,
    systemd: bool = False,
    keep: Path | None = None,
) -> int:
    """Run a shell command at the top of the checkout in a fresh machine; return its exit status.

    `extra` maps names in /job to files of this machine. With `shell`, a login shell on this terminal replaces the
    command. With `systemd`, systemd is the machine's first process. `keep` is a folder for the machine's console and
    job. If the machine ends without a status, or is still running after `timeout` seconds, the end of its console is
    printed.
    """
    with tempfile.TemporaryDirectory(prefix="kvm-exit-exporter-") as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        job, console, status = folder / "job.tar", folder / "console.log", folder / "status"
        status.unlink(missing_ok=True)
        make_job(job, checkout, extra, command)
        append = f"{CONSOLE[architecture]} panic=-1 net.ifnames=0 loglevel={4 if shell else 6}"
        reader, writer = os.pipe()
        qemu = [
            *QEMU[architecture].split(),
            *COMMON.split(),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
            *("-append", append + (" e2e.shell" if shell else "") + (" e2e.systemd" if systemd else "")),
            *_disk("root", image.disk),
            *_disk("job", job),
            *("-serial", "mon:stdio" if shell else f"file:{console}"),
            *("-device", "virtio-serial-pci"),
            # QEMU opens the pipe by its number, so the output ends when QEMU ends.
            *_port("out", Path(f"/proc/self/fd/{writer}")),
            *_port("status", status),
        ]
        stdin = None if shell else subprocess.DEVNULL
        with subprocess.Popen(qemu, stdin=stdin, pass_fds=[writer]) as process:
            os.close(writer)
            timed_out = watch(process, reader, None if shell else timeout)
        # Without a status, the user has ended the machine of a shell.
        return 0 if shell and not _text(status) else result(status, console, timed_out)


def watch(process: subprocess.Popen[bytes], reader: int, timeout: float | None) -> bool:
    """Copy the pipe to standard output until the emulator ends or is killed; return True if it ran out of time."""
    stream = threading.Thread(target=_copy, args=(os.fdopen(reader, "rb"), sys.stdout.buffer))
    stream.start()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        print(f"the machine was still running after {timeout:g} s", file=sys.stderr)
    finally:
        timed_out = process.poll() is None
        process.kill()
        stream.join()
    return timed_out


def result(status: Path, console: Path, timed_out: bool) -> int:
    """Return the status that the machine wrote. Without one, print the end of its console."""
    text = _text(status)
    if text.isdigit():
        return int(text)
    print(f"end of the machine's console:\n{_tail(console)}", file=sys.stderr)
    return TIMED_OUT if timed_out else FAILED


def _disk(serial: str, file: Path) -> list[str]:
    drive = f"file={file},format=raw,if=none,id={serial},file.locking=off"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={serial},serial={serial}"]


def _port(name: str, file: Path) -> list[str]:
    device = f"virtserialport,chardev={name},name=e2e.{name}"
    return ["-chardev", f"file,id={name},path={file}", "-device", device]


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    with source:
        for line in source:
            target.write(line)
            target.flush()


def _tail(file: Path, lines: int = 40) -> str:
    return "\n".join(_text(file).splitlines()[-lines:])


def _text(file: Path) -> str:
    return file.read_text(errors="replace").strip() if file.exists() else ""
