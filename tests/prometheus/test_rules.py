"""Check deploy/prometheus with promtool and in running servers. Recorded rates equal the page's increases, in both
forms.

In one evaluation, all rates are divided by the same time. The window begins before the first sample. At the beginning
rate() extrapolates by half a scrape interval, and at the end up to the evaluation. So the increases of the text page
between two pauses of the demo give the exact recorded values.
"""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from prometheus_client.samples import Sample

from tests.support.paths import ROOT
from tests.support.prometheus import builds, exporters
from tests.support.prometheus.server import Labels, Prometheus
from tests.support.rules import OF_THE_SPLIT

RULES = ROOT / "deploy/prometheus"
SPEED = 20
WARM_UP_SECONDS, RUNNING_SECONDS = 8.0, 5.0
"""At this speed, a fast machine replays the 41 seconds of the recording in two seconds."""
EXACT = 1e-9
WINDOW_SECONDS = 300.0
STORING_MS = 500
"""A sample has the time when its scrape started, and is stored when the scrape ends.

This is the longest time between.
"""
NOT_WORK = re.compile(r"restart|error_.*|KVM_EXIT_HLT|KVM_EXIT_AP_RESET_HOLD")

DURATION, USERSPACE = "kvm_exit_duration_seconds", "kvm_userspace_exit_duration_seconds"

Group = tuple[str, ...]


def _promtool(build: builds.Build, *arguments: str) -> str:
    done = subprocess.run(
        [build.promtool, *arguments], capture_output=True, text=True, cwd=RULES / "tests", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("suite", builds.SUITES)
@pytest.mark.parametrize("file", sorted(path.name for path in RULES.glob("*.rules.yml")))
def test_promtool_accepts_the_rules(build: Callable[[str], builds.Build], suite: str, file: str) -> None:
    assert "SUCCESS" in _promtool(build(suite), "check", "rules", "--lint-fatal", f"../{file}")


@pytest.mark.parametrize("suite", builds.SUITES)
@pytest.mark.parametrize("file", sorted(path.name for path in (RULES / "tests").glob("*.yml")))
def test_promtools_unit_tests_of_the_rules_pass(build: Callable[[str], builds.Build], suite: str, file: str) -> None:
    found = build(suite)
    if "native" in file and found.version < (2, 53):
        pytest.skip("this promtool's unit tests do not support native histograms")
    _promtool(found, "test", "rules", file)


@pytest.mark.parametrize("suite", builds.SUITES)
@pytest.mark.parametrize("file", sorted(path.name for path in RULES.glob("prometheus*.example.yml")))
def test_promtool_accepts_the_examples(build: Callable[[str], builds.Build], suite: str, file: str) -> None:
    agent = ["--agent"] if "agent" in file else []
    assert "SUCCESS" in _promtool(build(suite), "check", "config", *agent, f"../{file}")


@dataclass(frozen=True)
class Recorded:
    """A server with the rules of its form, and the pages of the two pauses."""

    prometheus: Prometheus
    native: bool
    pages: tuple[list[Sample], list[Sample]]
    since_ms: int
    """The time when the second pause began."""
    until_ms: int
    """A time in the second pause, after an evaluation of the rules. All queries are for this time."""

    def increases(
        self, name: str, by: Iterable[str], keep: Callable[[Labels], bool] = lambda _: True
    ) -> dict[Group, float]:
        """Return the summed increase of the series of `name` for which keep() holds, by the labels `by`."""
        before, after = ({tuple(s.labels.items()): s for s in page if s.name == name} for page in self.pages)
        assert before.keys() == after.keys() != set()
        total: dict[Group, float] = {}
        for key, sample in after.items():
            increase = sample.value - before[key].value
            # With a lower first value, rate() extrapolates only to the time when the counter was zero. (5 scrapes or
            # more.)
            assert before[key].value * 5 >= increase, sample
            if keep(sample.labels):
                group = tuple(sample.labels[label] for label in by)
                total[group] = total.get(group, 0.0) + increase
        return total

    def samples(self, record: str, by: Iterable[str]) -> tuple[int, dict[Group, float]]:
        """Return the time of the last recorded samples, and their values by the labels `by`."""
        found = self.prometheus.raw(record, self.until_ms)
        at = max(stamp for _, samples in found for stamp in samples)
        scraped = [stamp for stamp in self.prometheus.scrapes(self.since_ms, 1) if stamp < at]
        assert scraped, "nothing was recorded since"
        expected = {*by, "__name__", "job", "instance"}
        assert all(labels.keys() == expected for labels, _ in found)
        return at, {tuple(labels[label] for label in by): samples[at] for labels, samples in found if at in samples}

    def ends(self, at: int) -> list[int]:
        """Return the possible times of the last sample that an evaluation read.

        A scrape just before the evaluation may be stored after it.
        """
        last = max(stamp for stamp in self.prometheus.scrapes(0, 1) if stamp <= at)
        return [at, last - 1] if at - last < STORING_MS else [at]

    def per_second(self, at: int, end: int) -> float:
        """Return the factor that turns an increase into rate(), for an evaluation that read the samples up to `end`."""
        scrapes = [stamp for stamp in self.prometheus.scrapes(0, 1) if stamp <= end]
        seconds = (scrapes[-1] - scrapes[0]) / 1000
        average = seconds / (len(scrapes) - 1)
        to_end = (at - scrapes[-1]) / 1000
        assert len(scrapes) > 4
        reached = average / 2 + (to_end if to_end < average * 1.1 else average / 2)
        return (seconds + reached) / seconds / WINDOW_SECONDS

    def check(self, record: str, increases: dict[Group, float], by: Iterable[str]) -> None:
        at, found = self.samples(record, by)
        assert any(increases.values())
        each = [
            {group: value * self.per_second(at, end) for group, value in increases.items()} for end in self.ends(at)
        ]
        assert any(_close(found, expected) for expected in each), (record, found, each)

    def check_ratio(self, record: str, above: dict[Group, float], below: dict[Group, float], by: Iterable[str]) -> None:
        _, found = self.samples(record, by)
        assert found.keys() == {group for group in above if below.get(group)}
        assert found
        for group, value in found.items():
            assert math.isclose(value, above[group] / below[group], rel_tol=EXACT), (record, group)


def _close(found: dict[Group, float], expected: dict[Group, float]) -> bool:
    return found.keys() == expected.keys() and all(
        math.isclose(found[group], value, rel_tol=EXACT) for group, value in expected.items()
    )


def _wait_for_every_reason(demo: exporters.Demo) -> None:
    """Wait until the recording has been replayed once. No series begins after that."""
    wanted = {"kvm_exits_total": "exit", "kvm_userspace_exits_total": "userspace"}
    deadline = time.monotonic() + 60
    while True:
        page = demo.page()
        if all(len(exporters.counted(page, name)) == len(exporters.recorded()[kind]) for name, kind in wanted.items()):
            return
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, bool], Recorded]]:
    with ExitStack() as stack:
        demo = exporters.Demo(tmp_path_factory.mktemp("demo"), SPEED)
        stack.callback(demo.end)
        time.sleep(WARM_UP_SECONDS)
        _wait_for_every_reason(demo)
        demo.pause()
        before = demo.page()
        servers: dict[tuple[str, bool], Prometheus] = {}
        for suite in builds.SUITES:
            found = builds.find(suite)
            if isinstance(found, builds.UnavailableError):
                continue
            for native in (True, False):
                form = "native" if native else "classic"
                files = ["recording.rules.yml", f"recording-{form}.rules.yml", "alerts.rules.yml"]
                if native and found.version >= (2, 53):
                    files.append("recording-native-fleet.rules.yml")
                folder = tmp_path_factory.mktemp(f"{suite}-{form}") / "server"
                rules = [RULES / name for name in files]
                servers[suite, native] = Prometheus(found, demo.address, folder, native=native, rules=rules)
                stack.callback(servers[suite, native].stop)
        for server in servers.values():
            server.scrapes(0, 1)
        demo.resume()
        time.sleep(RUNNING_SECONDS)
        demo.pause()
        since_ms = time.time_ns() // 10**6 + 10  # Prometheus moves its time stamps by up to 2 ms
        after = demo.page()
        for server in servers.values():
            server.scrapes(since_ms, 4)  # in that time the rules are evaluated at least twice
        until_ms = time.time_ns() // 10**6
        yield {key: Recorded(server, key[1], (before, after), since_ms, until_ms) for key, server in servers.items()}


@pytest.fixture(
    scope="module",
    params=[(suite, native) for suite in builds.SUITES for native in (True, False)],
    ids=lambda param: f"{param[0]}-{'native' if param[1] else 'classic'}",
)
def recorded(
    request: pytest.FixtureRequest,
    build: Callable[[str], builds.Build],
    fleet: dict[tuple[str, bool], Recorded],
) -> Recorded:
    build(request.param[0])
    return fleet[request.param]


def _not_idle(labels: Labels) -> bool:
    return labels["class"] != "idle"


def _work(labels: Labels) -> bool:
    return not NOT_WORK.fullmatch(labels["reason"])


LEVELS: tuple[tuple[str, Group], ...] = (
    ("instance_vm_class_reason", ("vm", "class", "reason")),
    ("instance_vm_class", ("vm", "class")),
    ("instance_vm", ("vm",)),
    ("instance_class_reason", ("class", "reason")),
    ("instance_class", ("class",)),
    ("instance", ()),
)
HOST_AND_VM: tuple[tuple[str, Group], ...] = (("instance", ()), ("instance_vm", ("vm",)))


def test_recorded_exits_equal_the_page(recorded: Recorded) -> None:
    for level, by in LEVELS:
        recorded.check(f"{level}:kvm_exits:rate5m", recorded.increases("kvm_exits_total", by), by)
    for level, by in HOST_AND_VM:
        expected = recorded.increases("kvm_exits_total", by, _not_idle)
        recorded.check(f"{level}:kvm_nonidle_exits:rate5m", expected, by)


def test_recorded_userspace_exits_equal_the_page(recorded: Recorded) -> None:
    name = "kvm_userspace_exits_total"
    by: Group
    for level, by in (("instance_reason", ("reason",)), ("instance_vm_reason", ("vm", "reason"))):
        recorded.check(f"{level}:kvm_userspace_exits:rate5m", recorded.increases(name, by), by)
    for level, by in HOST_AND_VM:
        work, exits = recorded.increases(name, by, _work), recorded.increases("kvm_exits_total", by, _not_idle)
        recorded.check(f"{level}:kvm_nonidle_userspace_exits:rate5m", work, by)
        recorded.check_ratio(f"{level}:kvm_nonidle_userspace_exits_per_nonidle_exit:ratio_rate5m", work, exits, by)


def test_recorded_exit_time_equals_the_page(recorded: Recorded) -> None:
    """The sums of durations, from either form of histograms."""
    for level, by in LEVELS:
        if level in ("instance_vm_class_reason", "instance_vm_class", "instance_class"):
            recorded.check(f"{level}:{DURATION}_sum:rate5m", recorded.increases(f"{DURATION}_sum", by), by)
    by = ("vm", "reason")
    recorded.check(f"instance_vm_reason:{USERSPACE}_sum:rate5m", recorded.increases(f"{USERSPACE}_sum", by), by)
    vcpus: dict[Group, float] = {("host",): 5.0}
    for sample in recorded.pages[1]:
        if sample.name == "kvm_vcpu_guest_seconds_total":
            vcpus[sample.labels["vm"],] = vcpus.get((sample.labels["vm"],), 0.0) + 1
    for level, by in HOST_AND_VM:
        lost = recorded.increases(f"{DURATION}_sum", by, _not_idle)
        recorded.check(f"{level}:kvm_nonidle_exit_duration_seconds_sum:rate5m", lost, by)
        share = {group: seconds / vcpus[group or ("host",)] for group, seconds in lost.items()}
        recorded.check(f"{level}:kvm_nonidle_exit_duration_seconds_sum_per_vcpu:ratio_rate5m", share, by)
    recorded.check_ratio(
        "instance_vm:kvm_nonidle_userspace_exit_seconds_per_nonidle_exit_second:ratio_rate5m",
        recorded.increases(f"{USERSPACE}_sum", ("vm",), _work),
        recorded.increases(f"{DURATION}_sum", ("vm",), _not_idle),
        ("vm",),
    )


@pytest.mark.parametrize(("name", "quantile"), [("p50", 0.5), ("p99", 0.99)])
def test_recorded_quantiles_equal_the_page(recorded: Recorded, name: str, quantile: float) -> None:
    """Classic: exactly the quantile from the page's buckets. Native: in the same bucket, because it is more precise."""
    for level, by in (("instance_vm_class", ("vm", "class")), ("instance_class", ("class",))):
        buckets: dict[Group, list[tuple[float, float]]] = {}
        for labels, increase in recorded.increases(f"{DURATION}_bucket", (*by, "le")).items():
            buckets.setdefault(labels[:-1], []).append((float(labels[-1]), increase))
        _, found = recorded.samples(f"{level}:{DURATION}:{name}_rate5m", by)
        assert found.keys() == {group for group, counts in buckets.items() if max(counts)[1]}
        for group, value in found.items():
            low, high, exact = _quantile(quantile, sorted(buckets[group]))
            if recorded.native:
                assert low * (1 - EXACT) <= value <= high * (1 + EXACT), group
            else:
                assert math.isclose(value, exact, rel_tol=EXACT), group


def _quantile(quantile: float, buckets: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the bounds of the quantile's bucket, and the linearly interpolated quantile.

    The upper bound may be infinite, because native buckets exceed the last classic bound.
    """
    rank = quantile * buckets[-1][1]
    number = next(number for number, (_, count) in enumerate(buckets) if count >= rank)
    low, below = buckets[number - 1] if number else (0.0, 0.0)
    high, count = buckets[number]
    if math.isinf(high):
        return low, high, low
    return low, high, low + (high - low) * (rank - below) / (count - below)


def test_recorded_buckets_of_hosts_equal_the_page(recorded: Recorded) -> None:
    if not recorded.native:
        by = ("class", "le")
        increases = recorded.increases(f"{DURATION}_bucket", by)
        recorded.check(f"instance_class:{DURATION}_bucket:rate5m", increases, by)
    elif recorded.prometheus.build.version >= (2, 53):  # raw() gives a histogram's count
        increases = recorded.increases(f"{DURATION}_count", ("class",))
        recorded.check(f"instance_class:{DURATION}:rate5m", increases, ("class",))


def test_recorded_guest_time_equals_the_samples(recorded: Recorded) -> None:
    """Guest time also grows during the pauses, so it is compared with the stored samples. The host has five vCPUs."""
    at, seconds = recorded.samples("instance_vm:kvm_vcpu_guest_seconds:rate5m", ("vm",))
    _, vcpus = recorded.samples("instance_vm:kvm_vcpus:count", ("vm",))
    _, shares = recorded.samples("instance_vm:kvm_vcpu_guest_seconds_per_vcpu:ratio_rate5m", ("vm",))
    _, host = recorded.samples("instance:kvm_vcpu_guest_seconds_per_vcpu:ratio_rate5m", ())
    assert sum(vcpus.values()) == 5
    assert shares == {group: seconds[group] / vcpus[group] for group in seconds}
    assert math.isclose(host[()], sum(seconds.values()) / 5, rel_tol=EXACT)
    each = []
    for end in recorded.ends(at):
        expected: dict[Group, float] = {}
        for labels, samples in recorded.prometheus.raw("kvm_vcpu_guest_seconds_total", recorded.until_ms):
            values = [value for stamp, value in samples.items() if stamp <= end]
            increase = max(values) - min(values)
            assert min(values) * 5 >= increase
            expected[labels["vm"],] = expected.get((labels["vm"],), 0.0) + increase * recorded.per_second(at, end)
        each.append(expected)
    assert any(_close(seconds, expected) for expected in each), (seconds, each)


def test_recorded_series_of_the_exporter_have_the_expected_values(recorded: Recorded) -> None:
    _, cpu = recorded.samples("instance:kvm_exit_exporter_cpu_seconds:rate5m", ())
    assert 0 < cpu[()] < 1
    assert recorded.samples("instance:kvm_exit_exporter_dropped_exits:rate5m", ())[1] == {(): 0.0}
    assert recorded.samples("instance:kvm_exit_exporter_bpf_run_seconds_per_exit:ratio_rate5m", ())[1] == {(): 0.0}
    assert recorded.samples("instance:kvm_exit_exporter_tracked_vcpus_per_slot:ratio", ())[1] == {(): 5 / 4096}
    values = {sample.name: sample.value for sample in recorded.pages[1]}
    cells = values["kvm_exit_exporter_cells_in_use"] / values["kvm_exit_exporter_cells"]
    assert recorded.samples("instance:kvm_exit_exporter_cells_in_use_per_cell:ratio", ())[1] == {(): cells}


def test_every_rule_has_a_result(recorded: Recorded) -> None:
    """No rule fails. Only the rules about waiting and sleep have no result, because a recording does not tell it.

    Two exporter alerts are pending: Replay, and Absent, because the job in this test has another name.
    """
    groups = recorded.prometheus.api("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    for rule in rules:
        if rule["type"] == "recording":
            assert bool(recorded.prometheus.query(rule["name"])) == (not OF_THE_SPLIT.search(rule["name"])), rule[
                "name"
            ]
    pending = {alert["labels"]["alertname"] for alert in recorded.prometheus.api("alerts")["alerts"]}
    assert {name for name in pending if name.startswith("KvmExitExporter")} == {
        "KvmExitExporterReplay",
        "KvmExitExporterAbsent",
    }
    assert recorded.prometheus.complaints() == []
