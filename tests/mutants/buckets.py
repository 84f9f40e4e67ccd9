"""Changes of buckets.bpf.h: the bucket of a duration."""

from __future__ import annotations

from tests.mutants.change import Change

_FILE = "exporter/kernel/bpf/buckets.bpf.h"
_BOUNDS = ("tests/kernel/test_buckets.py",)

CHANGES = (
    Change(
        "the first bucket ends one ns earlier",
        _FILE,
        "if (ns <= MIN_BUCKET_NS)",
        "if (ns < MIN_BUCKET_NS)",
        (),
        "For ns == MIN_BUCKET_NS the arithmetic gives bucket 0 too: OCTAVE_BUCKET(6) is -3, and 119 ns is above three "
        "boundaries of its octave. tests/kernel/test_buckets.py compares every duration up to 5000 ns.",
    ),
    Change(
        "the last bucket begins one ns earlier",
        _FILE,
        "if (ns > MAX_BUCKET_NS)",
        "if (ns >= MAX_BUCKET_NS)",
        _BOUNDS,
    ),
    Change("a bound of buckets is exclusive", _FILE, "(x > BOUND_Q0)", "(x >= BOUND_Q0)", _BOUNDS),
    Change(
        "the first bound of an octave is one step too high",
        _FILE,
        "5107605667107197932ULL",
        "5107605667109295084ULL",
        _BOUNDS,
    ),
    Change(
        "the second bound of an octave is one step too high",
        _FILE,
        "6074000999952099384ULL",
        "6074000999954196536ULL",
        _BOUNDS,
    ),
    Change(
        "the third bound of an octave is one step too high",
        _FILE,
        "7223245205676679009ULL",
        "7223245205678776161ULL",
        _BOUNDS,
    ),
    Change(
        "a shift of bucket_of() loses a bit",
        _FILE,
        "if (x >> 16) { x >>= 16; log2 += 16; }",
        "if (x >> 16) { x >>= 16; log2 += 15; }",
        _BOUNDS,
    ),
    Change(
        "all buckets are shifted by one",
        _FILE,
        "(4 * 29 + 3 - SECOND_BUCKET)",
        "(4 * 29 + 2 - SECOND_BUCKET)",
        _BOUNDS,
    ),
)
