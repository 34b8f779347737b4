"""What happens to a pool: the inputs of the machine, in the past tense. All values, no behaviour.

`ticket` is whatever the shell needs to answer a request; the core only hands it back in an effect.
A request about a task that is not in memory is looked up by the shell, which repeats the event with `looked` set.
"""

from dataclasses import dataclass

from callboard.orchestrator.core.changes import StoredTask, WindowAsked
from callboard.orchestrator.core.model import EndedAttempt, Held
from callboard.schemas.agents import AssignAnswer, Heartbeat, Register, ReportProgress
from callboard.schemas.tasks import TaskError, TaskSpec
from callboard.schemas.vocabulary import TaskState

Ticket = object


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What the database says of a task: its state (`None`: there is no such task) and its kept attempts.

    `stored` is the task itself while it is live.
    """

    state: TaskState | None
    ended: tuple[EndedAttempt, ...] = ()
    stored: StoredTask | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubmitted:
    """A client asked for a task. `payload` and `spec_json` are opaque here; `digest` identifies the content."""

    ticket: Ticket
    task_id: str
    spec: TaskSpec
    spec_json: bytes
    payload: bytes
    digest: bytes
    retry_of: str | None = None


@dataclass(frozen=True, slots=True)
class TasksSubmitted:
    """A client asked for many tasks at once: they go into one batch, in this order."""

    submissions: tuple[TaskSubmitted, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """A client wants a task cancelled."""

    ticket: Ticket
    task_id: str
    reason: str | None = None
    looked: Looked | None = None
    stamp: int = 0
    """When it was looked up, see `absent`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequested:
    """A client finishes a task itself."""

    ticket: Ticket
    task_id: str
    result: bytes
    looked: Looked | None = None
    stamp: int = 0
    """As in `CancelRequested`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpawned:
    """A process was started for this agent id; it is silent yet."""

    agent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnAbandoned:
    """The process of this agent id is gone for good."""

    agent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRegistered:
    """An agent signed in."""

    ticket: Ticket
    agent_id: str
    message: Register


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReceived:
    """An agent said that it lives, and what it runs."""

    ticket: Ticket
    agent_id: str
    message: Heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLeft:
    """An agent said goodbye."""

    ticket: Ticket
    agent_id: str
    incarnation: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReported:
    """An agent reports the result of an attempt, as JSON bytes."""

    ticket: Ticket
    agent_id: str
    task_id: str
    attempt: int
    incarnation: str
    result: bytes
    looked: Looked | None = None
    stamp: int = 0
    """As in `CancelRequested`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReported:
    """An agent reports that an attempt failed."""

    ticket: Ticket
    agent_id: str
    task_id: str
    attempt: int
    incarnation: str
    error: TaskError
    looked: Looked | None = None
    stamp: int = 0
    """As in `CancelRequested`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReported:
    """An agent published progress; `progress` is the JSON to keep."""

    agent_id: str
    message: ReportProgress
    progress: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferAnswered:
    """An agent answered an offer."""

    agent_id: str
    held: Held
    answer: AssignAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferUndeliverable:
    """Nobody listens on the agent's subject."""

    agent_id: str
    held: Held


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferUnsendable:
    """The offer does not fit into a message that NATS takes now."""

    agent_id: str
    held: Held
    error: TaskError


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRequested:
    """An operator wants an agent to take nothing new; with `grace_ms`, what still runs then is released."""

    ticket: Ticket
    agent_id: str
    grace_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequested:
    """An operator lets an agent take tasks again."""

    ticket: Ticket
    agent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownRequested:
    """An operator stops an agent."""

    ticket: Ticket
    agent_id: str
    grace_ms: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPauseRequested:
    """An operator wants the pool, or a type of task in it, paused or resumed."""

    ticket: Ticket
    type: str | None
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRead:
    """What was asked for: the tasks of each lane, and of the agenda, in their order."""

    asked: WindowAsked
    lanes: tuple[tuple[StoredTask, ...], ...]
    agenda: tuple[StoredTask, ...]


@dataclass(frozen=True, slots=True)
class TimeAdvanced:
    """Some timer may be due."""


@dataclass(frozen=True, slots=True)
class ObservationResumed:
    """The database or the bus is back: nothing was heard for a while, so nobody may be judged by that silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCommitted:
    """Batch `number` is durable; `refused` are new tasks whose key belongs to another task: they do not exist."""

    number: int
    refused: frozenset[str] = frozenset()


Event = (
    TaskSubmitted
    | TasksSubmitted
    | CancelRequested
    | CompletionRequested
    | AgentSpawned
    | SpawnAbandoned
    | AgentRegistered
    | HeartbeatReceived
    | AgentLeft
    | ResultReported
    | FailureReported
    | ProgressReported
    | OfferAnswered
    | OfferUndeliverable
    | OfferUnsendable
    | DrainRequested
    | ResumeRequested
    | ShutdownRequested
    | PoolPauseRequested
    | WindowRead
    | TimeAdvanced
    | ObservationResumed
    | BatchCommitted
)
