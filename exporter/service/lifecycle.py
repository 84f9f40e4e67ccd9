"""The states of the daemon, and the table of what may follow what."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """Where the daemon stands between its start and its end."""

    CREATED = "created"
    """The sockets listen. Nothing that needs privileges is done yet."""
    PREPARED = "prepared"
    """Everything that needs privileges is done, or in the hands of the loader."""
    LOADING = "loading"
    """The loader compiles and attaches the program, or a program is taken over."""
    WAITING_FOR_KVM = "waiting for KVM"
    """The loader waits for the tracepoints of KVM."""
    TAKING_OVER = "taking over"
    """The program of an earlier process counts. Some of its vCPUs have no name yet, so their series may lack counts."""
    ATTACHED = "attached"
    """The program counts, and pages are whole. A replay is attached to its recording."""
    STOPPING = "stopping"
    """Everything is being freed."""
    STOPPED = "stopped"


FOLLOWERS: Mapping[State, frozenset[State]] = {
    State.CREATED: frozenset({State.PREPARED, State.STOPPING}),
    State.PREPARED: frozenset({State.LOADING, State.STOPPING}),
    State.LOADING: frozenset({State.WAITING_FOR_KVM, State.TAKING_OVER, State.ATTACHED, State.STOPPING}),
    State.WAITING_FOR_KVM: frozenset({State.LOADING, State.ATTACHED, State.STOPPING}),
    State.TAKING_OVER: frozenset({State.ATTACHED, State.STOPPING}),
    State.ATTACHED: frozenset({State.STOPPING}),
    State.STOPPING: frozenset({State.STOPPED}),
    State.STOPPED: frozenset(),
}


class Lifecycle:
    """The present state. Only the thread that runs the daemon may step; any thread may read `state`."""

    def __init__(self) -> None:
        self.state = State.CREATED

    def step(self, to: State) -> None:
        """Enter a state. Raises RuntimeError where the table does not allow it: that is a defect of ours."""
        if to not in FOLLOWERS[self.state]:
            raise RuntimeError(f"the daemon is {self.state.value}: it cannot become {to.value}")
        self.state = to
