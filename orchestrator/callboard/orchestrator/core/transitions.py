"""The life of a task as data: which move is legal in which state, and where it leads.

The diagram in `docs/architecture.md` is drawn from this table. Every state is present; final ones allow nothing.
Every move that is legal from `running` is legal from `assigned` too (protocol, section 4), so that `running` may be
written late.
"""

from enum import StrEnum
from typing import Final

from callboard.schemas.vocabulary import TaskState

S = TaskState


class Move(StrEnum):
    """What happened to a task, in the past tense."""

    ASSIGNED = "assigned"
    ACCEPTED = "accepted"
    SUCCEEDED = "succeeded"
    COMPLETED = "completed"
    REQUEUED = "requeued"
    BACKED_OFF = "backed_off"
    DUE = "due"
    EXHAUSTED = "exhausted"
    POISONED = "poisoned"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_WAITING: Final = {Move.COMPLETED: S.SUCCEEDED, Move.CANCELLED: S.CANCELLED, Move.EXPIRED: S.EXPIRED}
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

TASK_MOVES: Final[dict[TaskState, dict[Move, TaskState]]] = {
    S.QUEUED: {Move.ASSIGNED: S.ASSIGNED, **_WAITING},
    S.DEFERRED: {Move.DUE: S.QUEUED, **_WAITING},
    S.ASSIGNED: {Move.ACCEPTED: S.RUNNING, **_HELD},
    S.RUNNING: _HELD,
    S.SUCCEEDED: {},
    S.FAILED: {},
    S.CANCELLED: {},
    S.EXPIRED: {},
    S.QUARANTINED: {},
}


class IllegalMoveError(Exception):
    """A decision broke the table: a bug of ours. `story` is what the task went through."""

    def __init__(self, task_id: str, state: TaskState, move: Move, story: str) -> None:
        super().__init__(f"task {task_id} is {state}: it cannot be {move} ({story})")
        self.task_id, self.state, self.move, self.story = task_id, state, move, story


def after(state: TaskState, move: Move) -> TaskState | None:
    """The state that `move` leads to from `state`, or `None` when the table does not allow it."""
    return TASK_MOVES[state].get(move)
