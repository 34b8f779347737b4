"""The lives of tasks and agents as data: which move is legal in which state, and where it leads.

The diagrams in `docs/architecture.md` are drawn from these tables. Every state of a task is present; final ones allow
nothing.
Every move that is legal from `running` is legal from `assigned` too (protocol, section 4), so that `running` may be
written late.
"""

from enum import StrEnum
from typing import Final

from callboard.schemas.vocabulary import AgentState, TaskState

S = TaskState


class Move(StrEnum):
    """What happened to a task, in the past tense."""

    ASSIGNED = "assigned"
    ACCEPTED = "accepted"
    ASKED = "asked"
    ANSWERED = "answered"
    SUCCEEDED = "succeeded"
    COMPLETED = "completed"
    ADOPTED = "adopted"
    REQUEUED = "requeued"
    BACKED_OFF = "backed_off"
    DUE = "due"
    EXHAUSTED = "exhausted"
    POISONED = "poisoned"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_WAITING: Final = {
    Move.COMPLETED: S.SUCCEEDED,
    Move.ADOPTED: S.SUCCEEDED,
    Move.CANCELLED: S.CANCELLED,
    Move.EXPIRED: S.EXPIRED,
}
_HELD: Final = {
    Move.SUCCEEDED: S.SUCCEEDED,
    Move.COMPLETED: S.SUCCEEDED,
    Move.REQUEUED: S.QUEUED,
    Move.BACKED_OFF: S.DEFERRED,
    Move.EXHAUSTED: S.FAILED,
    Move.POISONED: S.QUARANTINED,
    Move.CANCELLED: S.CANCELLED,
    Move.EXPIRED: S.EXPIRED,
}
_RUNNING: Final = {Move.ASKED: S.WAITING_INPUT, **_HELD}

TASK_MOVES: Final[dict[TaskState, dict[Move, TaskState]]] = {
    S.QUEUED: {Move.ASSIGNED: S.ASSIGNED, **_WAITING},
    S.DEFERRED: {Move.DUE: S.QUEUED, **_WAITING},
    S.ASSIGNED: {Move.ACCEPTED: S.RUNNING, **_RUNNING},
    S.RUNNING: _RUNNING,
    S.WAITING_INPUT: {Move.ANSWERED: S.RUNNING, **_RUNNING},
    S.SUCCEEDED: {},
    S.FAILED: {},
    S.CANCELLED: {},
    S.EXPIRED: {},
    S.QUARANTINED: {},
}


A = AgentState

AGENT_MOVES: Final[dict[AgentState, frozenset[AgentState]]] = {
    A.STARTING: frozenset({A.ONLINE, A.STOPPED}),
    A.ONLINE: frozenset({A.SUSPECT, A.OFFLINE, A.STOPPED}),
    A.SUSPECT: frozenset({A.ONLINE, A.OFFLINE, A.STOPPED}),
    A.OFFLINE: frozenset({A.ONLINE, A.STARTING, A.STOPPED}),
    A.STOPPED: frozenset({A.ONLINE, A.STARTING}),
}
"""How the belief in an agent may change. `draining` is no such belief: it is `online`, with a drain set."""


class IllegalMoveError(Exception):
    """A decision broke a table: a bug of ours. `story` is what the task or agent `subject` went through."""

    def __init__(self, subject: str, state: TaskState | AgentState, move: Move | AgentState, story: str) -> None:
        super().__init__(f"{subject} is {state}: it cannot be {move} ({story})")
        self.subject, self.state, self.move, self.story = subject, state, move, story


def after(state: TaskState, move: Move) -> TaskState | None:
    """The state that `move` leads to from `state`, or `None` when the table does not allow it."""
    return TASK_MOVES[state].get(move)
