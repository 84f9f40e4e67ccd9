"""The fleet dashboard shows which VMs lose most time to exits, why, and whether the numbers are complete."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.source import board, panels, queries
from deploy.grafana.source.board import OF_ROW, OF_SERIES
from deploy.grafana.source.panels import COUNT, SECONDS, SHARE, VCPUS, Column
from deploy.grafana.source.queries import EXITS, OVER_TIME, USERSPACE, WHOLE, at_end, or_zero, selector, top, total

HERE = ('job=~"$job"', 'instance=~"$instance"')
ALL = selector(*HERE)
CHOSEN = selector(*HERE, queries.CLASSES)
VMM = selector(*HERE, queries.OF_THE_VMM)
SELF = "kvm_exit_exporter_"

LOST = queries.seconds(EXITS, CHOSEN, WHOLE)
LOST_NOW = queries.seconds(EXITS, CHOSEN, OVER_TIME)
GUEST = queries.rate("kvm_vcpu_guest_seconds_total", ALL, WHOLE)
EXIT_RATE = queries.rate("kvm_exits_total", CHOSEN, WHOLE)
IN_FLIGHT = f"kvm_vcpu_exit_in_progress_seconds{CHOSEN}"
TO_VM = ("vm", "Open this VM", board.vm_url(OF_ROW))

LOST_TEXT = (
    "Time between an exit and the next guest entry, in vCPUs: 1 equals the time of one vCPU that never runs. "
    "Without idle time."
)


def _overhead(*by: str) -> str:
    return f"{total(LOST, *by)} / ({total(LOST, *by)} + {total(GUEST, *by)} > 0)"


def _waiting(window: str) -> str:
    waited = total(queries.rate(queries.VCPU_WAIT, ALL, window), "instance")
    return f"{waited} / ({total(f'avg_over_time({SELF}tracked_vcpus{ALL}[{window}])', 'instance')} > 0)"


def _dropped(window: str, *by: str) -> str:
    exits, userspace = (
        total(f"increase({SELF}{name}{ALL}[{window}])", *by)
        for name in ("dropped_exits_total", "dropped_userspace_exits_total")
    )
    return f"{exits} + {userspace}"


def _problem(expr: str, text: str) -> str:
    return f'label_replace(max by (instance) ({expr}), "problem", "{text}", "", "")'


PROBLEMS = " or ".join(
    (
        _problem(f"up{ALL} == 0", "down: Prometheus cannot scrape it"),
        _problem(f"{SELF}up{ALL} == 0", "not attached, or its last collection failed: see its log"),
        _problem(f"{_dropped(WHOLE, 'instance')} > 0", "dropped exits: raise limits in its configuration"),
        _problem(
            f"{SELF}tracked_vcpus{ALL} / {SELF}vcpu_slots{ALL} > 0.8 or {SELF}cells_in_use{ALL} / {SELF}cells{ALL} "
            "> 0.8",
            "nearly full: raise limits before exits are dropped",
        ),
        _problem(f"{SELF}config_last_reload_successful{ALL} == 0", "its configuration file is wrong: see its log"),
        _problem(f"{SELF}replay{ALL} == 1", "replays a recording: its numbers are of no real VM"),
    )
)

STATE = f"max by (instance) (2 * ({SELF}up{ALL} == bool 0) + {SELF}up{ALL} * (1 + 2 * {SELF}replay{ALL}) or up{ALL})"
STATES = {
    "0": ("down", "red"),
    "1": ("ok", "green"),
    "2": ("not counting", "red"),
    "3": ("recording", "purple"),
}


def _first_look() -> board.Row:
    return "Overview", (
        panels.number(
            "Exporters down", "Exporters whose last scrape failed. Their VMs are in no other panel.",
            or_zero(f"count(up{ALL} == 0)"), COUNT, steps=panels.ANY,
        ),
        panels.number(
            "Exits dropped", "Dropped exits and returns to the VMM in the time range. They are in no other panel. If "
            "not 0, raise the limits of the hosts listed below.", or_zero(_dropped(WHOLE)), COUNT, steps=panels.ANY,
        ),
        panels.number("Time lost", f"{LOST_TEXT} Mean over the time range.", or_zero(total(LOST)), VCPUS),
        panels.number(
            "Overhead", "Time lost, divided by the time that the VMs wanted to run (lost plus in guest). Mean over "
            "the time range.",
            or_zero(_overhead()), SHARE, steps=panels.OVERHEAD,
        ),
        panels.number(
            "Exits", "Exits of the chosen classes. Mean over the time range.", or_zero(total(EXIT_RATE)), panels.EXITS
        ),
        panels.number(
            "Longest exit in flight", "Age of the oldest exit that a vCPU is in now, without idle. Some seconds mean a "
            "stuck vCPU, a paused VM, or on arm64 and riscv64 a vCPU that its guest switched off.",
            or_zero(f"max({IN_FLIGHT})"), SECONDS, steps=panels.STUCK,
        ),
        panels.rows(
            "Exporters that need attention", "Exporters whose numbers are missing or incomplete, with the remedy. "
            "Found is the measured value: 0 for down, the number of dropped exits, or how full a pool is.",
            ("instance", "problem"), (Column("Found", PROBLEMS, COUNT),), sort="Found", span=12, height=8,
            nothing="None: every exporter is up and attached, and drops no exits.",
        ),
        panels.rows(
            "vCPUs out of their guest now", "The oldest exits in flight at the last scrape, without idle. A scrape "
            "sees short exits by chance. A vCPU that stays in this list is stuck, paused or switched off.",
            ("vm", "instance", "vcpu", "reason"),
            (Column("Age", f"topk($top, max by (vm, instance, vcpu, reason) ({IN_FLIGHT}))", SECONDS, panels.STUCK),),
            sort="Age", link=TO_VM, span=12, height=8, nothing="None at the last scrape.",
        ),
    )  # fmt: skip


def _who() -> board.Row:
    by = ("instance", "vm")
    on, lost = ", ".join(by), total(LOST, *by)
    main = f"topk by ({on}) (1, {total(LOST, *by, 'reason')})"
    return "Most time lost, and why", (
        panels.rows(
            "VMs that lose most time", f"{LOST_TEXT} Mean over the time range. `reason` is the exit reason that "
            "costs the VM most. Click a VM to open its dashboard.",
            ("vm", "instance", "reason"),
            (
                Column("Lost", top(lost, on, of=lost), VCPUS, decimals=3),
                Column("By this reason", top(main, on, of=lost), VCPUS, decimals=3),
                Column("Overhead", top(_overhead(*by), on, of=lost), SHARE, panels.OVERHEAD),
                Column("In guest", top(total(GUEST, *by), on, of=lost), VCPUS, decimals=2),
                Column("Exits", top(total(EXIT_RATE, *by), on, of=lost), panels.EXITS),
            ),
            sort="Lost", link=TO_VM, height=11,
        ),
        panels.graph(
            "Time lost by VM", f"{LOST_TEXT} The VMs that lost most over the whole time range. Click a line to open "
            "the VM's dashboard.",
            [(top(total(LOST_NOW, *by), on, of=at_end(lost)), "{{vm}} on {{instance}}")],
            VCPUS, link=("Open this VM", board.vm_url(OF_SERIES)),
        ),
        panels.graph(
            "Time lost by class", f"{LOST_TEXT} All hosts and VMs together.",
            [(total(LOST_NOW, "class"), "{{class}}")], VCPUS, stacked=True, by_class=True,
        ),
        panels.graph(
            "Where the lost time went", "The time lost in all classes except idle, in vCPUs, on hosts whose exporter "
            "can split it. Waiting: threads could run, but had no CPU. Asleep: threads slept in an exit. Kernel and "
            "VMM: threads were on a CPU.",
            queries.lost_split(HERE, OVER_TIME), VCPUS, stacked=True,
        ),
        panels.graph(
            "Waiting for a CPU by host", "Time in which threads of vCPUs could run but had no CPU, as a share of the "
            "time of all vCPUs of the host. The hosts that waited most over the time range. From 5 % on, "
            "KvmHostOvercommitted fires.",
            [(top(_waiting(OVER_TIME), "instance", of=at_end(_waiting(WHOLE))), "{{instance}}")],
            SHARE, steps=panels.WAITING,
        ),
    )  # fmt: skip


def _why() -> board.Row:
    reasons = total(queries.rate("kvm_exits_total", CHOSEN, OVER_TIME), "reason")
    busiest = at_end(total(EXIT_RATE, "reason"))
    out = total(queries.rate("kvm_userspace_exits_total", ALL, OVER_TIME), "instance")
    exits = total(queries.rate("kvm_exits_total", ALL, OVER_TIME), "instance")
    most_out = at_end(total(queries.rate("kvm_userspace_exits_total", ALL, WHOLE), "instance"))
    return "Kinds of exits", (
        panels.graph(
            "Exits by reason", "Exits per second of the chosen classes. The most frequent reasons of the whole time "
            "range.",
            [(top(reasons, "reason", of=busiest), "{{reason}}")], panels.EXITS,
        ),
        panels.graph(
            "99th percentile by class", "One exit in a hundred takes longer than this value. With classic buckets it "
            "is interpolated within a bucket, by default a factor of 4 wide.",
            [(queries.quantile(0.99, EXITS, CHOSEN, OVER_TIME, "class"), "{{class}}")], SECONDS, by_class=True,
        ),
        panels.graph(
            "Time of exits that the VMM handles", "Time of the exits that QEMU or another VMM handles, in vCPUs. It is "
            "part of the time of all exits. The reason is KVM_RUN's exit reason. KVM_EXIT_HLT and similar reasons are "
            "included, although the VMM only waits there. Returns after a signal or an error are left out.",
            [(total(queries.seconds(USERSPACE, VMM, OVER_TIME), "reason"), "{{reason}}")], VCPUS, stacked=True,
        ),
        panels.graph(
            "Returns to the VMM per exit", "Returns of KVM_RUN, divided by the exits of all classes. The hosts with "
            "most returns. The value is high if the VMM emulates devices that the kernel could handle (vhost, irqfd). "
            "It can exceed 100 %, because KVM_RUN also returns without an exit.",
            [(top(f"{out} / ({exits} > 0)", "instance", of=most_out), "{{instance}}")], SHARE,
        ),
    )  # fmt: skip


def _hosts() -> board.Row:
    by = "instance"
    tracked = total(f"avg_over_time({SELF}tracked_vcpus{ALL}[{WHOLE}])", by)  # this also counts VMs that ended
    vcpus = (
        f"sum by (instance, version, machine) ({SELF}tracked_vcpus{ALL} "
        f"* on (job, instance) group_left (version, machine) {SELF}build_info{ALL})"
    )
    fullest = f"{SELF}tracked_vcpus{ALL} / {SELF}vcpu_slots{ALL}", f"{SELF}cells_in_use{ALL} / {SELF}cells{ALL}"
    drops = at_end(_dropped(WHOLE, by))
    slowest = at_end(f"max by (instance) (max_over_time({SELF}collect_duration_seconds{ALL}[{WHOLE}]))")
    return "Hosts and exporters", (
        panels.rows(
            "Hosts", "Lost, Overhead, In guest and Exits are means over the time range. Dropped is the number of "
            "dropped exits in the time range. In guest is the time in guest mode per tracked vCPU. Full is the fill "
            "level of the fuller of the exporter's two pools: a full pool drops exits.",
            ("instance", "version", "machine"),
            (
                Column("State", STATE, COUNT, states=STATES),
                Column("Lost", total(LOST, by), VCPUS, decimals=3),
                Column("Overhead", _overhead(by), SHARE, panels.OVERHEAD),
                Column("In guest", f"{total(GUEST, by)} / ({tracked} > 0)", SHARE),
                Column("Exits", total(EXIT_RATE, by), panels.EXITS),
                Column("Dropped", _dropped(WHOLE, by), COUNT, panels.ANY, decimals=0),
                Column("Full", f"max by (instance) ({fullest[0]} > {fullest[1]} or {fullest[1]})", SHARE, panels.FULL),
                Column("VMs", f"count by (instance) (kvm_vm_info{ALL})", COUNT),
                Column("vCPUs", vcpus, COUNT),
            ),
            sort="Lost", height=11,
        ),
        panels.graph(
            "Dropped exits by host", "Dropped exits and returns to the VMM. They are in no other panel. 0 on a "
            "healthy host. The hosts with most drops in the time range.",
            [(top(_dropped(OVER_TIME, by), by, of=drops), "{{instance}}")], COUNT, steps=panels.ANY,
        ),
        panels.graph(
            "Duration of collections", "How long the exporter takes to read the kernel's counters. Each scrape waits "
            "for that. The slowest hosts of the time range.",
            [(top(f"max by (instance) ({SELF}collect_duration_seconds{ALL})",
            by, of=slowest), "{{instance}}")], SECONDS,
        ),
    )  # fmt: skip


def build() -> model.Dashboard:
    """Return the dashboard."""
    hosts = 'label_values(up{job=~"$job"}, instance)'
    return board.assemble(
        dashboard.Dashboard("KVM exits: fleet").uid(board.FLEET).refresh("1m")
        .description("Which VMs lose most time to exits, why, and on which hosts. Data: kvm-exit-exporter.")
        .with_variable(board.datasource())
        .with_variable(board.job())
        .with_variable(board.query("instance", "Host", "The exporter's name in Prometheus", hosts, all_value=".*"))
        .with_variable(board.classes())
        .with_variable(board.limit())
        .annotation(
            board.annotation(
                "Exporter started", "purple",
                f'changes(process_start_time_seconds{ALL}[2m]) > 0',
            )
        ),
        (_first_look(), _who(), _why(), _hosts()),
    )  # fmt: skip
