"""The panels about waiting, sleep, kernel and VMM: their queries, with promtool, on a host with known parts.

The recording of the other tests has no parts, because no event tells them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import boards
from tests.support.prometheus import builds
from tests.support.prometheus.fixtures import build  # noqa: F401  (fixture)

MINUTE = 60
"""A series that grows by 60 times a number each minute has this number as its rate."""

SETTINGS = {
    **{"job": ".*", "instance": ".*", "vm": "web-1", "class": "mmio|interrupt", "top": "20"},
    **{"__rate_interval": "5m", "__range": "10m"},
}


def series(name: str, rate: int, *, host: str = "h1", **labels: str) -> dict[str, str]:
    found = {"job": "kvm-exit", "instance": host, "pid": "1000", "vm": "web-1", **labels}
    made = ",".join(f'{label.rstrip("_")}="{value}"' for label, value in found.items())
    return {"series": f"{name}{{{made}}}", "values": f"0+{rate * MINUTE}x20"}


def gauge(name: str, value: int, host: str = "h1") -> dict[str, str]:
    return {"series": f'{name}{{job="kvm-exit",instance="{host}"}}', "values": f"{value}x20"}


MMIO = {"reason": "EC_DABT_LOW", "class_": "mmio"}
IRQ = {"reason": "IRQ", "class_": "interrupt"}
WFX = {"reason": "EC_WFx", "class_": "idle"}
VMM = "kvm_userspace_exit_vmm"
HOST = [
    series("kvm_exit_duration_seconds_sum", 18, **MMIO),
    series("kvm_exit_duration_seconds_sum", 9, **IRQ),
    series("kvm_exit_duration_seconds_sum", 23, **WFX),
    series("kvm_exit_wait_seconds_total", 1, **MMIO),
    series("kvm_exit_wait_seconds_total", 2, **IRQ),
    series("kvm_exit_wait_seconds_total", 4, **WFX),
    series("kvm_exit_sleep_seconds_total", 8, **MMIO),
    series("kvm_exit_sleep_seconds_total", 13, **WFX),
    series(f"{VMM}_seconds_total", 10, reason="KVM_EXIT_MMIO"),
    series(f"{VMM}_wait_seconds_total", 1, reason="KVM_EXIT_MMIO"),
    series(f"{VMM}_sleep_seconds_total", 4, reason="KVM_EXIT_MMIO"),
    series(f"{VMM}_seconds_total", 11, reason="restart"),
    series(f"{VMM}_sleep_seconds_total", 9, reason="restart"),
    series(f"{VMM}_seconds_total", 6, reason="KVM_EXIT_HLT"),
    series("kvm_vcpu_wait_seconds_total", 2, tid="1001", vcpu="0"),
    series("kvm_vcpu_wait_seconds_total", 5, tid="1002", vcpu="1"),
    gauge("kvm_exit_exporter_tracked_vcpus", 4),
    gauge("kvm_exit_exporter_time_split", 1),
]
"""27 s lost in a second, and 23 idle. Of the 27: 3 waiting, 8 asleep, 5 in the VMM, so 11 in the kernel."""
UNSPLIT = [
    series("kvm_exit_duration_seconds_sum", 19, host="h2", **MMIO),
    series("kvm_exit_duration_seconds_sum", 17, host="h2", **WFX),
    series("kvm_vcpu_wait_seconds_total", 3, host="h2", tid="1001", vcpu="0"),
    gauge("kvm_exit_exporter_tracked_vcpus", 2, "h2"),
    gauge("kvm_exit_exporter_time_split", 0, "h2"),
]
"""A host whose exporter does not split the time. Only the waiting of its vCPU is known."""
IN_KERNEL = [
    series("kvm_exit_duration_seconds_sum", 13, **MMIO),
    series("kvm_exit_duration_seconds_sum", 17, **WFX),
    gauge("kvm_exit_exporter_time_split", 1),
]
"""A host whose VM never waited and never slept. The exporter then has no series for these parts."""

LOST, IDLE = "Where the lost time went", "Where the idle time went"
LEGENDS = {
    LOST: ("waiting for a CPU", "asleep", "kernel", "VMM"),
    IDLE: ("asleep", "polling", "waiting for a CPU"),
}


def queries(board: str, title: str) -> dict[str, str]:
    """Return the filled queries of a panel by their legends."""
    (panel,) = (panel for panel in boards.panels(boards.load(board)) if panel["title"] == title)
    return {target["legendFormat"]: boards.fill(target["expr"], SETTINGS) for target in panel["targets"]}


def check(promtool: Path, folder: Path, host: list[dict[str, str]], wanted: dict[str, list[dict[str, Any]]]) -> None:
    """Let promtool evaluate the queries at 10 minutes."""
    cases = [{"expr": expr, "eval_time": "10m", "exp_samples": samples} for expr, samples in wanted.items()]
    file = folder / "dashboards.test.yml"
    file.write_text(json.dumps({"tests": [{"interval": "1m", "input_series": host, "promql_expr_test": cases}]}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def one(value: float, labels: str = "{}") -> list[dict[str, Any]]:
    return [{"labels": labels, "value": value}]


@pytest.mark.parametrize("board", boards.NAMES)
@pytest.mark.parametrize(
    ("host", "values"),
    [
        pytest.param([*HOST, *UNSPLIT], {LOST: (3, 8, 11, 5), IDLE: (13, 6, 4)}, id="split"),
        pytest.param(UNSPLIT, {LOST: (None,) * 4, IDLE: (None,) * 3}, id="not split"),
        pytest.param(IN_KERNEL, {LOST: (None, None, 13, None), IDLE: (None, 17, None)}, id="only in the kernel"),
    ],
)
def test_the_parts_of_lost_and_idle_time_are_exact(
    build: Callable[[str], builds.Build],  # noqa: F811
    tmp_path: Path,
    board: str,
    host: list[dict[str, str]],
    values: dict[str, tuple[float | None, ...]],
) -> None:
    wanted: dict[str, list[dict[str, Any]]] = {}
    for title, legends in LEGENDS.items():
        if board == "kvm-exits-fleet" and title == IDLE:
            continue  # only a VM's dashboard has this panel
        found = queries(board, title)
        assert tuple(found) == legends
        wanted |= {found[name]: [] if value is None else one(value) for name, value in zip(legends, values[title])}
    check(build("bookworm").promtool, tmp_path, host, wanted)


def test_the_waiting_of_hosts_and_vcpus_is_exact(build: Callable[[str], builds.Build], tmp_path: Path) -> None:  # noqa: F811
    (of_hosts,) = queries("kvm-exits-fleet", "Waiting for a CPU by host").values()
    (of_vcpus,) = queries("kvm-exits-vm", "Waiting for a CPU by vCPU").values()
    (of_reasons,) = queries("kvm-exits-vm", "Waiting for a CPU by reason").values()
    wanted = {
        of_hosts: [*one(1.75, '{instance="h1"}'), *one(1.5, '{instance="h2"}')],
        of_vcpus: [*one(5, '{vcpu="0"}'), *one(5, '{vcpu="1"}')],
        of_reasons: [*one(1, '{reason="EC_DABT_LOW"}'), *one(2, '{reason="IRQ"}')],
    }
    check(build("bookworm").promtool, tmp_path, [*HOST, *UNSPLIT], wanted)
