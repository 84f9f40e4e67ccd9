"""Configurations are read from files and flags. Every valid configuration can be written and read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import values
from exporter.config.load import describe, flag_name, load, option_text, parse, reloaded, with_flags
from exporter.config.options import (
    LIVE,
    OPTIONS,
    Classic,
    Config,
    ConfigError,
    Histogram,
    Level,
    Limits,
    Log,
    Reasons,
    Web,
)
from tests.support.paths import ROOT


def leaves(node: Any, section: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            found.update(leaves(value, f"{section}{item.name}."))
        else:
            found[section + item.name] = value
    return found


def microseconds(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda us: us / 1_000_000)


# Characters are chosen by category. from_regex() would check each of a million characters, which takes half a minute.
PRINTABLE = st.characters(exclude_categories=["C", "Z"], include_characters=" ")
NAME_OF_A_FILE = st.characters(exclude_categories=["C", "Z"], include_characters=" ", exclude_characters="/")
PATHS = st.text(NAME_OF_A_FILE, min_size=1).map(lambda name: f"/{name}")
HOSTS = st.one_of(
    st.just(""),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}{'%eth0' if address.is_link_local else ''}]"),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z][a-z0-9-]{0,20}){0,2}", fullmatch=True),
)
ADDRESSES = st.lists(
    st.one_of(
        st.tuples(HOSTS, st.integers(0, 65535)).map(lambda pair: f"{pair[0]}:{pair[1]}"),
        PATHS.map(lambda path: f"unix:{path}").filter(lambda address: len(address.encode()) <= 112),
    ),
    min_size=1,
    max_size=4,
    unique=True,
).map(tuple)
LEVELS = st.sampled_from(["vcpu", "vm", "off"])
REASONS = st.lists(st.text(PRINTABLE, min_size=1), unique=True)
NAMES = REASONS.map(lambda names: tuple(name for name in names if name.strip()))
CONFIGS = st.builds(
    Config,
    web=st.builds(
        Web,
        listen_address=ADDRESSES,
        telemetry_path=st.from_regex(r"(/[A-Za-z0-9_~!$&'()*+,;=:@]+){1,3}/?", fullmatch=True),
        gzip=st.booleans(),
        config_file=st.one_of(st.just(""), PATHS),
        max_requests=st.integers(1, 1000),
        host_names=st.lists(st.from_regex(r"\A[a-z0-9-]{1,63}(\.[a-z]{1,9})?\Z"), unique=True).map(tuple),
        enable_lifecycle=st.booleans(),
    ),
    level=st.builds(Level, LEVELS, LEVELS, LEVELS).filter(lambda level: {level.counters, level.histograms} != {"off"}),
    reasons=st.builds(Reasons, NAMES, NAMES),
    histogram=st.builds(
        Histogram,
        native=st.booleans(),
        classic=st.builds(
            Classic,
            factor=st.sampled_from([2, 4, 16]),
            min=microseconds(1, 1_800_000_000),
            max=microseconds(1_800_000_001, 3_600_000_000),
            in_protobuf=st.booleans(),
        ),
    ),
    collect_interval=microseconds(1_000_000, 3_600_000_000),
    linger=microseconds(0, 86_400_000_000),
    limits=st.builds(Limits, vcpus=st.integers(1, 65536), cells=st.integers(65536, 1048576)),
    bpf_stats=st.booleans(),
    kernel_headers=st.sampled_from(["builtin", "system"]) | PATHS,
    lock_file=st.just("") | PATHS,
    run_as=st.just("") | st.from_regex(r"\A[a-z_][a-z0-9_-]{0,30}\Z"),
    log=st.builds(
        Log,
        level=st.sampled_from(["debug", "info", "warn", "error"]),
        format=st.sampled_from(["logfmt", "json"]),
    ),
)


@given(CONFIGS)
def test_a_configuration_that_describe_has_written_is_read_back(wanted: Config) -> None:
    assert parse(describe(wanted), "described") == wanted


@given(CONFIGS)
def test_flags_can_set_every_option_of_the_file(wanted: Config) -> None:
    texts: dict[str, object] = {}
    for key, value in leaves(wanted).items():
        if isinstance(value, float):
            texts[key] = values.duration_text(value)
        else:
            texts[key] = list(value) if isinstance(value, tuple) else str(value)
    assert with_flags(Config(), texts) == wanted


@given(CONFIGS)
def test_without_flags_nothing_changes(wanted: Config) -> None:
    assert with_flags(wanted, dict.fromkeys(OPTIONS)) == wanted


def test_describe_writes_the_default_values() -> None:
    assert describe(Config()) == (
        'web:\n  listen_address: [":9939"]\n  telemetry_path: "/metrics"\n  gzip: true\n'
        '  config_file: ""\n  max_requests: 40\n  host_names: []\n  enable_lifecycle: false\n'
        "collect_interval: 15s\nlinger: 5m\n"
        'level:\n  counters: "vcpu"\n  histograms: "vcpu"\n  time: "vm"\n'
        "reasons:\n  allow: []\n  deny: []\n"
        "histogram:\n  native: true\n"
        "  classic:\n    factor: 4\n    min: 1us\n    max: 16s\n    in_protobuf: true\n"
        "limits:\n  vcpus: 4096\n  cells: 16384\n"
        'bpf_stats: false\nkernel_headers: "builtin"\nlock_file: "/run/kvm-exit-exporter/lock"\n'
        'run_as: "kvm-exit-exporter"\n'
        'log:\n  level: "info"\n  format: "logfmt"\n'
    )


def test_every_field_has_an_option_and_every_option_has_a_field() -> None:
    assert list(OPTIONS) == list(leaves(Config()))


def test_the_shipped_file_has_every_option_with_its_default_value() -> None:
    assert load(ROOT / "config.yaml") == Config()
    nested = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert list(dotted(nested)) == list(OPTIONS)


def dotted(nested: dict[str, Any], section: str = "") -> Iterator[str]:
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{section}{key}.")
        else:
            yield section + key


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "---\n...\n", "{}", "\ufeff", "\ufeff{}"])
def test_an_empty_file_gives_the_defaults(text: str) -> None:
    assert parse(text, "c.yaml") == Config()


def test_a_file_changes_only_the_options_that_it_contains() -> None:
    text = "web: {listen_address: ['127.0.0.1:9939', '[::1]:9939']}\nlinger: 0s\nlog:\n  level: debug\n"
    web = Web(listen_address=("127.0.0.1:9939", "[::1]:9939"))
    assert parse(text, "c.yaml") == Config(web=web, linger=0.0, log=Log(level="debug"))


def test_anchors_and_aliases_are_read() -> None:
    text = "limits: {vcpus: &n 5000, cells: *n}\nlock_file: &f /x\nkernel_headers: *f\n"
    wanted = Config(limits=Limits(5000, 5000), lock_file="/x", kernel_headers="/x")
    assert parse(text, "c.yaml") == wanted


def test_each_problem_names_its_flag() -> None:
    flags = {
        "web.listen_address": [":1", "x", ":1"],
        "linger": "5",
        "limits.vcpus": "0",
        "limits.cells": "0x10",
        "bpf_stats": "maybe",
        "log.level": ["debug", "info"],
        "lock_file": None,
    }
    with pytest.raises(ConfigError) as error:
        with_flags(Config(), flags)
    address = "host:port, :port, [ipv6]:port or unix:/path, with port 1 to 65535 (0: any free one)"
    assert error.value.problems == (
        f'--web.listen-address: "x" has no port; allowed is {address}',
        f'--web.listen-address: ":1" is in the list already; allowed is {address}',
        '--linger: "5" has no unit (fifteen seconds are 15s); allowed is a duration from 0s to 24h',
        '--limits.vcpus: "0" is out of range; allowed is a whole number from 1 to 65536',
        '--limits.cells: "0x10" is not in plain decimal; allowed is a whole number from 1 to 1048576',
        '--bpf-stats: "maybe" is not a boolean; allowed is true or false',
        "--log.level: given 2 times; allowed is once",
    )


def test_values_from_argparse_are_accepted() -> None:
    flags: dict[str, object] = {
        "bpf_stats": True,
        "log.level": ["debug"],
        "web.listen_address": ":1",
        "limits.vcpus": 5,
    }
    wanted = Config(bpf_stats=True, log=Log("debug"), web=Web((":1",)), limits=Limits(vcpus=5))
    assert with_flags(Config(), flags) == wanted


def test_a_flag_that_contradicts_another_option_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        with_flags(Config(), {"limits.vcpus": "20000"})
    assert str(error.value) == (
        "--limits.vcpus: fewer cells (16384) than vCPUs (20000); allowed is at least one cell for each vCPU"
    )


def test_histogram_options_are_read_from_file_and_flags() -> None:
    text = "histogram: {native: no, classic: {factor: 16, min: 10us, max: 1s, in_protobuf: yes}}\n"
    assert parse(text, "c.yaml").histogram == Histogram(False, Classic(16, 1e-5, 1.0, True))
    flags: dict[str, object] = {"histogram.native": "off", "histogram.classic.factor": "2"}
    assert with_flags(Config(), flags).histogram == Histogram(False, Classic(2))


def test_levels_and_reasons_are_read_from_file_and_flags() -> None:
    text = 'level: {counters: vm, histograms: "off"}\nreasons: {allow: [HLT, EC_WFx], deny: ["NPF 0x1"]}\n'
    wanted = Config(level=Level("vm", "off"), reasons=Reasons(("HLT", "EC_WFx"), ("NPF 0x1",)))
    assert parse(text, "c.yaml") == wanted
    flags: dict[str, object] = {"level.histograms": "vm", "reasons.deny": ["HLT", "CPUID"]}
    wanted = Config(level=Level("vcpu", "vm"), reasons=Reasons((), ("HLT", "CPUID")))
    assert with_flags(Config(), flags) == wanted


def test_an_empty_list_of_addresses_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--web\.listen-address: is empty; allowed is at least 1 of host:port"):
        with_flags(Config(), {"web.listen_address": []})


def test_an_unknown_key_among_the_flags_raises_key_error() -> None:
    with pytest.raises(KeyError):
        with_flags(Config(), {"nonsense": "1"})


def test_each_option_has_its_own_flag() -> None:
    assert flag_name("web.listen_address") == "--web.listen-address"
    assert flag_name("web.config_file") == "--web.config.file"
    assert len({flag_name(key) for key in OPTIONS}) == len(OPTIONS)


def test_off_without_quotes_is_read_as_a_level() -> None:
    """YAML 1.1 reads off as a boolean. In this option, off is a level."""
    assert parse("level: {histograms: off}", "c.yaml").level.histograms == "off"
    with pytest.raises(ConfigError, match=r"^c\.yaml:1: level\.histograms: true is not allowed"):
        parse("level: {histograms: true}", "c.yaml")


WAITING = {
    *("web.listen_address", "web.config_file", "web.max_requests", "web.host_names", "limits.vcpus", "limits.cells"),
    *("bpf_stats", "kernel_headers", "lock_file", "run_as", "level.time"),
}


def test_each_option_is_applied_by_a_reload_or_waits_for_a_restart() -> None:
    """A new option waits for a restart. This changes when the option is added to LIVE and daemon.py applies it."""
    assert OPTIONS.keys() - LIVE == WAITING
    assert OPTIONS.keys() >= LIVE


def test_a_reload_does_not_change_the_options_that_wait_for_a_restart() -> None:
    old = Config(limits=Limits(23, 29), run_as="a")
    new = replace(Config(), web=Web(gzip=False, max_requests=7), level=Level("vm", "off"), linger=9.0, run_as="b")
    config, waiting = reloaded(old, new)
    assert waiting == ["web.max_requests", "limits.vcpus", "limits.cells", "run_as"]
    assert config == replace(new, web=Web(gzip=False), limits=Limits(23, 29), run_as="a")
    assert [option_text(config, key) for key in ("linger", "run_as", "limits.vcpus")] == ["9s", '"a"', "23"]
    assert reloaded(old, old) == (old, [])
