"""What happens to a pool: the inputs of the machine, in the past tense. All values, no behaviour.

`ticket` is whatever the shell needs to answer a request; the core only hands it back in an effect.
A request about a task that is not in memory is looked up by the shell, which repeats the event with `looked` set.
"""

import msgspec

from callboard.orchestrator.core.changes import StoredTask, WindowAsked
from callboard.orchestrator.core.model import EndedAttempt, Held
from callboard.schemas.agents import AssignAnswer, Heartbeat, Register, ReportProgress, ReportQuery
from callboard.schemas.tasks import TaskError, TaskSpec
from callboard.schemas.vocabulary import TaskState

Ticket = object


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What the database says of a task: its state (`None`: there is no such task) and its kept attempts.

    `stored` is the task itself while it is live.
    """

    state: TaskState | None
    ended: tuple[EndedAttempt, ...] = ()
    stored: StoredTask | None = None


class TaskSubmitted(msgspec.Struct, frozen=True, kw_only=True):
    """A client asked for a task. `payload` and `spec_json` are opaque here; `digest` identifies the content."""

    ticket: Ticket
    task_id: str
    spec: TaskSpec
    spec_json: bytes
    payload: bytes
    digest: bytes
    retry_of: str | None = None


class TasksSubmitted(msgspec.Struct, frozen=True):
    """A client asked for many tasks at once: they go into one batch, in this order."""

    submissions: tuple[TaskSubmitted, ...]


class CancelRequested(msgspec.Struct, frozen=True, kw_only=True):
    """A client wants a task cancelled."""

    ticket: Ticket
    task_id: str
    reason: str | None = None
    looked: Looked | None = None
    stamp: int = 0
    """When it was looked up, see `absent`."""


class CompletionRequested(msgspec.Struct, frozen=True, kw_only=True):
    """A client finishes a task itself."""

    ticket: Ticket
    task_id: str
    result: bytes
    looked: Looked | None = None
    stamp: int = 0
    """As in `CancelRequested`."""


class AnswerGiven(msgspec.Struct, frozen=True, kw_only=True):
    """A client answers what a task's agent asked; without `attempt` or `query`, the question that is open."""

    ticket: Ticket
    task_id: str
    answer: bytes
    attempt: int | None = None
    query: int | None = None
    looked: Looked | None = None
    stamp: int = 0
    """As in `CancelRequested`."""


class AgentSpawned(msgspec.Struct, frozen=True, kw_only=True):
    """A process was started for this agent id; it is silent yet."""

    agent_id: str


class SpawnAbandoned(msgspec.Struct, frozen=True, kw_only=True):
    """The process of this agent id is gone for good."""

    agent_id: str


class AgentRegistered(msgspec.Struct, frozen=True, kw_only=True):
    """An agent signed in."""

    ticket: Ticket
    agent_id: str
    message: Register


class HeartbeatReceived(msgspec.Struct, frozen=True, kw_only=True):
    """An agent said that it lives, and what it runs."""

    ticket: Ticket
    agent_id: str
    message: Heartbeat


class AgentLeft(msgspec.Struct, frozen=True, kw_only=True):
    """An agent said goodbye."""

    ticket: Ticket
    agent_id: str
    incarnation: str
    reason: str | None = None


class ResultReported(msgspec.Struct, frozen=True, kw_only=True):
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


class FailureReported(msgspec.Struct, frozen=True, kw_only=True):
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


class ProgressReported(msgspec.Struct, frozen=True, kw_only=True):
    """An agent published progress; `progress` is the JSON to keep."""

    agent_id: str
    message: ReportProgress
    progress: bytes


class QuestionAsked(msgspec.Struct, frozen=True, kw_only=True):
    """An agent asks something, as its attempt's question number `query`."""

    ticket: Ticket
    agent_id: str
    message: ReportQuery


class AnswerDelivered(msgspec.Struct, frozen=True, kw_only=True):
    """An agent has the answer to its question number `query`."""

    agent_id: str
    held: Held
    query: int


class OfferAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """An agent answered an offer."""

    agent_id: str
    held: Held
    answer: AssignAnswer


class OfferUndeliverable(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody listens on the agent's subject."""

    agent_id: str
    held: Held


class OfferUnsendable(msgspec.Struct, frozen=True, kw_only=True):
    """The offer does not fit into a message that NATS takes now."""

    agent_id: str
    held: Held
    error: TaskError


class DrainRequested(msgspec.Struct, frozen=True, kw_only=True):
    """An operator wants an agent to take nothing new; with `grace_ms`, what still runs then is released."""

    ticket: Ticket
    agent_id: str
    grace_ms: int | None = None


class ResumeRequested(msgspec.Struct, frozen=True, kw_only=True):
    """An operator lets an agent take tasks again."""

    ticket: Ticket
    agent_id: str


class ShutdownRequested(msgspec.Struct, frozen=True, kw_only=True):
    """An operator stops an agent."""

    ticket: Ticket
    agent_id: str
    grace_ms: int | None = None
    reason: str | None = None


class PoolPauseRequested(msgspec.Struct, frozen=True, kw_only=True):
    """An operator wants the pool, or a type of task in it, paused or resumed."""

    ticket: Ticket
    type: str | None
    paused: bool


class WindowRead(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for: the tasks of each lane, and of the agenda, in their order."""

    asked: WindowAsked
    lanes: tuple[tuple[StoredTask, ...], ...]
    agenda: tuple[StoredTask, ...]


class TimeAdvanced(msgspec.Struct, frozen=True):
    """Some timer may be due."""


class ObservationResumed(msgspec.Struct, frozen=True):
    """The database or the bus is back: nothing was heard for a while, so nobody may be judged by that silence."""


class BatchCommitted(msgspec.Struct, frozen=True, kw_only=True):
    """Batch `number` is durable; `refused` are new tasks whose key belongs to another task: they do not exist."""

    number: int
    refused: frozenset[str] = frozenset()


Event = (
    TaskSubmitted
    | TasksSubmitted
    | CancelRequested
    | CompletionRequested
    | AnswerGiven
    | AgentSpawned
    | SpawnAbandoned
    | AgentRegistered
    | HeartbeatReceived
    | AgentLeft
    | ResultReported
    | FailureReported
    | ProgressReported
    | QuestionAsked
    | AnswerDelivered
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
