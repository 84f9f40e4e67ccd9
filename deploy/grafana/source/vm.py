"""The dashboard of one VM: where its vCPUs' time goes, why, how long, on which vCPU, and what hangs right now."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.source import board, panels, queries
from deploy.grafana.source.panels import SECONDS, SHARE, VCPUS, Column
from deploy.grafana.source.queries import EXITS, OVER_TIME, USERSPACE, WHOLE, at_end, or_zero, selector, top, total

HERE = ('job=~"$job"', 'instance=~"$instance"', 'vm="$vm"')
ALL = selector(*HERE)
CHOSEN = selector(*HERE, queries.CLASSES)
IDLE = selector(*HERE, 'class="idle"')

LOST = queries.seconds(EXITS, CHOSEN, WHOLE)
LOST_NOW = queries.seconds(EXITS, CHOSEN, OVER_TIME)
GUEST = queries.rate("kvm_vcpu_guest_seconds_total", ALL, WHOLE)
GUEST_NOW = queries.rate("kvm_vcpu_guest_seconds_total", ALL, OVER_TIME)
EXIT_RATE = queries.rate("kvm_exits_total", CHOSEN, WHOLE)
IN_FLIGHT = "kvm_vcpu_exit_in_progress_seconds"

LOST_TEXT = "Time between an exit and the next guest entry, without idle time"


def _with_guest(guest: str, seconds: str, *by: str) -> str:
    """Join time in the guest to that of the classes, as a class of its own."""
    return f'label_replace({total(guest, *by)}, "class", "in guest", "", "") or {total(seconds, *by, "class")}'


def _overhead(*by: str) -> str:
    return f"{total(LOST, *by)} / ({total(LOST, *by)} + {total(GUEST, *by)} > 0)"


def _first_look() -> board.Row:
    mean = "Mean over the time shown."
    per_process = total(LOST, "instance", "pid", "vm"), total(GUEST, "instance", "pid", "vm")
    identity = f"max by (instance, pid, vm, uuid, vmm) (last_over_time(kvm_vm_info{ALL}[{WHOLE}]))"
    joined = [f"{part} * on (instance, pid, vm) group_left (uuid, vmm) {identity}" for part in per_process]
    threads = selector(*HERE, 'tid!=""')
    return "First look", (
        panels.number(
            "vCPUs", "vCPU threads on the page, those that ended in the last minutes too. The exporter does not say at "
            "`level: vm`.", f"count(kvm_vcpu_guest_seconds_total{threads})", "none", nothing="level: vm", span=3,
        ),
        panels.number("In guest", f"Time in guest mode, in vCPUs. {mean}", total(GUEST), VCPUS, span=3),
        panels.number("Lost", f"{LOST_TEXT}, in vCPUs. {mean}", or_zero(total(LOST)), VCPUS, span=3),
        panels.number(
            "Overhead", f"Time lost, of the time the VM wanted to run (lost and in guest). {mean}",
            or_zero(_overhead()), SHARE, steps=panels.OVERHEAD, span=3,
        ),
        panels.number(
            "Idle", f"Time its vCPUs slept until something woke them, in vCPUs. {mean} A sleep counts when it ends.",
            or_zero(total(queries.seconds(EXITS, IDLE, WHOLE))), VCPUS, span=3,
        ),
        panels.number("Exits", f"Exits of the chosen classes. {mean}", or_zero(total(EXIT_RATE)), panels.EXITS, span=3),
        panels.number(
            "99th percentile", "One exit in a hundred of the time shown took longer, idle left out.",
            queries.quantile(0.99, EXITS, CHOSEN, WHOLE), SECONDS, nothing="no exits", span=3,
        ),
        panels.number(
            "Longest exit in flight", "Age of the oldest exit a vCPU is in now, idle left out.",
            or_zero(f"max({IN_FLIGHT}{CHOSEN})"), SECONDS, steps=panels.STUCK, span=3,
        ),
        panels.rows(
            "Processes of this VM", f"A restart or a migration is a new process. In vCPUs; {mean.lower()}",
            ("instance", "pid", "vm", "uuid", "vmm"),
            (Column("Lost", joined[0], VCPUS, decimals=3), Column("In guest", joined[1], VCPUS, decimals=2)),
            sort="In guest", height=5,
        ),
    )  # fmt: skip


def _where() -> board.Row:
    per_vcpu = _with_guest(GUEST, queries.seconds(EXITS, ALL, WHOLE), "vcpu")
    return "Where its time goes", (
        panels.graph(
            "Time of all vCPUs", "In the guest, out of it by class of exit, and idle, in vCPUs: together as many "
            "as the VM has. An exit counts when it ends, so a long sleep leaves a gap and then a peak.",
            [(_with_guest(GUEST_NOW, queries.seconds(EXITS, ALL, OVER_TIME)), "{{class}}")],
            VCPUS, stacked=True, by_class=True, height=10,
        ),
        panels.bars(
            "Time of each vCPU", "The same for each vCPU, mean over the time shown; the vCPUs that lost most. A "
            "bar of 100 % is all of the vCPU's time.",
            top(per_vcpu, "vcpu", of=total(LOST, "vcpu")), "vcpu", SHARE, span=12,
        ).height(10),
    )  # fmt: skip


def _why() -> board.Row:
    by = ("reason", "class")
    share = f"{total(LOST, *by)} / on () group_left () ({total(LOST)} > 0)"
    return "Why", (
        panels.rows(
            "Reasons", "Of each exit reason, over the time shown: time lost in vCPUs and its share of all time "
            "lost, exits, mean and quantiles of their durations.",
            by,
            (
                Column("Lost", total(LOST, *by), VCPUS, decimals=3),
                Column("Share", share, SHARE),
                Column("Exits", total(EXIT_RATE, *by), panels.EXITS),
                Column("Mean", queries.average(EXITS, CHOSEN, WHOLE, *by), SECONDS),
                Column("p50", queries.quantile(0.5, EXITS, CHOSEN, WHOLE, *by), SECONDS),
                Column("p99", queries.quantile(0.99, EXITS, CHOSEN, WHOLE, *by), SECONDS),
            ),
            sort="Lost",
        ),
        panels.graph(
            "Time lost by reason", f"{LOST_TEXT}, in vCPUs; the reasons that cost most over the time shown.",
            [(top(total(LOST_NOW, "reason"), "reason", of=at_end(total(LOST, "reason"))), "{{reason}}")],
            VCPUS, stacked=True,
        ),
        panels.graph(
            "Exits by reason", "Exits a second; the most frequent reasons of the time shown.",
            [
                (
                    top(
                        total(queries.rate("kvm_exits_total", CHOSEN, OVER_TIME), "reason"), "reason",
                        of=at_end(total(EXIT_RATE, "reason")),
                    ),
                    "{{reason}}",
                )
            ],
            panels.EXITS,
        ),
    )  # fmt: skip


def _how_long() -> board.Row:
    return "How long", (
        panels.durations(
            "Durations of exits", "From an exit to the next guest entry, idle left out; the colour is exits a "
            "second in that bucket. Two bands are two kinds of exit: choose a class to tell them apart.",
            queries.heatmap(EXITS, CHOSEN, OVER_TIME),
        ),
        panels.graph(
            "Quantiles", "Of all exits of the chosen classes.",
            [
                (queries.quantile(phi, EXITS, CHOSEN, OVER_TIME), name)
                for phi, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))
            ],
            SECONDS,
        ),
        panels.graph(
            "99th percentile by class", "One exit in a hundred takes longer.",
            [(queries.quantile(0.99, EXITS, CHOSEN, OVER_TIME, "class"), "{{class}}")], SECONDS, by_class=True,
        ),
    )  # fmt: skip


def _which() -> board.Row:
    lost = total(LOST, "vcpu")
    most = at_end(lost)
    userspace = total(queries.rate("kvm_userspace_exits_total", ALL, WHOLE), "vcpu")
    return "Which vCPU", (
        panels.graph(
            "Time lost by vCPU", f"{LOST_TEXT}, of all time of the vCPU; the vCPUs that lost most over the time shown.",
            [(top(total(LOST_NOW, "vcpu"), "vcpu", of=most), "vCPU {{vcpu}}")], SHARE,
        ),
        panels.graph(
            "In guest by vCPU", "Time in guest mode of the same vCPUs. One at 100 % is CPU-bound; one at 0 % "
            "sleeps, is stuck or is switched off.",
            [(top(total(GUEST_NOW, "vcpu"), "vcpu", of=most), "vCPU {{vcpu}}")], SHARE,
        ),
        panels.rows(
            "Each vCPU", "Means over the time shown, of the vCPUs that lost most. One that differs from its siblings "
            "has the interrupt, the device queue or the noisy neighbour.",
            ("vcpu",),
            (
                Column("Lost", top(lost, "vcpu", of=lost), SHARE),
                Column("Overhead", top(_overhead("vcpu"), "vcpu", of=lost), SHARE, panels.OVERHEAD),
                Column("In guest", top(total(GUEST, "vcpu"), "vcpu", of=lost), SHARE),
                Column("Exits", top(total(EXIT_RATE, "vcpu"), "vcpu", of=lost), panels.EXITS),
                Column("Returns to the VMM", top(userspace, "vcpu", of=lost), panels.EXITS),
            ),
            sort="Lost",
        ),
    )  # fmt: skip


def _userspace() -> board.Row:
    returns = queries.rate("kvm_userspace_exits_total", ALL, OVER_TIME)
    return "Out to the VMM", (
        panels.graph(
            "Returns by reason", "Returns of KVM_RUN to QEMU or another VMM. `restart`: a signal interrupted it.",
            [(total(returns, "reason"), "{{reason}}")], panels.EXITS, span=8,
        ),
        panels.graph(
            "Time by reason", "Of exits that went out to the VMM, from exit to entry, in vCPUs: already part of "
            "the time above.",
            [(total(queries.seconds(USERSPACE, ALL, OVER_TIME), "reason"), "{{reason}}")], VCPUS, stacked=True, span=8,
        ),
        panels.graph(
            "99th percentile by reason", "How long the slowest one in a hundred of these takes: the VMM's share of "
            "latency.",
            [(queries.quantile(0.99, USERSPACE, ALL, OVER_TIME, "reason"), "{{reason}}")], SECONDS, span=8,
        ),
    )  # fmt: skip


def _in_flight() -> board.Row:
    by = ("vcpu", "reason", "class")
    oldest = at_end(f"max by (vcpu) (max_over_time({IN_FLIGHT}{CHOSEN}[{WHOLE}]))")
    return "In flight", (
        panels.rows(
            "Out of the guest now", "The exit each vCPU was in at the last scrape, idle too. A vCPU that runs its "
            "guest is not listed.", by,
            (Column("Age", f"topk($top, max by ({', '.join(by)}) ({IN_FLIGHT}{ALL}))", SECONDS),),
            sort="Age", span=12, nothing="None: at the last scrape all vCPUs ran their guest.",
        ),
        panels.graph(
            "Age of exits in flight", "At each scrape, idle left out: a sample, short exits are mostly not seen. A "
            "line that climbs is a vCPU that does not come back.",
            [(top(f"max by (vcpu) ({IN_FLIGHT}{CHOSEN})", "vcpu", of=oldest), "vCPU {{vcpu}}")],
            SECONDS, steps=panels.STUCK,
        ),
    )  # fmt: skip


def build() -> model.Dashboard:
    """Return the dashboard."""
    names, hosts = (
        'label_values(kvm_vm_info{job=~"$job"}, vm)',
        'label_values(kvm_vm_info{job=~"$job", vm="$vm"}, instance)',
    )
    return board.assemble(
        dashboard.Dashboard("KVM exits: VM").uid(board.VM).refresh("30s")
        .description("One VM: where its vCPUs' time goes, which exits cost it, how long they take. From "
        "kvm-exit-exporter.")
        .with_variable(board.datasource())
        .with_variable(board.job())
        .with_variable(board.query("vm", "VM", "The VM", names))
        .with_variable(board.query("instance", "Host", "Hosts the VM ran on", hosts, all_value=".*"))
        .with_variable(board.classes())
        .with_variable(board.limit())
        .annotation(
            board.annotation(
                "New process of this VM", "blue",
                f"kvm_vm_info{ALL} unless on (job, instance, pid) last_over_time(kvm_vm_info{ALL}[1h] offset 1m)",
            )
        )
        .annotation(
            board.annotation(
                "Exporter started", "purple",
                f"changes(process_start_time_seconds{selector(*HERE[:2])}[2m]) > 0 "
                f"and on (job, instance) kvm_vm_info{ALL}",
            )
        ),
        (
            _first_look(), _where(), _why(), _how_long(), _which(), _userspace(), _in_flight(),
        ),
    )  # fmt: skip
