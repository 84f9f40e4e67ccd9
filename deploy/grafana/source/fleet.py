"""The fleet dashboard: who loses most time to exits, and why; and whether the numbers can be trusted."""

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
SELF = "kvm_exit_exporter_"

LOST = queries.seconds(EXITS, CHOSEN, WHOLE)
LOST_NOW = queries.seconds(EXITS, CHOSEN, OVER_TIME)
GUEST = queries.rate("kvm_vcpu_guest_seconds_total", ALL, WHOLE)
EXIT_RATE = queries.rate("kvm_exits_total", CHOSEN, WHOLE)
IN_FLIGHT = f"kvm_vcpu_exit_in_progress_seconds{CHOSEN}"
TO_VM = ("vm", "Open this VM", board.vm_url(OF_ROW))

LOST_TEXT = (
    "Time between an exit and the next guest entry, in vCPUs: 1 is as much as one vCPU that never runs. "
    "Idle time is left out."
)


def _overhead(*by: str) -> str:
    return f"{total(LOST, *by)} / ({total(LOST, *by)} + {total(GUEST, *by)} > 0)"


def _dropped(window: str, *by: str) -> str:
    exits, userspace = (
        total(f"increase({SELF}{name}{ALL}[{window}])", *by)
        for name in ("dropped_exits_total", "dropped_userspace_exits_total")
    )
    return f"{exits} + {userspace}"


def _problem(expr: str, what: str) -> str:
    return f'label_replace(max by (instance) ({expr}), "problem", "{what}", "", "")'


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
    return "First look", (
        panels.number(
            "Exporters down", "Exporters that Prometheus could not scrape last time. Their VMs are in no panel.",
            or_zero(f"count(up{ALL} == 0)"), COUNT, steps=panels.ANY,
        ),
        panels.number(
            "Exits dropped", "Exits and returns to the VMM that are in no other panel, over the time shown. If not 0, "
            "raise the limits of the hosts listed below.", or_zero(_dropped(WHOLE)), COUNT, steps=panels.ANY,
        ),
        panels.number("Time lost", f"{LOST_TEXT} Mean over the time shown.", or_zero(total(LOST)), VCPUS),
        panels.number(
            "Overhead", "Time lost, of the time that VMs wanted to run (lost and in guest). Mean over the time shown.",
            or_zero(_overhead()), SHARE, steps=panels.OVERHEAD,
        ),
        panels.number(
            "Exits", "Exits of the chosen classes. Mean over the time shown.", or_zero(total(EXIT_RATE)), panels.EXITS
        ),
        panels.number(
            "Longest exit in flight", "Age of the oldest exit a vCPU is in now, idle left out. Seconds: a stuck "
            "vCPU, a paused VM, or on arm64 a vCPU that its guest switched off.",
            or_zero(f"max({IN_FLIGHT})"), SECONDS, steps=panels.STUCK,
        ),
        panels.rows(
            "Exporters that need attention", "Whose numbers are missing or incomplete, and what to do. The value "
            "is what was found: 0 for down, the number of dropped exits, how full.",
            ("instance", "problem"), (Column("Found", PROBLEMS, COUNT),), sort="Found", span=12, height=8,
            nothing="None: every exporter is up, attached and drops nothing.",
        ),
        panels.rows(
            "vCPUs out of their guest now", "The oldest exits in flight at the last scrape, idle left out. Short "
            "ones are there by chance; what stays there is stuck, paused or switched off.",
            ("vm", "instance", "vcpu", "reason"),
            (Column("Age", f"topk($top, max by (vm, instance, vcpu, reason) ({IN_FLIGHT}))", SECONDS, panels.STUCK),),
            sort="Age", link=TO_VM, span=12, height=8, nothing="None at the last scrape.",
        ),
    )  # fmt: skip


def _who() -> board.Row:
    by = ("instance", "vm")
    on, lost = ", ".join(by), total(LOST, *by)
    main = f"topk by ({on}) (1, {total(LOST, *by, 'reason')})"
    return "Who loses most, and why", (
        panels.rows(
            "VMs that lose most time", f"{LOST_TEXT} Mean over the time shown. `reason` is the exit reason that "
            "costs the VM most. Click a VM for its own dashboard.",
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
            "Time lost by VM", f"{LOST_TEXT} The VMs that lost most over all of the time shown. Click one for its "
            "dashboard.",
            [(top(total(LOST_NOW, *by), on, of=at_end(lost)), "{{vm}} on {{instance}}")],
            VCPUS, link=("Open this VM", board.vm_url(OF_SERIES)),
        ),
        panels.graph(
            "Time lost by class", f"{LOST_TEXT} All hosts and VMs together.",
            [(total(LOST_NOW, "class"), "{{class}}")], VCPUS, stacked=True, by_class=True,
        ),
    )  # fmt: skip


def _why() -> board.Row:
    reasons = total(queries.rate("kvm_exits_total", CHOSEN, OVER_TIME), "reason")
    busiest = at_end(total(EXIT_RATE, "reason"))
    out = total(queries.rate("kvm_userspace_exits_total", ALL, OVER_TIME), "instance")
    exits = total(queries.rate("kvm_exits_total", ALL, OVER_TIME), "instance")
    most_out = at_end(total(queries.rate("kvm_userspace_exits_total", ALL, WHOLE), "instance"))
    return "Which exits", (
        panels.graph(
            "Exits by reason", "Exits a second of the chosen classes; the reasons that were most frequent over the "
            "time shown.",
            [(top(reasons, "reason", of=busiest), "{{reason}}")], panels.EXITS,
        ),
        panels.graph(
            "99th percentile by class", "One exit in a hundred takes longer. Classic buckets are a factor of 4 wide by "
            "default, and it is interpolated inside.",
            [(queries.quantile(0.99, EXITS, CHOSEN, OVER_TIME, "class"), "{{class}}")], SECONDS, by_class=True,
        ),
        panels.graph(
            "Time of exits that go out to the VMM", "The part of all exits' time, in vCPUs, that belongs to exits "
            "which leave the kernel for QEMU or another VMM. The reason is KVM_RUN's. It includes KVM_EXIT_HLT and "
            "the like, where the VMM does the waiting.",
            [(total(queries.seconds(USERSPACE, ALL, OVER_TIME), "reason"), "{{reason}}")], VCPUS, stacked=True,
        ),
        panels.graph(
            "Returns to the VMM for each exit", "Returns of KVM_RUN by exits of all classes, hosts with most "
            "returns. Devices that could be in the kernel (vhost, irqfd) raise it. It can pass 100 %: KVM_RUN also "
            "returns without an exit.",
            [(top(f"{out} / ({exits} > 0)", "instance", of=most_out), "{{instance}}")], SHARE,
        ),
    )  # fmt: skip


def _hosts() -> board.Row:
    by = "instance"
    tracked = total(f"avg_over_time({SELF}tracked_vcpus{ALL}[{WHOLE}])", by)  # VMs that have left were in it, too
    vcpus = (
        f"sum by (instance, version, machine) ({SELF}tracked_vcpus{ALL} "
        f"* on (job, instance) group_left (version, machine) {SELF}build_info{ALL})"
    )
    fullest = f"{SELF}tracked_vcpus{ALL} / {SELF}vcpu_slots{ALL}", f"{SELF}cells_in_use{ALL} / {SELF}cells{ALL}"
    drops = at_end(_dropped(WHOLE, by))
    slowest = at_end(f"max by (instance) (max_over_time({SELF}collect_duration_seconds{ALL}[{WHOLE}]))")
    return "Hosts and their exporters", (
        panels.rows(
            "Hosts", "Lost, overhead, in guest and exits are means over the time shown, dropped is their number in "
            "that time. In guest is of as many vCPUs as were tracked on average. Full: the fuller of the exporter's "
            "two pools, in which an exit that finds no room is dropped.",
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
            "Dropped exits by host", "Exits and returns to the VMM that are in no other panel: 0 on a healthy "
            "host. The hosts with most over the time shown.",
            [(top(_dropped(OVER_TIME, by), by, of=drops), "{{instance}}")], COUNT, steps=panels.ANY,
        ),
        panels.graph(
            "Reading the kernel's counters", "Duration of a collection, which each scrape waits for; the slowest "
            "hosts of the time shown.",
            [(top(f"max by (instance) ({SELF}collect_duration_seconds{ALL})",
            by, of=slowest), "{{instance}}")], SECONDS,
        ),
    )  # fmt: skip


def build() -> model.Dashboard:
    """Return the dashboard."""
    hosts = 'label_values(up{job=~"$job"}, instance)'
    return board.assemble(
        dashboard.Dashboard("KVM exits: fleet").uid(board.FLEET).refresh("1m")
        .description("Which VMs lose most time to exits, why, and on which hosts. From kvm-exit-exporter.")
        .with_variable(board.datasource())
        .with_variable(board.job())
        .with_variable(board.query("instance", "Host", "Exporters, as Prometheus names them", hosts, all_value=".*"))
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
