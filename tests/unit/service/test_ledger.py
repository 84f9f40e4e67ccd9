"""A forged ledger costs neither memory nor the start: it is refused, and the next write starts a new one."""

from __future__ import annotations

import json
import os
import struct

import pytest

from exporter.metrics.carried import NOTHING_CARRIED
from exporter.model.buckets import BUCKETS
from exporter.model.records import Handover
from exporter.service.ledger import Ledger, LedgerError

_EMPTY: dict[str, object] = {"ended": [], "free": [], "carried": [[], {}]}
_ENDED = {
    "key": [7, 8, 9],
    "comm": "43",
    "vcpu_id": 3,
    "totals": [5, 7],
    "expires_ns": 11,
    "vm": {"pid": 7, "name": "web", "uuid": "", "vmm": "qemu"},
    "index": "3",
    "served": [1, 2],
    "cells": [],
}


def _forged(text: bytes, size: int | None = None, begun: int = 0, done: int = 0) -> Ledger:
    ledger = Ledger.create()
    header = struct.pack("=8s5Q", b"KVMEXIT\1", 1, len(text), len(text) if size is None else size, begun, done)
    os.write(ledger.files[0], header + text)
    return ledger


def _refusal(ledger: Ledger) -> str:
    with pytest.raises(LedgerError) as caught:
        ledger.read()
    ledger.write([], [], NOTHING_CARRIED, always=True)
    assert ledger.read().handover == Handover([], [], None)
    ledger.close()
    return str(caught.value)


def test_a_ledger_of_a_terabyte_is_refused_unread() -> None:
    ledger = _forged(b"{}", 1 << 40)
    os.ftruncate(ledger.files[0], 1 << 41)
    assert "is above 67108864 bytes of text, or 268435456 bytes" in _refusal(ledger)


def test_many_small_values_are_refused_unread() -> None:
    assert _refusal(_forged(b"[" + b"[]," * (1 << 22) + b"[]]")) == "ValueError('more than 4194304 values')"


def test_a_long_number_is_refused_unread() -> None:
    assert _refusal(_forged(b'{"ended": ' + b"1" * 400 + b"}")) == "ValueError('a number of more than 400 digits')"


def test_deep_nesting_is_refused() -> None:
    assert _refusal(_forged(b"[" * 100_000)) == "ValueError('nested too deep')"


@pytest.mark.parametrize(
    "changed",
    [
        {"key": [7, 8]},
        {"key": [7, 8, -1]},
        {"key": ["7", 8, 9]},
        {"comm": 3},
        {"totals": [5, 6, 7]},
        {"vm": {"pid": 7, "name": 3, "uuid": "", "vmm": ""}},
        {"vm": {"pid": 7, "name": "x" * 1025, "uuid": "", "vmm": ""}},
        {"index": None},
        {"served": [1, None]},
        {"cells": [[1, 2, 3, 4, 8, [0, 0, 0]]]},
        {"cells": [[1, 2, 3, 4, -8, [0, 0, 0]]]},
        {"expires_ns": 1 << 64},
    ],
)
def test_an_ended_vcpu_of_wrong_types_is_refused(changed: dict[str, object]) -> None:
    assert _forged(json.dumps({**_EMPTY, "ended": [_ENDED]}).encode()).read().names[0][1].index == "3"
    _refusal(_forged(json.dumps({**_EMPTY, "ended": [{**_ENDED, **changed}]}).encode()))


@pytest.mark.parametrize(
    "changed",
    [
        {"free": [["free_cells", -1]]},
        {"free": [["free_cells", "3"]]},
        {"free": [[3, 3]]},
        {"carried": [[["vm", True, ["7", 3], 1, 1, [0] * BUCKETS]], {}]},
        {"carried": [[["vm", True, ["7"], 1, 1, [0] * (BUCKETS - 1)]], {}]},
        {"carried": [[["vm", True, ["7"], 1, 1, ["0"] * BUCKETS]], {}]},
        {"carried": [[["vm", True, ["7"], 1.5, 1, [0] * BUCKETS]], {}]},
        {"carried": [[], {"guest_ns": [[["7"], "2"]]}]},
    ],
)
def test_entries_of_wrong_types_are_refused(changed: dict[str, object]) -> None:
    _refusal(_forged(json.dumps({**_EMPTY, **changed}).encode()))


@pytest.mark.parametrize(("begun", "done"), [(3, 2), (2, 0), (1, 2)])
def test_more_returned_entries_than_there_are_is_refused(begun: int, done: int) -> None:
    text = json.dumps({**_EMPTY, "free": [["free_cells", 3], ["free_cells", 5]]}).encode()
    assert list(_forged(text, begun=1, done=1).read().handover.free_entries) == [("free_cells", 3)]
    _refusal(_forged(text, begun=begun, done=done))
