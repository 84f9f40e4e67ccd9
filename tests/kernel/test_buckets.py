"""The BPF program's buckets are compared with their definition, at and around every boundary."""

from __future__ import annotations

import random
from collections.abc import Callable

from exporter.kernel.syscall import TestRun
from exporter.model.buckets import BUCKETS, FIRST_BOUND
from tests.support.machine import Machine, bucket

_PROBE = """
int probe(struct bpf_raw_tracepoint_args *ctx)
{
	return bucket_of(ctx->args[0]);
}
"""


def _last_below(k: int) -> int:
    """The largest whole number of ns that is at most 2^(k/4) s.

    This is the fourth root of 2^k * 10^36, rounded down.
    """
    square = 10**36 * 2**k if k >= 0 else 10**36 // 2**-k
    low, high = 0, 10**14
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**4 <= square else (low, middle - 1)
    return low


def test_bucket_boundaries_are_exact_and_inclusive(machine: Callable[..., Machine]) -> None:
    run = TestRun(machine(extra_source=_PROBE, extra_programs=("probe",)).loaded.programs["probe"])

    def of(ns: int) -> int:
        return run(ns.to_bytes(8, "little"))

    bounds = [_last_below(k) for k in range(FIRST_BOUND, FIRST_BOUND + BUCKETS - 1)]
    assert bounds[0] == 119
    assert bounds[-1] == 4096 * 10**9
    assert bounds[92] == 10**9  # exactly one second
    assert bounds[92 - 36] == 1953125  # 2^-9 s: the smallest power of two that is a whole number of ns
    for number, bound in enumerate(bounds):
        assert (number, of(bound)) == (number, number)
        assert (number, of(bound + 1)) == (number, number + 1)

    for ns in range(5000):
        assert (ns, of(ns)) == (ns, bucket(ns))
    chance = random.Random(1)
    for _ in range(10007):
        ns = chance.randrange(2 ** chance.randrange(1, 65))
        assert (ns, of(ns)) == (ns, bucket(ns))
    for ns in (2**63, 2**64 - 1):
        assert of(ns) == BUCKETS - 1
