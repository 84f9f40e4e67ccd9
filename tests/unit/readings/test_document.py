"""The JSON document of /-/vcpus: its content, and the refusal of wrong documents."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.metrics.kvm import Identified
from exporter.model.reason import Space
from exporter.model.records import ExitInProgress, RunStats, Snapshot, ThreadKey, TimeParts, VcpuTotals
from exporter.model.vm import Vcpu
from exporter.readings import document
from exporter.readings.document import DocumentError
from exporter.readings.reading import InProgress, Reading, ReasonReading, VcpuReading, reading_of
from tests.support.exits import NAME, WEB, cell, record, snapshots


def read(vcpus: list[Identified], *, time_split: bool = False) -> Reading:
    known = {each.key: vcpu for each, vcpu in vcpus}
    snapshot = Snapshot(
        vcpus=[each for each, _ in vcpus],
        counters={"dropped_no_slot": 3, "unmatched_entry": 5},
        runs={"kvm_exit": RunStats(0.0, 0, 7)},
        slots=8,
        slots_in_use=0,
        cells=8,
        cells_in_use=0,
        expired_early=11,
        time_split=time_split,
        taken_ns=1009,
    )
    return reading_of(snapshot, known.get, NAME, since_ns=13, replay=False)


def test_a_snapshot_becomes_a_reading_with_names() -> None:
    halt = cell(Space.VMX, 12, 5, {10: 3, 141: 1}, 50)._replace(parts=TimeParts(7, 18, 0))
    mmio = cell(Space.USERSPACE, 6, 2, {}, 0)._replace(parts=TimeParts(2, 5, 31))
    here = record(100, 101, halt, mmio, in_progress=ExitInProgress(Space.VMX, 12, 19))
    here = replace(here, totals=VcpuTotals(17, 7))
    unnamed = record(200, 201, alive=False)
    now = reading_of(
        Snapshot([here, unnamed], {}, {}, 8, 0, 8, 0, time_split=True, taken_ns=1009),
        {here.key: Vcpu(WEB, "3")}.get,
        NAME,
        since_ns=13,
        replay=True,
    )
    assert now == Reading(
        1009,
        13,
        True,
        {"expired_early": 0},
        [
            VcpuReading(
                ThreadKey(100, 101, 1),
                "",
                "web-1",
                "6f1c2a70",
                "qemu",
                "3",
                True,
                17,
                7,
                InProgress("HLT", "idle", 19),
                [
                    ReasonReading("exit", "HLT", "idle", 5, 50, {10: 3, 141: 1}, TimeParts(7, 18, 0)),
                    ReasonReading("userspace", "KVM_EXIT_MMIO", "mmio", 2, 0, {}, TimeParts(2, 5, 31)),
                ],
            ),
            VcpuReading(ThreadKey(200, 201, 1), "", None, "", "", "", False, 0, None, None, []),
        ],
    )
    assert [thread.vm_label for thread in now.vcpus] == ["web-1", "200"]
    assert json.loads(b"".join(document.encode(now))) == {
        "version": 1,
        "taken_ns": 1009,
        "since_ns": 13,
        "replay": True,
        "counters": {"expired_early": 0},
        "vcpus": [
            {
                "pid": 100,
                "tid": 101,
                "born_ns": 1,
                "comm": "",
                "vm": "web-1",
                "uuid": "6f1c2a70",
                "vmm": "qemu",
                "vcpu": "3",
                "alive": True,
                "in_progress": {"reason": "HLT", "class": "idle", "age_ns": 19},
                "guest_ns": 17,
                "wait_ns": 7,
                "reasons": [
                    {
                        "kind": "exit",
                        "reason": "HLT",
                        "class": "idle",
                        "exits": 5,
                        "sum_ns": 50,
                        "wait_ns": 7,
                        "sleep_ns": 11,
                        "vmm_ns": 0,
                        "buckets": [[10, 3], [141, 1]],
                    },
                    {
                        "kind": "userspace",
                        "reason": "KVM_EXIT_MMIO",
                        "class": "mmio",
                        "exits": 2,
                        "sum_ns": 0,
                        "wait_ns": 2,
                        "sleep_ns": 3,
                        "vmm_ns": 31,
                        "buckets": [],
                    },
                ],
            },
            {
                "pid": 200,
                "tid": 201,
                "born_ns": 1,
                "comm": "",
                "vm": None,
                "uuid": "",
                "vmm": "",
                "vcpu": "",
                "alive": False,
                "in_progress": None,
                "guest_ns": 0,
                "wait_ns": None,
                "reasons": [],
            },
        ],
    }


@given(snapshots(), st.booleans())
def test_an_encoded_reading_is_decoded_unchanged(vcpus: list[Identified], time_split: bool) -> None:
    """Whatever the name of a VM is, the bytes are safe to print on a terminal."""
    now = read(vcpus, time_split=time_split)
    data = b"".join(document.encode(now))
    assert document.decode(data) == now
    assert data.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in data[:-1])
    assert now.counters == {"dropped_no_slot": 3, "unmatched_entry": 5, "missed_kvm_exit": 7, "expired_early": 11}


GOOD = json.loads(
    b"".join(
        document.encode(
            reading_of(
                Snapshot([record(100, 101, cell(Space.VMX, 12, 5, {10: 3}, 50))], {"a": 1}, {}, 8, 0, 8, 0),
                lambda _: None,
                NAME,
                since_ns=1,
                replay=False,
            )
        )
    )
)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 2}, "document version 2, expected 1"),
        ({"version": "1"}, "version: not a number"),
        ({"taken_ns": 1.5}, "taken_ns: not a number"),
        ({"taken_ns": True}, "taken_ns: not a number"),
        ({"since_ns": -1}, "since_ns: not a number"),
        ({"taken_ns": 1 << 64}, r"taken_ns: not a number from 0 to 2\^64 - 1"),
        ({"counters": {"a": 10**300}}, "a: not a number"),
        ({"replay": 0}, "replay: neither true nor false"),
        ({"counters": [1]}, "expected an object, found "),
        ({"counters": {"a": None}}, "a: not a number"),
        ({"vcpus": {}}, "vcpus: not a list"),
        ({"vcpus": [1]}, "expected an object, found "),
        ({"vcpus": [{}]}, "in_progress is missing"),
        ({"vcpus": [{**GOOD["vcpus"][0], "vm": 3}]}, "vm: not a string"),
        ({"vcpus": [{**GOOD["vcpus"][0], "pid": None}]}, "pid: not a number"),
        ({"vcpus": [{**GOOD["vcpus"][0], "guest_ns": 10**300}]}, "guest_ns: not a number"),
        ({"vcpus": [{**GOOD["vcpus"][0], "wait_ns": -1}]}, "wait_ns: not a number"),
        ({"vcpus": [{**GOOD["vcpus"][0], "in_progress": {}}]}, "reason is missing"),
        (
            {"vcpus": [{**GOOD["vcpus"][0], "in_progress": {"reason": "A", "class": "b", "age_ns": 10**300}}]},
            "age_ns: not a number",
        ),
    ],
)
def test_a_wrong_document_is_refused(change: dict[str, object], problem: str) -> None:
    document.decode(json.dumps(GOOD).encode())
    with pytest.raises(DocumentError, match=problem):
        document.decode(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "else"}, "unknown kind 'else'"),
        ({"buckets": [[142, 1]]}, "there is no bucket 142"),
        ({"buckets": [[1, 1, 1]]}, "not pairs"),
        ({"buckets": [[-1, 1]]}, "not pairs"),
        ({"buckets": [5]}, "not pairs"),
        ({"buckets": [[1, 1 << 64]]}, "not pairs"),
        ({"exits": 10**300}, "exits: not a number"),
        ({"sum_ns": 1 << 64}, "sum_ns: not a number"),
        ({"wait_ns": "1"}, "wait_ns: not a number"),
        ({"sleep_ns": -1}, "sleep_ns: not a number"),
        ({"vmm_ns": False}, "vmm_ns: not a number"),
    ],
)
def test_a_wrong_reason_is_refused(change: dict[str, object], problem: str) -> None:
    vcpu = GOOD["vcpus"][0]
    bad = {**GOOD, "vcpus": [{**vcpu, "reasons": [{**vcpu["reasons"][0], **change}]}]}
    with pytest.raises(DocumentError, match=problem):
        document.decode(json.dumps(bad).encode())


def test_unknown_parts_are_null() -> None:
    """On a host that does not split the time of exits, the parts of a cell are 0, but nobody knows them."""
    (vcpu,) = GOOD["vcpus"]
    assert vcpu["wait_ns"] is None
    (reason,) = vcpu["reasons"]
    assert [reason[name] for name in ("wait_ns", "sleep_ns", "vmm_ns")] == [None] * 3


def test_the_document_of_an_older_exporter_is_read() -> None:
    """Before the time of exits was split, the documents had no members for its parts."""
    (vcpu,) = GOOD["vcpus"]
    (reason,) = vcpu["reasons"]
    for names in (("wait_ns",), ("sleep_ns",), ("vmm_ns",), ("wait_ns", "sleep_ns", "vmm_ns")):
        known = {**reason, "wait_ns": 3, "sleep_ns": 5, "vmm_ns": 7}
        older = {name: value for name, value in known.items() if name not in names}
        bare = {name: value for name, value in vcpu.items() if name != "wait_ns"}
        (read,) = document.decode(json.dumps({**GOOD, "vcpus": [{**bare, "reasons": [older]}]}).encode()).vcpus
        assert (read.wait_ns, read.reasons[0].parts, read.reasons[0].sum_ns) == (None, None, 50)


def test_the_largest_number_is_read() -> None:
    assert document.decode(json.dumps({**GOOD, "taken_ns": (1 << 64) - 1}).encode()).taken_ns == (1 << 64) - 1


@pytest.mark.parametrize("data", [b"", b"\xff", b"<html>", b"[]", b"1", b"[" * 100000, b"1" * 5000, b"NaN"])
def test_bytes_that_are_not_a_json_object_are_refused(data: bytes) -> None:
    with pytest.raises(DocumentError):
        document.decode(data)


def test_a_daemon_serves_an_empty_document_before_it_counts() -> None:
    from exporter.config.options import Config, Web
    from exporter.service.daemon import Daemon

    daemon = Daemon(Config(web=Web(listen_address=("127.0.0.1:0",)), lock_file=""))
    daemon.start()
    with urllib.request.urlopen(f"http://{daemon.addresses[0]}{document.PATH}", timeout=30) as answer:
        assert document.decode(answer.read()) == Reading(0, 0, False, {}, [])
    daemon.close()


def test_many_small_values_are_refused_unread() -> None:
    """60 MB of lists once took 1.55 GB."""
    with pytest.raises(DocumentError, match=r"^not JSON that can be read: more than 4194304 values$"):
        document.decode(b"[" + b"[]," * (1 << 22) + b"[]]")
