"""What the shell is to do, in the imperative. All values, no behaviour.

An effect that names a `task_id` is dropped when that task's insert was refused (its key belongs to another task).
"""

import msgspec

from callboard.orchestrator.core.changes import Changes, WindowAsked
from callboard.orchestrator.core.events import (
    AnswerGiven,
    CancelRequested,
    CompletionRequested,
    FailureReported,
    ResultReported,
    Ticket,
)
from callboard.schemas.agents import AgentEvent
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.tasks import TaskEvent
from callboard.schemas.vocabulary import TaskPriority, TaskState


class Answer(msgspec.Struct, frozen=True):
    """Answer a request with a message of the protocol."""

    ticket: Ticket
    message: object
    task_id: str | None = None


class Refuse(msgspec.Struct, frozen=True):
    """Answer a request with an error."""

    ticket: Ticket
    error: OrchestratorError


class LookUp(msgspec.Struct, frozen=True):
    """Read the task of this event from the database, set `looked`, and hand the event in again."""

    event: CancelRequested | CompletionRequested | AnswerGiven | ResultReported | FailureReported


class ReadWindow(msgspec.Struct, frozen=True):
    """Read waiting tasks from the database, however long that takes, and hand them in as `WindowRead`."""

    asked: WindowAsked


class SendOffer(msgspec.Struct, frozen=True, kw_only=True):
    """Offer a committed attempt to its agent. The shell adds payload, description and metadata."""

    agent_id: str
    task_id: str
    attempt: int
    remaining_ms: int | None
    run_timeout_ms: int | None
    batches: bool = False
    """Whether the agent takes many offers in one message."""


class SendAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Give an agent the answer to its question; `answer` is its JSON."""

    agent_id: str
    task_id: str
    attempt: int
    query: int
    answer: bytes


class SendCancel(msgspec.Struct, frozen=True, kw_only=True):
    """Tell an agent to stop an attempt."""

    agent_id: str
    task_id: str
    attempt: int
    reason: str | None


class SendDrain(msgspec.Struct, frozen=True):
    """Tell an agent to take nothing new."""

    agent_id: str


class SendShutdown(msgspec.Struct, frozen=True, kw_only=True):
    """Tell an agent to finish within `grace_ms`, leave and exit."""

    agent_id: str
    grace_ms: int
    reason: str | None


class StopProcess(msgspec.Struct, frozen=True):
    """Stop the process of a spawned agent: SIGTERM, `grace_ms`, SIGKILL."""

    agent_id: str
    grace_ms: int


class PublishTask(msgspec.Struct, frozen=True):
    """Say that a task has changed: written with the change, published after the commit, told to those who wait.

    `queued_ms`, `run_ms`, `total_ms` and, for a task with a trace, `offered_ms` (from the decision to the accept) are
    what this change lets one measure, in milliseconds.
    """

    event: TaskEvent
    task_id: str
    priority: TaskPriority
    queued_ms: int | None = None
    run_ms: int | None = None
    total_ms: int | None = None
    offered_ms: int | None = None


class PublishAgent(msgspec.Struct, frozen=True):
    """Say that an agent has changed: written with the batch, published after the commit."""

    event: AgentEvent


Effect = (
    Answer | Refuse | LookUp | ReadWindow | SendOffer | SendAnswer | SendCancel | SendDrain | SendShutdown | StopProcess
)
Announcement = PublishTask | PublishAgent


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine decided since the last one.

    The announcements are written with the changes; a batch without either needs no commit. The effects wait for the
    commit, if there is one; else they may be done at once. `counts` are the tasks by state as this batch leaves them.
    """

    number: int
    changes: Changes
    announcements: tuple[Announcement, ...]
    effects: tuple[Effect, ...]
    counts: dict[TaskState, int]

    @property
    def is_written(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.changes) or bool(self.announcements)
