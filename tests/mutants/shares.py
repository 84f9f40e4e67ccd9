"""Changes of share.bpf.h, shares.py and droppers.py: the share of a process, and the names of drops."""

from __future__ import annotations

from tests.mutants.change import Change

_SHARE = "exporter/kernel/bpf/share.bpf.h"
_LOOKUP = "exporter/kernel/bpf/lookup.bpf.h"
_SHARES = "exporter/collect/shares.py"
_DROPPERS = "exporter/collect/droppers.py"
_TESTS = "tests/kernel/test_shares.py::"
_MANY_VCPUS = (_TESTS + "test_a_vm_with_many_vcpus_leaves_slots_to_the_next",)
_EVERY_REASON = (_TESTS + "test_five_vms_with_every_reason_leave_cells_to_the_next",)
_CHURN = (_TESTS + "test_a_process_gets_its_share_again_after_its_threads_have_ended",)
_RETURNS = (_TESTS + "test_returns_to_the_vmm_are_dropped_under_the_name_of_their_process",)
_KILLED = (_TESTS + "test_the_next_process_corrects_what_a_killed_one_did_not_store",)
_REFUSED = (_TESTS + "test_numbers_that_the_kernel_refused_are_stored_by_the_next_collection",)
_MEANWHILE = (_TESTS + "test_what_a_process_takes_while_its_number_is_stored_is_found_by_the_next_collection",)
_UNIT = "tests/unit/collect/test_droppers.py::"

CHANGES = (
    Change("no part of a pool is a reserve", _SHARE, "((pool) / 4)", "((pool) / 1000000)", _MANY_VCPUS),
    Change("a process that has little has a limit", _SHARE, "own < LITTLE(pool) || ", "", _EVERY_REASON),
    Change("a share is five times the free part", _SHARE, "SHARE_OF_FREE	4", "SHARE_OF_FREE	5", _MANY_VCPUS),
    Change(
        "the slots of all are not counted",
        _SHARE,
        "		__sync_fetch_and_add(&all->slots, 1);",
        "		;",
        _MANY_VCPUS,
    ),
    Change(
        "the slots of a process are not counted",
        _SHARE,
        "		__sync_fetch_and_add(&own->slots, 1);",
        "		;",
        _MANY_VCPUS,
    ),
    Change(
        "the cells of all are not counted",
        _SHARE,
        "		__sync_fetch_and_add(&all->cells, 1);",
        "		;",
        _EVERY_REASON,
    ),
    Change(
        "the cells of a process are not counted",
        _SHARE,
        "		__sync_fetch_and_add(&own->cells, 1);",
        "		;",
        _EVERY_REASON,
    ),
    Change("slots have no limit", _LOOKUP, "!may_take_slot(id >> 32) || ", "", _MANY_VCPUS),
    Change("cells have no limit", _LOOKUP, "!may_take_cell(s->id >> 32) || ", "", _EVERY_REASON),
    Change("a dropped return is an exit", _SHARE, "	if (userspace)\n", "	if (0)\n", _RETURNS),
    Change(
        "ended threads keep the share of their process", _SHARES, "        self._outdated.update(ended)\n", "", _CHURN
    ),
    Change(
        "the shares that an earlier process left are not corrected",
        _SHARES,
        "                self._outdated.update(syscall.map_keys(self._by_process))\n",
        "",
        _KILLED,
    ),
    Change(
        "a share that the kernel refused is forgotten",
        _SHARES,
        "(self._outdated - stored) | set(ended)",
        "set()",
        _REFUSED,
    ),
    Change(
        "a share is not stored again",
        _SHARES,
        "(self._outdated - stored) | set(ended)",
        "self._outdated - stored",
        _MEANWHILE,
    ),
    Change(
        "entries that were not returned are free",
        _SHARES,
        'slots + waiting.count("free_slots")',
        "slots",
        _REFUSED,
    ),
    Change(
        "a process with a living vCPU is forgotten",
        _DROPPERS,
        "(pid not in living and now",
        "(now",
        (_UNIT + "test_a_process_is_forgotten_when_linger_is_over",),
    ),
    Change(
        "a process is forgotten while it has drops",
        _DROPPERS,
        "            if drops != known.drops:\n                known = _Dropper(drops, now, known.started)\n",
        "            known.drops = drops\n",
        (_UNIT + "test_a_process_is_forgotten_when_linger_is_over",),
    ),
    Change(
        "another process with the same pid inherits the drops",
        _DROPPERS,
        "if replaced or (pid",
        "if (pid",
        (_UNIT + "test_another_process_with_the_same_pid_inherits_no_drops",),
    ),
)
