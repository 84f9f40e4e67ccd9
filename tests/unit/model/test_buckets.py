"""The bounds of the kernel's buckets are checked against their definition."""

from __future__ import annotations

from fractions import Fraction

import pytest

from exporter.model.buckets import bound_ns
from tests.support.machine import bucket


@pytest.mark.parametrize("number", range(141))
def test_a_bound_is_the_longest_duration_in_its_bucket(number: int) -> None:
    """Two checks: bucket() of tests/support/machine.py, and, in fractions, bound^4 <= 2^k s^4 < (bound + 1)^4."""
    bound = bound_ns(number)
    assert bound is not None
    assert (bucket(bound), bucket(bound + 1)) == (number, number + 1)
    assert bound**4 <= Fraction(2) ** (number - 92) * 10**36 < (bound + 1) ** 4
