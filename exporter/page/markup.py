"""The part of the page that changes, as HTML. Names are escaped and cut. The VMs take at most BUDGET bytes."""

from __future__ import annotations

import html
from collections.abc import Sequence

from exporter.common.text import count, printable
from exporter.page.drawing import bar, duration, histogram
from exporter.page.view import STUCK_NS, PageView, Stuck, Sum, TimeSplit, VmView, lost, spent, sum_of
from exporter.readings.difference import ReasonDifference

VMS, REASONS, STUCK, OPEN = 20, 8, 10, 3
"""How many VMs, reasons of a VM and stuck vCPUs are shown, and how many VMs show their reasons from the beginning."""
BUDGET = 35_500
"""Limit of the VMs, in bytes. If that is not enough for all reasons, VMs of a lower rank show fewer reasons."""
_NAME, _REASON = 40, 28
"""Longest name and longest reason, in characters."""
_AROUND_REASONS = 400
"""Bytes of the HTML around the rows of a VM."""

_COLOURS = (("w", "waiting"), ("s", "asleep"), ("k", "kernel"), ("v", "vmm"))
"""The classes of the colours of a TimeSplit's members."""

_HEAD = (
    "<thead><tr><th scope=col>Reason<th scope=col>Lost<th scope=col>Exits/s{}<th scope=col>p50<th scope=col>p99"
    "<th scope=col><span class=axis><i>1&nbsp;µs</i><i>1&nbsp;ms</i><i>1&nbsp;s</i></span><tbody>"
)
_HEAD_OF_PARTS = "<th scope=col>Waiting<th scope=col>Asleep"
# To save bytes, elements that a page may have a hundred times lack the closing tags and quotes that HTML does not need.


def fragment(view: PageView) -> str:
    """The part of the page that changes."""
    return _health(view) + _stuck(view.stuck) + _vms(view)


def safe(text: str, most: int) -> str:
    """A string from an untrusted source, made safe for HTML and cut to `most` characters.

    Control and bidirectional characters become escapes.
    """
    shown = printable(text[: most + 1])
    if len(shown) > most or len(text) > most:
        shown = shown[: most - 1] + "…"
    return html.escape(shown)


def figure(vcpus: float) -> str:
    """A number of vCPUs in at most five characters, or <0.001."""
    if vcpus >= 999.5:
        return count(vcpus)
    if 0 < vcpus < 0.0005:
        return "<0.001"
    places = 1 if vcpus >= 9.995 else 2 if vcpus >= 0.0995 else 3
    return f"{vcpus:.{places}f}" if vcpus else "0"


def span(ns: int) -> str:
    """The time over which rates are averages: `4.0 s`, `12 min`, `3 h 20 min`, `9 d 4 h`."""
    seconds = ns / 1e9
    if seconds < 99.95:
        return f"{seconds:.1f}\u00a0s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}\u00a0min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}\u00a0h {minutes}\u00a0min"
    return f"{hours // 24}\u00a0d {hours % 24}\u00a0h"


def _vcpus(number: float) -> str:
    return html.escape(figure(number))


def _number(number: int, one: str) -> str:
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"


def _health(view: PageView) -> str:
    health = view.health
    problems = list(view.not_counted)
    if not health.up:
        problems.append("Nothing is counted: KVM is not attached yet, or the last collection failed; the log says why.")
    if health.collect_errors:
        problems.append(f"{_number(health.collect_errors, 'collection')} failed since the start; the log says why.")
    if health.lookups_pending:
        vcpus = _number(health.lookups_pending, "vCPU")
        problems.append(f"The VM of {vcpus} is still being looked up; its pid is shown until then.")
    warning = "".join(f"<li>{html.escape(line)}</li>" for line in problems)
    return (f'<ul class="box warn" id="wrong">{warning}</ul>' if warning else "") + _tiles(view)


def _tiles(view: PageView) -> str:
    whole = view.total
    vcpus = sum(vm.vcpus for vm in view.vms if vm.alive)
    running = sum(vm.alive for vm in view.vms)
    waiting = (
        (("Waiting for a CPU", f"{_vcpus(view.waiting)} <small>vCPUs</small>"),) if view.waiting is not None else ()
    )
    tiles = (
        ("Lost to exits", f"{_vcpus(whole.lost)} <small>of {_number(vcpus, 'vCPU')}</small>"),
        *waiting,
        ("Exits", f"{count(whole.rate)}<small>/s</small>"),
        ("VMs", f"{running:,}"),
        ("Stuck over 1&nbsp;s", f"{len(view.stuck):,} <small>{'vCPU' if len(view.stuck) == 1 else 'vCPUs'}</small>"),
    )
    health = view.health
    state = (
        "up" if health.up else "<b>down</b>",
        _number(health.collect_errors, "collection error"),
        _number(health.lookups_pending, "look-up") + " pending",
    )
    figures = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)
    return f'<dl id="tiles">{figures}</dl><p id="state">Exporter {" · ".join(state)}</p>'


def _stuck(stuck: Sequence[Stuck]) -> str:
    if not stuck:
        return ""
    rows = "".join(
        f'<tr><th scope="row"><bdi>{safe(each.vm, _NAME)}</bdi></th>'
        f"<td>{safe(each.vcpu, 8) or f'tid {each.tid}'}</td><td>{safe(each.reason, _REASON)}</td>"
        f"<td>{duration(each.age_ns)}</td></tr>"
        for each in stuck[:STUCK]
    )
    more = f"<p>and {_number(len(stuck) - STUCK, 'more vCPU')}</p>" if len(stuck) > STUCK else ""
    return (
        f'<section class="box bad" id=stuck><h2>In an exit for more than {STUCK_NS // 10**9}\u00a0s, and not idle</h2>'
        '<table><thead><tr><th scope="col">VM</th><th scope="col">vCPU</th><th scope="col">Reason</th>'
        f'<th scope="col">For</th></tr></thead><tbody>{rows}</tbody></table>{more}</section>'
    )


def _vms(view: PageView) -> str:
    over = span(view.elapsed_ns)
    when = f"averages since counting began, {over} ago" if view.whole else f"over the last {over}"
    most = max((vm.lost for vm in view.vms), default=0.0)
    made: list[str] = []
    left, shown = BUDGET, view.vms[:VMS]
    for rank, vm in enumerate(shown):
        # The open VMs have room for all their reasons. The other VMs share the remaining bytes.
        part = _vm(vm, most, left if rank < OPEN else left // (len(shown) - rank), opened=rank < OPEN)
        left -= len(part.encode(errors="replace"))
        made.append(part)
    rest = sum_of(view.vms[VMS:])
    more = f'<p class="more">and {_number(rest.number, "more VM")}: {_sum(rest)}</p>' if rest.number else ""
    none = '<p class="more">No exit was seen yet. Is a VM running on this host?</p>' if not view.vms else ""
    split = " class=split" if view.waiting is not None else ""
    return (
        f'<h2 id="over">VMs by time lost to exits <small>{when}</small></h2>'
        f'<div id="vms"{split}>{"".join(made)}</div>{more}{none}'
    )


def _sum(rest: Sum) -> str:
    return f"{_vcpus(rest.lost)} vCPUs lost, {count(rest.rate)} exits/s"


def _vm(vm: VmView, most: float, room: int, *, opened: bool) -> str:
    about = [f"pid {vm.pid}", safe(vm.vmm, 16), _number(vm.vcpus, "vCPU") if vm.alive else "ended"]
    split = vm.split
    parts = [(name, getattr(split, part) / most) for name, part in _COLOURS] if split and most else []
    head = (
        f"<details id=vm-{vm.pid}{' open' if opened else ''}><summary><b><bdi>{safe(vm.name, _NAME)}</bdi></b>"
        f"<small>{' · '.join(filter(None, about))}</small>{bar(vm.lost / most if most else 0.0, parts)}"
        f"<span class=lost>{_vcpus(vm.lost)} vCPUs</span>"
        f"<span class=rate>{count(vm.rate)} exits/s</span></summary>{_where(split) if split else ''}"
    )
    return f"{head}{_reasons(vm, room - len(head.encode(errors='replace')))}</details>"


def _where(split: TimeSplit) -> str:
    """A line that says where the lost time went, and whether the guest's idle time was polling or sleep."""
    said = [
        f"<i class={name}>{word}</i> <b>{_vcpus(getattr(split, part))}</b>"
        for (name, part), word in zip(_COLOURS, ("Waiting for a CPU", "asleep", "kernel", "VMM"))
    ]
    idle = f"asleep <b>{_vcpus(split.idle_asleep)}</b>, polling <b>{_vcpus(split.polling)}</b>"
    if split.idle_waiting:
        idle += f", waiting <b>{_vcpus(split.idle_waiting)}</b>"
    return f"<p class=where>{' '.join(said)} · idle: {idle}</p>"


def _reasons(vm: VmView, room: int) -> str:
    if not vm.rows:
        return "<p class=more>no exit in this time</p>"
    room -= _AROUND_REASONS
    made = []
    for row in vm.rows[:REASONS]:
        part = _reason(row, split=bool(vm.split))
        room -= len(part.encode(errors="replace"))
        if room < 0:
            break
        made.append(part)
    table = f"<table>{_HEAD.format(_HEAD_OF_PARTS if vm.split else '')}{''.join(made)}</table>" if made else ""
    rest = vm.rows[len(made) :]
    if not rest:
        return table
    others = Sum(len(rest), sum(lost(row) for row in rest if not row.idle), sum(row.rate for row in rest))
    return f"{table}<p class=more>and {_number(others.number, 'more reason')}: {_sum(others)}</p>"


def _reason(row: ReasonDifference, *, split: bool) -> str:
    kind = " class=idle" if row.idle else ""
    parts = ""
    if split and row.parts:
        parts = f"<td>{_vcpus(spent(row, row.parts.wait))}<td>{_vcpus(spent(row, row.parts.sleep))}"
    return (
        f"<tr{kind}><th scope=row>{safe(row.reason, _REASON)} <i>{safe(row.klass, 10)}</i>"
        f"<td>{_vcpus(lost(row))}<td>{count(row.rate)}{parts}<td>{duration(row.p50_ns)}<td>{duration(row.p99_ns)}"
        f"<td>{histogram(row)}"
    )
