"""Run each fuzz target briefly: its seeds and earlier findings, then inputs that hypothesis makes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.strategies import STRATEGIES
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
SEEDS = [(name, path) for name in TARGETS for path in sorted((CORPUS / name).iterdir())]


def test_every_target_has_a_strategy_and_seeds() -> None:
    assert (
        TARGETS.keys() == STRATEGIES.keys() == {path.name for path in CORPUS.iterdir()} == {name for name, _ in SEEDS}
    )


@pytest.mark.parametrize(("name", "seed"), SEEDS, ids=[f"{name}-{path.name}" for name, path in SEEDS])
def test_the_target_accepts_each_seed(name: str, seed: Path) -> None:
    TARGETS[name](seed.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=300,
    deadline=timedelta(seconds=2),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_the_target_accepts_generated_inputs(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(st.one_of(STRATEGIES[name], st.binary(max_size=300))))
