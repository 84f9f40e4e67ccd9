"""The formula and the table in docs/metrics.md give the number of series that rendered pages have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.options import Classic, Histogram, Level
from exporter.metrics.exposition.buckets import ClassicBounds
from exporter.metrics.kvm import Identified
from exporter.model.reason import Reason, Space
from exporter.model.records import NO_PARTS, ExitInProgress, TimeParts
from exporter.model.vm import Vcpu, Vm
from tests.support import pages
from tests.support.exits import WEB, cell, families, metrics, of, record
from tests.support.machine import bucket
from tests.support.pages import DEFAULT, OPENMETRICS, PROTOBUF, TEXT
from tests.support.paths import ROOT

PAGE = ROOT / "docs/metrics.md"
VCPUS_OF_A_VM = 4


def name(space: int, code: int) -> Reason:
    """Return a name for a code. The names have three classes."""
    return Reason(f"{'OUT' if space == Space.USERSPACE else 'EXIT'}_{code}", f"class_{code % 3}")


def host(vcpus: int, reasons: int, userspace: int, busy: int, *, split: bool = False) -> list[Identified]:
    """Return `vcpus` vCPUs, each with the given numbers of reasons. The first `busy` vCPUs are in an exit.

    With `split`, all reasons have all parts.
    """
    parts, wait_ns = (TimeParts(1, 2, 3), 1) if split else (NO_PARTS, None)
    cells = [cell(Space.VMX, code, 1, {code: 1}, 3, parts=parts) for code in range(reasons)]
    cells += [cell(Space.USERSPACE, code, 1, {code: 1}, 3, parts=parts) for code in range(userspace)]
    made: list[Identified] = []
    for number in range(vcpus):
        pid = 1000 * (1 + number // VCPUS_OF_A_VM)
        age = ExitInProgress(Space.VMX, 0, 1) if number < busy else None
        each = record(pid, pid + 1 + number % VCPUS_OF_A_VM, *cells, wait_ns=wait_ns, in_progress=age)
        made.append((each, Vcpu(Vm(pid, f"vm-{pid}", "", "qemu"), str(number % VCPUS_OF_A_VM))))
    return made


def formula(vcpus: int, reasons: int, level: Level, of_histogram: int, in_progress: int) -> int:
    """Return the number of series, computed with the formula of docs/metrics.md. `reasons` is R + U."""
    vms = -(-vcpus // VCPUS_OF_A_VM)
    lines = {"vcpu": vcpus, "vm": vms, "off": 0}
    counters, histograms = lines[level.counters], lines[level.histograms]
    return counters * (reasons + 1) + histograms * reasons * of_histogram + in_progress + vms


def times(vcpus: int, reasons: int, userspace: int, level: Level) -> int:
    """Return the part of the formula for a host that splits time: W + T (2 R' + 3 U')."""
    if level.time == "off":
        return 0
    lines = {"vcpu": vcpus, "vm": -(-vcpus // VCPUS_OF_A_VM)}
    return vcpus + lines[level.time] * (2 * reasons + 3 * userspace)


def rendered(
    vcpus: list[Identified],
    level: Level,
    accept: str,
    histogram: Histogram,
    allow: Sequence[str] = (),
    *,
    both: bool = False,
) -> int:
    """Return the number of series that Prometheus makes from a page. `both` is its option scrape_classic_histograms."""
    made = metrics(level, name, allow=allow)
    made.update(vcpus, [])
    body = pages.page(made.families(vcpus), accept, histogram=histogram).body
    if accept != PROTOBUF:
        return sum(not line.startswith(b"#") for line in body.splitlines())
    metrics_found = [metric for family in pages.read_protobuf(body).values() for metric in family.metric]
    native = [metric for metric in metrics_found if metric.histogram.HasField("schema")]
    classic = [metric for metric in metrics_found if metric.histogram.bucket and (both or metric not in native)]
    plain = sum(not metric.HasField("histogram") for metric in metrics_found)
    # Prometheus makes a series of each classic bucket, and also of +Inf, count and sum.
    return plain + len(native) + sum(len(metric.histogram.bucket) + 3 for metric in classic)


LEVELS = st.sampled_from(["vcpu", "vm", "off"])


@given(
    vcpus=st.integers(0, 9),
    reasons=st.integers(1, 9),
    userspace=st.integers(1, 4),
    busy=st.integers(0, 9),
    level=st.builds(Level, LEVELS, LEVELS, LEVELS),
    split=st.booleans(),
    factor=st.sampled_from([2, 4, 16]),
)
def test_the_formula_gives_the_number_of_series_of_a_page(
    *, vcpus: int, reasons: int, userspace: int, busy: int, level: Level, split: bool, factor: int
) -> None:
    busy = min(busy, vcpus)
    made, classic = host(vcpus, reasons, userspace, busy, split=split), Classic(factor)
    of_time = times(vcpus, reasons, userspace, level) if split else 0
    bounds = {2: 25, 4: 13, 16: 7}[factor]
    for accept in (TEXT, OPENMETRICS):
        expected = formula(vcpus, reasons + userspace, level, bounds + 3, busy) + of_time
        assert rendered(made, level, accept, Histogram(classic=classic)) == expected
    for histogram, both, of_histogram in (
        (Histogram(classic=classic), False, 1),
        (Histogram(classic=classic), True, bounds + 4),
        (Histogram(classic=Classic(factor, in_protobuf=False)), False, 1),
        (Histogram(classic=Classic(factor, in_protobuf=False)), True, 1),
        (Histogram(native=False, classic=classic), False, bounds + 3),
    ):
        expected = formula(vcpus, reasons + userspace, level, of_histogram, busy) + of_time
        assert rendered(made, level, PROTOBUF, histogram, both=both) == expected


BY_VCPU, BY_VM = Level("vcpu", "vcpu"), Level("vm", "vm")
ALLOW = ["EXIT_0", "EXIT_1", "OUT_0"]
BOTH = "both forms (`scrape_classic_histograms`)"
WIDE = Histogram(classic=Classic(16))
# Each line of the table has a level, a format, an allow list, histogram options, and R, U and h of the formula.
SHAPES: dict[str, tuple[Level, str, list[str], Histogram, tuple[int, int, int]]] = {
    "default, in text": (BY_VCPU, TEXT, [], DEFAULT, (8, 2, 16)),
    "default, native": (BY_VCPU, PROTOBUF, [], DEFAULT, (8, 2, 1)),
    BOTH: (BY_VCPU, PROTOBUF, [], DEFAULT, (8, 2, 17)),
    "`factor: 16`, in text": (BY_VCPU, TEXT, [], WIDE, (8, 2, 10)),
    "histograms per VM, in text": (Level("vcpu", "vm"), TEXT, [], DEFAULT, (8, 2, 16)),
    "all per VM, in text": (BY_VM, TEXT, [], DEFAULT, (8, 2, 16)),
    "all per VM, native": (BY_VM, PROTOBUF, [], DEFAULT, (8, 2, 1)),
    "allow list, in text": (BY_VCPU, TEXT, ALLOW, DEFAULT, (5, 2, 16)),
    "allow list, native": (BY_VCPU, PROTOBUF, ALLOW, DEFAULT, (5, 2, 1)),
    "allow list, all per VM, native": (BY_VM, PROTOBUF, ALLOW, DEFAULT, (5, 2, 1)),
}
SIZES = [100, 1000, 5000]


def table() -> Iterator[tuple[str, list[int]]]:
    """Yield each line of the table: the shape of a host, and the numbers of series of 100, 1,000 and 5,000 vCPUs."""
    lines = PAGE.read_text().split("| shape | 100 vCPUs | 1,000 vCPUs | 5,000 vCPUs |\n")[1].split("\n\n")[0]
    for line in lines.splitlines()[1:]:
        shape, *numbers = (part.strip() for part in line.strip("|").split("|"))
        yield shape, [int(number.replace(",", "")) for number in numbers]


def test_the_table_has_the_shapes_of_this_test() -> None:
    assert [shape for shape, _ in table()] == list(SHAPES)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_table_has_the_numbers_of_the_formula_and_of_a_page(shape: str) -> None:
    level, accept, allow, served, (reasons, userspace, of_histogram) = SHAPES[shape]
    told = dict(table())[shape]
    assert told == [formula(size, reasons + userspace, level, of_histogram, size) for size in SIZES]
    assert told[0] == rendered(host(100, 8, 2, 100), level, accept, served, allow, both=shape == BOTH)


def test_the_largest_quantiles_are_told() -> None:
    """A pause of three days is in the overflow bucket. Its sum is exact; its quantile is a bound far below it."""
    paused_ns = 3 * 86_400 * 10**9
    paused = of(WEB, record(100, 101, cell(Space.VMX, 1, 1, {bucket(paused_ns): 1}, paused_ns)))
    (metric,) = pages.read_protobuf(pages.page(families(paused), PROTOBUF).body)["kvm_exit_duration_seconds"].metric
    (span,) = metric.histogram.positive_span
    assert metric.histogram.sample_sum == 259_200
    largest = round(2 ** (span.offset / 2**metric.histogram.schema))
    classic = ClassicBounds.of(Classic()).bounds[-1]
    assert f"{largest:,} s with native histograms" in PAGE.read_text()
    assert f"{classic:.0f} s with the default classic buckets" in PAGE.read_text()
    for rules, bound in (("native", f"{largest:,}"), ("classic", f"{classic:.0f}")):
        assert f"No quantile exceeds {bound} s" in (ROOT / f"deploy/prometheus/recording-{rules}.rules.yml").read_text()


def test_each_metric_is_described() -> None:
    described = PAGE.read_text()
    for family in metrics().families([]):
        assert f"### `{family.name}`" in described
