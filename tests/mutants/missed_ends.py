"""Changes of missed_ends.py, and of its use by the collector."""

from __future__ import annotations

from tests.mutants.change import Change

_FILE = "exporter/collect/collector.py"
_ENDS = "exporter/collect/missed_ends.py"
_MISSED = "tests/kernel/test_missed_ends.py::"
_IN_PROC = ("tests/unit/collect/test_missed_ends.py",)

CHANGES = (
    Change(
        "the end of a thread is looked for in each collection",
        _FILE,
        "        if misses == self._known_misses:\n            return\n",
        "",
        (_MISSED + "test_proc_is_read_only_after_a_missed_end",),
    ),
    Change(
        "the end of a thread is never looked for",
        _FILE,
        "        if misses == self._known_misses:\n            return\n",
        "        return\n",
        (_MISSED + "test_a_missed_end_is_found_in_proc",),
    ),
    Change(
        "an end that was missed once is looked for for ever",
        _FILE,
        "        self._known_misses = misses\n",
        "",
        (_MISSED + "test_proc_is_read_only_after_a_missed_end",),
    ),
    Change(
        "a missed exec is not looked for",
        _FILE,
        '("sched_process_exit", "sched_process_exec")',
        '("sched_process_exit",)',
        (_MISSED + "test_a_missed_end_is_found_in_proc",),
    ),
    Change(
        "missed ends are not counted",
        _FILE,
        "            self._missed_ends += 1\n",
        "",
        (_MISSED + "test_a_missed_end_is_found_in_proc",),
    ),
    Change(
        "a missed end does not end the slot",
        _FILE,
        "            self._slots.end(numbers[key])\n",
        "",
        (_MISSED + "test_a_missed_end_is_found_in_proc",),
    ),
    Change(
        "a /proc that hides processes ends vCPUs",
        _ENDS,
        "    if not _shows_host(proc):\n        return []\n",
        "",
        _IN_PROC,
    ),
    Change(
        "a /proc of another PID namespace ends vCPUs",
        _ENDS,
        "pid_namespace(proc) == HOST_PID_NAMESPACE and",
        "pid_namespace(proc) and",
        _IN_PROC,
    ),
    Change("hidepid is not noticed", _ENDS, ' and start_time(proc / "1") is not None', "", _IN_PROC),
    Change(
        "a younger thread with the same tid keeps a vCPU alive",
        _ENDS,
        "_is_gone(thread) if age_ns is None else age_ns + _SLACK_NS < now - key.born_ns",
        "_is_gone(thread)",
        _IN_PROC,
    ),
    Change("a thread that was just started has ended", _ENDS, "age_ns + _SLACK_NS < now", "age_ns < now", _IN_PROC),
    Change(
        "the slack of start times is ten seconds",
        _ENDS,
        "_SLACK_NS = 1_000_000_000",
        "_SLACK_NS = 10_000_000_000",
        _IN_PROC,
    ),
    Change(
        "the slack of start times is a tick", _ENDS, "_SLACK_NS = 1_000_000_000", "_SLACK_NS = 10_000_000", _IN_PROC
    ),
    Change(
        "a thread that cannot be read has ended",
        _ENDS,
        "    except OSError:\n        return False\n    return False",
        "    except OSError:\n        return True\n    return False",
        _IN_PROC,
    ),
    Change(
        "a thread without files is alive",
        _ENDS,
        "    except (FileNotFoundError, ProcessLookupError):\n        return True\n",
        "",
        _IN_PROC,
    ),
    Change("ages are measured without suspend", _ENDS, "time.CLOCK_BOOTTIME", "time.CLOCK_MONOTONIC", _IN_PROC),
    Change(
        "a thread is looked for among processes",
        _ENDS,
        'proc / str(key.pid) / "task" / str(key.tid)',
        "proc / str(key.tid)",
        _IN_PROC,
    ),
)
