"""The states of the daemon, and the table of allowed steps."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """A state of the daemon, from its start to its end."""

    CREATED = "created"
    """The sockets listen. All other work that needs privileges must still be done."""
    PREPARED = "prepared"
    """All work that needs privileges is done, or the loader does it now."""
    LOADING = "loading"
    """The loader compiles and attaches the program, or this process takes over a program."""
    WAITING_FOR_KVM = "waiting for KVM"
    """The loader waits for the tracepoints of KVM."""
    TAKING_OVER = "taking over"
    """The program of an earlier process counts. Some of its vCPUs have no name yet, so series may lack counts."""
    ATTACHED = "attached"
    """The program counts, and pages are complete. A replay is in this state too."""
    STOPPING = "stopping"
    """The daemon frees everything."""
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


_READY = frozenset({State.TAKING_OVER, State.ATTACHED})
"""The states in which a program is attached."""


class Lifecycle:
    """The present state. Only the thread that runs the daemon may call step(). Any thread may read `state`."""

    def __init__(self) -> None:
        self.state = State.CREATED

    def not_ready(self) -> str:
        """Return "" while a program is attached, else the reason in a few words. Any thread may call it."""
        state = self.state
        return "" if state in _READY else state.value

    def step(self, to: State) -> None:
        """Enter a state. Raises RuntimeError if the table does not allow it, which is a bug."""
        if to not in FOLLOWERS[self.state]:
            raise RuntimeError(f"the daemon is {self.state.value}: it cannot become {to.value}")
        self.state = to
