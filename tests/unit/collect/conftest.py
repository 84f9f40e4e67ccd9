from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.leaves import Leaves


@pytest.fixture
def leaves() -> Iterator[Callable[..., Leaves]]:
    """Return leaves(slots=..., cells=...). It makes arrays, which are closed after the test."""
    with ExitStack() as stack:

        def make(**entries: int) -> Leaves:
            made = Leaves(**entries)
            stack.callback(made.close)
            return made

        yield make
