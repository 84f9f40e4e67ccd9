"""The guests of a scenario: exact guests, which count their own exits, and Linux under QEMU."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ARM64 = platform.machine() == "aarch64"
RISCV64 = platform.machine() == "riscv64"
# On x86 with the BTF of modules, which Linux has since 5.11.
HAS_VCPU_ID = not (ARM64 or RISCV64) and Path("/sys/kernel/btf/kvm").exists()
if RISCV64:
    QEMU, MACHINE, CONSOLE = "qemu-system-riscv64", "virt", "ttyS0"
elif ARM64:
    QEMU, MACHINE, CONSOLE = "qemu-system-aarch64", "virt,gic-version=host", "ttyAMA0"
else:
    # microvm, because it has few devices. In nested emulation Linux needs minutes to probe the devices of a PC.
    QEMU, MACHINE = "qemu-system-x86_64", "microvm,pit=off,pic=off,rtc=off,isa-serial=on,x-option-roms=off"
    CONSOLE = "ttyS0 tsc=reliable mitigations=off"


@dataclass(frozen=True)
class Identity:
    """A VM's identity on its command line."""

    name: str
    uuid: str
    debug_threads: bool = True

    def arguments(self) -> list[str]:
        # In QEMU's option syntax a comma inside a value is written twice.
        name = f"guest={self.name.replace(',', ',,')}" + (",debug-threads=on" if self.debug_threads else "")
        return ["-name", name, "-uuid", self.uuid]

    def vcpu_label(self, index: int) -> str:
        """Return the expected label vcpu. The host knows the index from the thread's name or from KVM."""
        return str(index) if self.debug_threads or HAS_VCPU_ID else ""


def identity(name: str) -> Identity:
    """Return the identity of a VM with this name. Its uuid is the same in every run."""
    return Identity(name, str(uuid.uuid5(uuid.NAMESPACE_DNS, name)))


@dataclass(frozen=True)
class Vcpu:
    """A vCPU's own counts. For a Linux guest only index, tid and times are known."""

    index: int
    tid: int
    exits: dict[str, int] = field(default_factory=dict)
    at_most: dict[str, int] = field(default_factory=dict)
    userspace: dict[str, int] = field(default_factory=dict)
    sleep_ns: int = 0
    began_ns: int = 0
    parked_ns: int = 0

    def since(self, earlier: Vcpu) -> Vcpu:
        """Return the counts since an earlier report."""

        def minus(now: dict[str, int], then: dict[str, int]) -> dict[str, int]:
            return {key: value - then.get(key, 0) for key, value in now.items() if value != then.get(key, 0)}

        return replace(
            self,
            exits=minus(self.exits, earlier.exits),
            at_most=minus(self.at_most, earlier.at_most),
            userspace=minus(self.userspace, earlier.userspace),
            sleep_ns=self.sleep_ns - earlier.sleep_ns,
        )


class ExactGuest:
    """A VM whose vCPUs cause a given number of exits of each kind: {"mmio": 1009, "kick": 37, ...}."""

    def __init__(self, identity: Identity, *vcpus: dict[str, int]) -> None:
        self.identity = identity
        command = [QEMU, *identity.arguments()]
        for kinds in vcpus:
            command += ["-exact", ",".join(f"{kind}={count}" for kind, count in kinds.items())]
        self.process = subprocess.Popen(
            command, executable="/job/guest", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid
        self.vcpus: list[Vcpu] = []

    def wait_parked(self) -> None:
        """Wait until every vCPU has done its work and stays out of the guest; store the counts."""
        self.vcpus = [Vcpu(**vcpu) for vcpu in self._read()["vcpus"]]

    def again(self) -> None:
        """Let every vCPU do the same work again. wait_parked() then stores the counts of all rounds."""
        self._write("again")

    def wait_holding(self) -> int:
        """Wait until the vCPU with "hold" only spins in the guest; return its tid."""
        return int(self._read()["holding"])

    def let_go(self) -> None:
        """End the hold."""
        self._write("go")

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.identity.name} ended with {self.process.wait()} before its report")
        report: dict[str, Any] = json.loads(line)
        return report

    def _write(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """End the VM."""
        assert self.process.stdin
        self.process.stdin.close()
        if self.process.wait(30):
            raise RuntimeError(f"{self.identity.name} ended with {self.process.returncode}")


class LinuxGuest:
    """A Linux kernel and busybox under QEMU with KVM, stopped and continued through QMP."""

    def __init__(self, identity: Identity, vcpus: int) -> None:
        self.identity = identity
        self._started_ns = time.monotonic_ns()
        self._folder = Path("/tmp") / f"linux-{identity.uuid}"
        self._folder.mkdir()
        command = [
            *(QEMU, *identity.arguments(), "-M", MACHINE, "-cpu", "host", "-enable-kvm", "-m", "256"),
            *("-smp", str(vcpus), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", "/boot/vmlinuz", "-initrd", "/boot/guest-initrd"),
            *("-append", f"console={CONSOLE} quiet panic=-1"),
            *("-serial", f"file:{self.console}", "-qmp", f"unix:{self._folder}/qmp,server=on,wait=off"),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.pid = self.process.pid
        self.vcpus: list[Vcpu] = []

    @property
    def console(self) -> Path:
        """Return the file with the output of the serial port."""
        return self._folder / "console"

    def rounds(self) -> int:
        """Return the rounds that its init has finished, 0 at first. Raises RuntimeError if QEMU has ended."""
        if self.process.poll() is not None:
            last = "\n".join(self._console_text().splitlines()[-20:])
            raise RuntimeError(
                f"QEMU of {self.identity.name} ended with {self.process.returncode}; its console:\n{last}"
            )
        return int((re.findall(r"^round (\d+) ", self._console_text(), re.MULTILINE) or ["0"])[-1])

    def _console_text(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def stop(self) -> None:
        """Let QEMU take all vCPUs out of KVM_RUN; store their threads."""
        self._qmp("stop")
        parked_ns = time.monotonic_ns()
        self.vcpus = [
            Vcpu(cpu["cpu-index"], cpu["thread-id"], began_ns=self._started_ns, parked_ns=parked_ns)
            for cpu in self._qmp("query-cpus-fast")
        ]

    def go_on(self) -> None:
        """Undo stop()."""
        self._qmp("cont")

    def end(self) -> None:
        """End the VM."""
        with contextlib.suppress(ConnectionError, ValueError):  # QEMU may end before it answers
            self._qmp("quit")
        self.process.wait(30)

    def _qmp(self, command: str) -> Any:
        with socket.socket(socket.AF_UNIX) as qmp:
            qmp.settimeout(60)
            qmp.connect(os.fspath(self._folder / "qmp"))
            stream = qmp.makefile("rw")
            stream.readline()  # the greeting
            for execute in ("qmp_capabilities", command):
                stream.write(json.dumps({"execute": execute}))
                stream.flush()
                answer = json.loads(stream.readline())
                while "event" in answer:
                    answer = json.loads(stream.readline())
                if "error" in answer:
                    raise RuntimeError(f"QMP {execute}: {answer}")
            return answer["return"]
