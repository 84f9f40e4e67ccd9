"""The capabilities that the processes of the exporter keep, as /proc/PID/status shows them."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from checks import Checks

CAP_BPF = 39  # include/uapi/linux/capability.h
NOTHING = "0" * 16
# Before Linux 5.19 the kernel refuses bpf(2) on another process's maps without CAP_BPF.
NEEDED = NOTHING if tuple(map(int, platform.release().split(".")[:2])) >= (5, 19) else f"{1 << CAP_BPF:016x}"
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
