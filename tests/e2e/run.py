"""Run the exporter and KVM guests in an emulated machine, and compare every count.

    python3 tests/e2e/run.py HOST

HOST is a name in hosts.py. The script builds the machine's image if it is not cached, compiles the guests, boots, and
runs scenario.py inside. The last line is "N passed, N failed".
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bochs_machine
import machine
from bochs import bochs
from hosts import HOSTS
from image import HERE, image

COMPILER = {"arm64": "aarch64-linux-gnu-gcc", "amd64": "gcc", "riscv64": "riscv64-linux-gnu-gcc"}
CHECKOUT = HERE.parent.parent


def compile_guest(architecture: str, target: Path) -> None:
    """Compile the exact guest. It is static, because the machine has no compiler and may have another libc."""
    sources = [HERE / "guests/vm.c", *(HERE / "guests").glob(f"{architecture}*.c")]
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread"]
    subprocess.run([COMPILER[architecture], *flags, "-o", target, *sources], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host", choices=HOSTS)
    parser.add_argument(
        "--timeout",
        type=float,
        default=1500,
        metavar="SECONDS",
        help="time limit of the machine (1500): only a machine that hangs reaches it",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the machine's console and job disk in this folder"
    )
    parser.add_argument("--shell", action="store_true", help="run a shell in the machine instead of the scenario")
    parser.add_argument("--systemd", action="store_true", help="boot with systemd, and run systemd_scenario.py")
    parser.add_argument(
        "--extra", action="append", default=[], metavar="NAME=FILE", help="copy a file of this machine to /job/NAME"
    )
    parser.add_argument("--command", help="run this command at the top of the checkout instead of the scenario")
    parser.add_argument("scenario", nargs="*", help="arguments of scenario.py, after --")
    arguments = parser.parse_args()

    host = HOSTS[arguments.host]
    if host.bochs and arguments.shell:
        parser.error("--shell needs QEMU")
    scenario = "systemd_scenario.py" if arguments.systemd else "scenario.py"
    given = [extra.partition("=") for extra in arguments.extra]
    started = time.monotonic()
    built = image(host)
    print(f"{host.name}: image after {time.monotonic() - started:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="kvm-exit-exporter-") as scratch:
        guest = Path(scratch) / "guest"
        compile_guest(host.architecture, guest)
        extra = {"guest": guest, **{name: Path(file) for name, _, file in given}}
        command = arguments.command or " ".join([f"python3 tests/e2e/{scenario}", *arguments.scenario])
        if host.bochs:
            run = functools.partial(bochs_machine.run, bochs())
        else:
            run = functools.partial(machine.run, host.architecture, shell=arguments.shell)
        return run(
            built,
            CHECKOUT,
            extra=extra,
            command=command,
            timeout=arguments.timeout,
            systemd=arguments.systemd,
            keep=arguments.keep,
        )


if __name__ == "__main__":
    sys.exit(main())
