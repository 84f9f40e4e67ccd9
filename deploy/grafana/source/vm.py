"""The dashboard of one VM: where the time of its vCPUs goes and why, how long exits take, and which vCPU hangs now."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.source import board, panels, queries
from deploy.grafana.source.panels import SECONDS, SHARE, VCPUS, Column
from deploy.grafana.source.queries import EXITS, OVER_TIME, USERSPACE, WHOLE, at_end, or_zero, selector, top, total

HERE = ('job=~"$job"', 'instance=~"$instance"', 'vm="$vm"')
ALL = selector(*HERE)
CHOSEN = selector(*HERE, queries.CLASSES)
VMM = selector(*HERE, queries.OF_THE_VMM)
IDLE = selector(*HERE, 'class="idle"')

LOST = queries.seconds(EXITS, CHOSEN, WHOLE)
LOST_NOW = queries.seconds(EXITS, CHOSEN, OVER_TIME)
GUEST = queries.rate("kvm_vcpu_guest_seconds_total", ALL, WHOLE)
GUEST_NOW = queries.rate("kvm_vcpu_guest_seconds_total", ALL, OVER_TIME)
WAIT = queries.rate(queries.EXIT_WAIT, CHOSEN, WHOLE)
WAIT_NOW = queries.rate(queries.EXIT_WAIT, CHOSEN, OVER_TIME)
EXIT_RATE = queries.rate("kvm_exits_total", CHOSEN, WHOLE)
IN_FLIGHT = "kvm_vcpu_exit_in_progress_seconds"

LOST_TEXT = "Time between an exit and the next guest entry, without idle time"


def _with_guest(guest: str, seconds: str, *by: str) -> str:
    """Return the time of each class, with the time in the guest as one more class."""
    return f'label_replace({total(guest, *by)}, "class", "in guest", "", "") or {total(seconds, *by, "class")}'


def _overhead(*by: str) -> str:
    return f"{total(LOST, *by)} / ({total(LOST, *by)} + {total(GUEST, *by)} > 0)"


def _first_look() -> board.Row:
    mean = "Mean over the time range."
    per_process = total(LOST, "instance", "pid", "vm"), total(GUEST, "instance", "pid", "vm")
    identity = f"max by (instance, pid, vm, uuid, vmm) (last_over_time(kvm_vm_info{ALL}[{WHOLE}]))"
    joined = [f"{part} * on (instance, pid, vm) group_left (uuid, vmm) {identity}" for part in per_process]
    threads = selector(*HERE, 'tid!=""')
    return "Overview", (
        panels.number(
            "vCPUs", "vCPU threads in the metrics, including threads that ended in the last minutes. Not known at "
            "`level: vm`.", f"count(kvm_vcpu_guest_seconds_total{threads})", "none", nothing="level: vm", span=3,
        ),
        panels.number("In guest", f"Time in guest mode, in vCPUs. {mean}", total(GUEST), VCPUS, span=3),
        panels.number("Lost", f"{LOST_TEXT}, in vCPUs. {mean}", or_zero(total(LOST)), VCPUS, span=3),
        panels.number(
            "Overhead", f"Time lost, divided by the time that the VM wanted to run (lost plus in guest). {mean}",
            or_zero(_overhead()), SHARE, steps=panels.OVERHEAD, span=3,
        ),
        panels.number(
            "Idle", f"Time that its vCPUs slept, in vCPUs. {mean} A sleep is counted when it ends.",
            or_zero(total(queries.seconds(EXITS, IDLE, WHOLE))), VCPUS, span=3,
        ),
        panels.number("Exits", f"Exits of the chosen classes. {mean}", or_zero(total(EXIT_RATE)), panels.EXITS, span=3),
        panels.number(
            "99th percentile", "One exit in a hundred took longer in the time range, without idle.",
            queries.quantile(0.99, EXITS, CHOSEN, WHOLE), SECONDS, nothing="no exits", span=3,
        ),
        panels.number(
            "Longest exit in flight", "Age of the oldest exit that a vCPU is in now, without idle.",
            or_zero(f"max({IN_FLIGHT}{CHOSEN})"), SECONDS, steps=panels.STUCK, span=3,
        ),
        panels.rows(
            "Processes of this VM", f"A restart or a migration makes a new process. The unit of times is vCPUs. {mean}",
            ("instance", "pid", "vm", "uuid", "vmm"),
            (Column("Lost", joined[0], VCPUS, decimals=3), Column("In guest", joined[1], VCPUS, decimals=2)),
            sort="In guest", height=5,
        ),
    )  # fmt: skip


def _where() -> board.Row:
    per_vcpu = _with_guest(GUEST, queries.seconds(EXITS, ALL, WHOLE), "vcpu")
    return "Where the time goes", (
        panels.graph(
            "Time of all vCPUs", "Time in the guest, in each class of exits, and idle, in vCPUs. The sum is the number "
            "of vCPUs. An exit is counted when it ends, so a long sleep shows as a gap and then a peak.",
            [(_with_guest(GUEST_NOW, queries.seconds(EXITS, ALL, OVER_TIME)), "{{class}}")],
            VCPUS, stacked=True, by_class=True, height=10,
        ),
        panels.bars(
            "Time of each vCPU", "The same times for each of the vCPUs that lost most. Mean over the time range. A bar "
            "of 100 % is the vCPU's whole time.",
            top(per_vcpu, "vcpu", of=total(LOST, "vcpu")), "vcpu", SHARE, span=12,
        ).height(10),
        panels.graph(
            "Where the lost time went", "The time lost in all classes except idle, in vCPUs. Waiting: the thread could "
            "run, but had no CPU: the host is overcommitted, or a CPU quota is used up. Asleep: the thread slept in an "
            "exit. Kernel and VMM: it was on a CPU. Empty if the exporter cannot split the time.",
            queries.lost_split(HERE, OVER_TIME), VCPUS, stacked=True,
        ),
        panels.graph(
            "Where the idle time went", "The time that the guest was idle, in vCPUs. Polling: the kernel waits on the "
            "CPU for an interrupt before the thread sleeps (halt_poll_ns). Waiting: the guest was awake, but its "
            "thread had no CPU yet.",
            queries.idle_split(HERE, OVER_TIME), VCPUS, stacked=True,
        ),
    )  # fmt: skip


def _why() -> board.Row:
    by = ("reason", "class")
    share = f"{total(LOST, *by)} / on () group_left () ({total(LOST)} > 0)"
    return "Exit reasons", (
        panels.rows(
            "Reasons", "Each exit reason over the time range: time lost in vCPUs, its share of all time lost, exits, "
            "and the mean and quantiles of durations.",
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
            "Time lost by reason", f"{LOST_TEXT}, in vCPUs. The reasons that cost most over the time range.",
            [(top(total(LOST_NOW, "reason"), "reason", of=at_end(total(LOST, "reason"))), "{{reason}}")],
            VCPUS, stacked=True,
        ),
        panels.graph(
            "Exits by reason", "Exits per second. The most frequent reasons of the time range.",
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
        panels.graph(
            "Waiting for a CPU by reason", "The part of each reason's time in which the thread could run but had no "
            "CPU, in vCPUs, without idle. The reason is not the cause: a thread loses its CPU in any exit.",
            [(top(total(WAIT_NOW, "reason"), "reason", of=at_end(total(WAIT, "reason"))), "{{reason}}")],
            VCPUS, stacked=True, span=24,
        ),
    )  # fmt: skip


def _how_long() -> board.Row:
    return "How long exits take", (
        panels.durations(
            "Durations of exits", "Time from an exit to the next guest entry, without idle. The colour shows exits per "
            "second in each bucket. Two bands mean two kinds of exits. Choose a class to separate them.",
            queries.heatmap(EXITS, CHOSEN, OVER_TIME),
        ),
        panels.graph(
            "Quantiles", "Quantiles of the durations of all exits of the chosen classes. Native histograms show at "
            "most 4,871 s, classic buckets by default at most 16 s. Means and times are right for longer exits too.",
            [
                (queries.quantile(phi, EXITS, CHOSEN, OVER_TIME), name)
                for phi, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))
            ],
            SECONDS,
        ),
        panels.graph(
            "99th percentile by class", "One exit in a hundred takes longer than this value.",
            [(queries.quantile(0.99, EXITS, CHOSEN, OVER_TIME, "class"), "{{class}}")], SECONDS, by_class=True,
        ),
    )  # fmt: skip


def _which() -> board.Row:
    lost = total(LOST, "vcpu")
    most = at_end(lost)
    wait = queries.rate(queries.VCPU_WAIT, ALL, WHOLE)
    wait_now = queries.rate(queries.VCPU_WAIT, ALL, OVER_TIME)
    userspace = total(queries.rate("kvm_userspace_exits_total", ALL, WHOLE), "vcpu")
    return "vCPUs compared", (
        panels.graph(
            "Time lost by vCPU", f"{LOST_TEXT}, as a share of the vCPU's time. The vCPUs that lost most over the time "
            "range.",
            [(top(total(LOST_NOW, "vcpu"), "vcpu", of=most), "vCPU {{vcpu}}")], SHARE,
        ),
        panels.graph(
            "In guest by vCPU", "Time in guest mode of the same vCPUs. A vCPU at 100 % is CPU-bound. A vCPU at 0 % "
            "sleeps, is stuck or is switched off.",
            [(top(total(GUEST_NOW, "vcpu"), "vcpu", of=most), "vCPU {{vcpu}}")], SHARE,
        ),
        panels.graph(
            "Waiting for a CPU by vCPU", "Time in which the vCPU's thread could run but had no CPU, as a share of the "
            "vCPU's time. The vCPUs that waited most over the time range.",
            [(top(total(wait_now, "vcpu"), "vcpu", of=at_end(total(wait, "vcpu"))), "vCPU {{vcpu}}")],
            SHARE, steps=panels.WAITING, span=24,
        ),
        panels.rows(
            "Each vCPU", "The vCPUs that lost most. Means over the time range. If one vCPU differs from the others, it "
            "has the interrupts, the device queue or the busy neighbour on its CPU.",
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
    return "Returns to the VMM", (
        panels.graph(
            "Returns by reason", "Returns of KVM_RUN to QEMU or another VMM. `restart`: a signal interrupted KVM_RUN.",
            [(total(returns, "reason"), "{{reason}}")], panels.EXITS, span=8,
        ),
        panels.graph(
            "Time by reason", "Time of the exits that the VMM handled, from exit to entry, in vCPUs. It is part of the "
            "times above. Returns after a signal or an error are left out.",
            [(total(queries.seconds(USERSPACE, VMM, OVER_TIME), "reason"), "{{reason}}")], VCPUS, stacked=True, span=8,
        ),
        panels.graph(
            "99th percentile by reason", "One in a hundred of the exits that the VMM handles takes longer.",
            [(queries.quantile(0.99, USERSPACE, VMM, OVER_TIME, "reason"), "{{reason}}")], SECONDS, span=8,
        ),
    )  # fmt: skip


def _in_flight() -> board.Row:
    by = ("vcpu", "reason", "class")
    oldest = at_end(f"max by (vcpu) (max_over_time({IN_FLIGHT}{CHOSEN}[{WHOLE}]))")
    return "Exits in flight", (
        panels.rows(
            "Out of the guest now", "The exit that each vCPU was in at the last scrape, with idle. A vCPU that runs "
            "its guest is not listed.", by,
            (Column("Age", f"topk($top, max by ({', '.join(by)}) ({IN_FLIGHT}{ALL}))", SECONDS),),
            sort="Age", span=12, nothing="None: all vCPUs ran their guest at the last scrape.",
        ),
        panels.graph(
            "Age of exits in flight", "Ages at each scrape, without idle. Scrapes miss most short exits. A rising line "
            "is a vCPU that does not return to its guest.",
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
        .description("One VM: where the time of its vCPUs goes, which exits cost most, how long they take. Data: "
        "kvm-exit-exporter.")
        .with_variable(board.datasource())
        .with_variable(board.job())
        .with_variable(board.query("vm", "VM", "The VM", names))
        .with_variable(board.query("instance", "Host", "Hosts that the VM ran on", hosts, all_value=".*"))
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
