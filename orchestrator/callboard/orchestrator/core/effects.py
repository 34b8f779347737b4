"""What the shell is to do, in the imperative. All values, no behaviour.

An effect that names a `task_id` is dropped when that task's insert was refused (its key belongs to another task).
"""

from dataclasses import dataclass

from callboard.orchestrator.core.changes import Changes, WindowAsked
from callboard.orchestrator.core.events import (
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


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer a request with a message of the protocol."""

    ticket: Ticket
    message: object
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer a request with an error."""

    ticket: Ticket
    error: OrchestratorError


@dataclass(frozen=True, slots=True)
class LookUp:
    """Read the task of this event from the database, set `looked`, and hand the event in again."""

    event: CancelRequested | CompletionRequested | ResultReported | FailureReported


@dataclass(frozen=True, slots=True)
class ReadWindow:
    """Read waiting tasks from the database, however long that takes, and hand them in as `WindowRead`."""

    asked: WindowAsked


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOffer:
    """Offer a committed attempt to its agent. The shell adds payload, description and metadata."""

    agent_id: str
    task_id: str
    attempt: int
    remaining_ms: int | None
    run_timeout_ms: int | None
    batches: bool = False
    """Whether the agent takes many offers in one message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendCancel:
    """Tell an agent to stop an attempt."""

    agent_id: str
    task_id: str
    attempt: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class SendDrain:
    """Tell an agent to take nothing new."""

    agent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SendShutdown:
    """Tell an agent to finish within `grace_ms`, leave and exit."""

    agent_id: str
    grace_ms: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class StopProcess:
    """Stop the process of a spawned agent: SIGTERM, `grace_ms`, SIGKILL."""

    agent_id: str
    grace_ms: int


@dataclass(frozen=True, slots=True)
class PublishTask:
    """Publish a committed change of a task, and tell those who wait for it.

    `queued_ms`, `run_ms` and `total_ms` are what this change lets one measure, in milliseconds.
    """

    event: TaskEvent
    task_id: str
    priority: TaskPriority
    queued_ms: int | None = None
    run_ms: int | None = None
    total_ms: int | None = None


@dataclass(frozen=True, slots=True)
class PublishAgent:
    """Publish a change of an agent."""

    event: AgentEvent


Effect = (
    Answer
    | Refuse
    | LookUp
    | ReadWindow
    | SendOffer
    | SendCancel
    | SendDrain
    | SendShutdown
    | StopProcess
    | PublishTask
    | PublishAgent
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the machine decided since the last one.

    The effects wait for the commit of the changes; when there are none, they may be done at once. `counts` are the
    tasks by state as this batch leaves them.
    """

    number: int
    changes: Changes
    effects: tuple[Effect, ...]
    counts: dict[TaskState, int]
