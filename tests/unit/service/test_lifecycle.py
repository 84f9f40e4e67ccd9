"""The daemon's states: each allowed step is taken, and each other step is refused."""

from __future__ import annotations

import re

import pytest

from exporter.service.lifecycle import FOLLOWERS, Lifecycle, State
from tests.support.paths import ROOT

ALLOWED = {
    ("created", "prepared"),
    ("prepared", "loading"),
    ("loading", "waiting for KVM"),
    ("loading", "taking over"),
    ("loading", "attached"),
    ("waiting for KVM", "loading"),
    ("waiting for KVM", "attached"),
    ("taking over", "attached"),
    ("stopping", "stopped"),
    *((state.value, "stopping") for state in State if state not in (State.STOPPING, State.STOPPED)),
}


@pytest.mark.parametrize("to", State)
@pytest.mark.parametrize("state", State)
def test_each_step_is_taken_or_refused_as_the_table_says(state: State, to: State) -> None:
    lifecycle = Lifecycle()
    lifecycle.state = state
    if (state.value, to.value) in ALLOWED:
        lifecycle.step(to)
        assert lifecycle.state is to
    else:
        with pytest.raises(RuntimeError, match=f"^the daemon is {state.value}: it cannot become {to.value}$"):
            lifecycle.step(to)
        assert lifecycle.state is state


@pytest.mark.parametrize("state", State)
def test_the_daemon_is_ready_while_a_program_is_attached(state: State) -> None:
    lifecycle = Lifecycle()
    lifecycle.state = state
    assert lifecycle.not_ready() == ("" if state.value in ("taking over", "attached") else state.value)


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    assert FOLLOWERS.keys() == set(State)
    assert set().union(*FOLLOWERS.values()) == set(State) - {State.CREATED}


def test_the_architecture_page_draws_every_state() -> None:
    section = (ROOT / "docs/architecture.md").read_text().split("## The daemon's states\n")[1].split("\n## ")[0]
    picture = "\n".join(line for line in section.splitlines() if line.startswith("    "))
    assert {state.value for state in State if re.search(rf"\b{state.value}\b", picture)} == {
        state.value for state in State
    }
