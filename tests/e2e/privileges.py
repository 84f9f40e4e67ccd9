"""The capabilities that the exporter keeps, as /proc/PID/status shows them, and what the kernel permits with them."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

from checks import Checks

CAP_BPF = 39  # include/uapi/linux/capability.h
NOTHING = "0" * 16
# Before Linux 5.19 the kernel refuses bpf(2) on another process's maps without CAP_BPF.
NEEDED = NOTHING if tuple(map(int, platform.release().split(".")[:2])) >= (5, 19) else f"{1 << CAP_BPF:016x}"
# With CAP_BPF the kernel also loads programs that cannot trace, and creates maps. CAP_PERFMON is needed for the others.
LOADS = {"socket filter": NEEDED != NOTHING, "array": NEEDED != NOTHING, "tracepoint": False, "raw tracepoint": False}
KEPT = {"CapInh": NOTHING, "CapPrm": NEEDED, "CapEff": NEEDED, "CapAmb": NOTHING, "NoNewPrivs": "1"}


def status(task: Path) -> dict[str, str]:
    """Return the fields of a `status` file in /proc."""
    lines = (line.partition(":") for line in (task / "status").read_text().splitlines())
    return {key: " ".join(value.split()) for key, _, value in lines}


def compare(checks: Checks, pid: int) -> None:
    """Check each thread of the daemon, and that none of its children is left."""
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir())
    uid = status(tasks[0])["Uid"].split()[0]
    checks.true("the daemon is not root", uid != "0")
    for task in tasks:
        fields = status(task)
        checks.equal("user of a thread", fields["Uid"].split(), [uid] * 4)
        checks.equal("capabilities of a thread", {name: fields[name] for name in KEPT}, KEPT)
    children = [task / "children" for task in tasks]
    checks.equal("children of the daemon", [file.read_text() for file in children], [""] * len(tasks))


def shown(pid: int) -> str:
    """Return one line about the daemon: its user and all its capability sets."""
    fields = status(Path(f"/proc/{pid}"))
    sets = [f"{name} {value}" for name, value in fields.items() if re.fullmatch("Cap.*|NoNewPrivs|Seccomp", name)]
    return f"the daemon: uid {fields['Uid'].split()[0]}, {', '.join(sets)}"


# Runs in another process, which drops its privileges as the daemon does. Numbers: include/uapi/linux/bpf.h.
TRY = """
import ctypes, json, struct
from exporter.kernel import privileges, syscall
privileges.drop(privileges.account("kvm-exit-exporter"))
code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0))
licence = ctypes.create_string_buffer(b"GPL")
def program(kind):
    text = struct.pack("=IIQQ", kind, 2, ctypes.addressof(code), ctypes.addressof(licence))
    return 5, text.ljust(72, bytes(1))
calls = {"socket filter": program(1), "array": (0, struct.pack("=IIII", 2, 4, 4, 1))}
calls |= {"tracepoint": program(5), "raw tracepoint": program(17)}
allowed = {}
for name, call in calls.items():
    try:
        allowed[name] = syscall._bpf(*call) >= 0
    except PermissionError:
        allowed[name] = False
print(json.dumps(allowed))
"""


def permitted(checks: Checks) -> None:
    """Check what a process may load after it has dropped its privileges."""
    said = subprocess.run([sys.executable, "-c", TRY], stdout=subprocess.PIPE, text=True, check=True)
    checks.equal("what the kernel loads for the daemon", json.loads(said.stdout), LOADS)
