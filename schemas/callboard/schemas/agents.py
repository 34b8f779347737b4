"""Messages between orchestrator and agents, and about agents (protocol, sections 3 and 5)."""

from typing import Annotated

from msgspec import UNSET, Meta, Raw, UnsetType

from callboard.schemas.base import Message
from callboard.schemas.errors import ErrorBody
from callboard.schemas.labels import Labels, LabelValue
from callboard.schemas.limits import BATCH_ITEMS, LIST_LIMIT
from callboard.schemas.names import (
    AgentId,
    Attempt,
    Count,
    DurationMs,
    Incarnation,
    Instant,
    Name,
    Query,
    ShortText,
    Slots,
    TaskId,
    Text,
)
from callboard.schemas.tasks import NULL, AttemptRef, Capabilities, Metadata, Progress, TaskError
from callboard.schemas.vocabulary import AgentState, DatabaseHealth, TaskPriority, TaskState

Running = Annotated[list[AttemptRef], Meta(max_length=10_000)]


class Register(Message, frozen=True, kw_only=True):
    """`register`: an agent signs in, listing in `running` every attempt that it still holds."""

    incarnation: Incarnation
    role: Name | None = None
    capabilities: Capabilities | None = None
    labels: Labels | None = None
    slots: Slots | None = None
    version: ShortText | None = None
    metadata: Metadata | None = None
    running: Running | None = None
    draining: bool | None = None
    batches: bool | None = None
    """Whether it takes `assign_many`; all may send `report_many`."""


class RegisterAnswer(Message, frozen=True, kw_only=True):
    """`cancel` lists what was claimed and is not wanted; `drain` says that the agent may take nothing new."""

    agent_id: str
    pool: str
    epoch: int
    heartbeat_interval_ms: int
    lease_ms: int
    cancel: list[AttemptRef]
    drain: bool
    server_time: Instant


class Heartbeat(Message, frozen=True, kw_only=True):
    """`heartbeat`: `running` lists every accepted attempt whose complete or fail has not been answered."""

    incarnation: Incarnation
    seq: Count
    running: Running
    draining: bool | None = None
    batches: bool | None = None
    """As in `register`, for an owner that was not there then."""


class HeartbeatAnswer(Message, frozen=True, kw_only=True):
    """Computed from committed state only; `cancel` is empty while the database is away."""

    epoch: int
    heartbeat_interval_ms: int
    lease_ms: int
    cancel: list[AttemptRef]
    drain: bool
    database: DatabaseHealth


class Assign(Message, frozen=True, kw_only=True):
    """`assign`, orchestrator to agent: an offer whose attempt is committed already."""

    epoch: Count
    task_id: TaskId
    attempt: Attempt
    type: Name
    payload: Raw = NULL
    priority: TaskPriority
    metadata: dict[str, str]
    description: str | None = None
    remaining_ms: DurationMs | None = None
    run_timeout_ms: DurationMs | None = None
    progress: Progress | None = None
    traceparent: str | None = None


class AssignAnswer(Message, frozen=True, kw_only=True):
    """`accepted: false` is free of cost; the agent is skipped for `retry_after_ms` (default 1,000)."""

    accepted: bool
    reason: ShortText | None = None
    retry_after_ms: DurationMs | None = None


class AssignMany(Message, frozen=True, kw_only=True):
    """`assign_many`, to an agent that takes batches: offers as in `assign`, each of which has the epoch too."""

    epoch: Count
    offers: Annotated[list[Assign], Meta(min_length=1, max_length=BATCH_ITEMS)]


class AssignManyAnswer(Message, frozen=True, kw_only=True):
    """One answer for each offer, in their order."""

    answers: Annotated[list[AssignAnswer], Meta(max_length=BATCH_ITEMS)]


class ReportProgress(Message, frozen=True, kw_only=True):
    """`progress`, published by the agent; renews the no-progress clock."""

    task_id: TaskId
    attempt: Attempt
    incarnation: Incarnation
    percent: Annotated[float, Meta(ge=0, le=100)] | None = None
    message: Text | None = None
    data: Raw | UnsetType = UNSET


class ReportQuery(Message, frozen=True, kw_only=True):
    """`query`: the attempt asks something and waits; `query` counts its questions from 1. One is open at a time."""

    task_id: TaskId
    attempt: Attempt
    incarnation: Incarnation
    query: Query
    prompt: Text
    data: Raw | UnsetType = UNSET


class QueryRecorded(Message, frozen=True, kw_only=True):
    """The question is committed: the task waits for input, or has the answer already."""

    recorded: bool


class Complete(Message, frozen=True, kw_only=True):
    """`complete`, the agent's: repeated until recorded or refused for good."""

    task_id: TaskId
    attempt: Attempt
    incarnation: Incarnation
    result: Raw = NULL


class Fail(Message, frozen=True, kw_only=True):
    """`fail`: the attempt failed, as its agent says."""

    task_id: TaskId
    attempt: Attempt
    incarnation: Incarnation
    error: TaskError


class Report(Message, frozen=True, kw_only=True):
    """One of many reports: a `fail` if it has an `error`, else a `complete`."""

    task_id: TaskId
    attempt: Attempt
    result: Raw = NULL
    error: TaskError | None = None


class ReportMany(Message, frozen=True, kw_only=True):
    """`report_many`: reports of one incarnation, as if each had been sent by itself."""

    incarnation: Incarnation
    reports: Annotated[list[Report], Meta(min_length=1, max_length=BATCH_ITEMS)]


class Recorded(Message, frozen=True, kw_only=True):
    """The report is committed; after a `fail`, the task's new state and until when it is deferred."""

    recorded: bool
    state: TaskState | None = None
    until: Instant | None = None


class Reported(Message, frozen=True, kw_only=True):
    """What became of one of many reports: the fields of `Recorded`, or `error`."""

    recorded: bool | None = None
    state: TaskState | None = None
    until: Instant | None = None
    error: ErrorBody | None = None


class ReportManyAnswer(Message, frozen=True, kw_only=True):
    """One answer for each report, in their order."""

    answers: list[Reported]


class Leave(Message, frozen=True, kw_only=True):
    """`leave`: a clean goodbye; what the agent held is released."""

    incarnation: Incarnation
    reason: ShortText | None = None


class CancelAttempt(Message, frozen=True, kw_only=True):
    """`cancel`, orchestrator to agent: stop, send nothing more of it, unlist it."""

    epoch: Count
    task_id: TaskId
    attempt: Attempt
    reason: str | None = None


class GiveAnswer(Message, frozen=True, kw_only=True):
    """`answer`, orchestrator to agent: what was answered to a question; repeated until it is acknowledged."""

    epoch: Count
    task_id: TaskId
    attempt: Attempt
    query: Query
    answer: Raw = NULL


class Drain(Message, frozen=True, kw_only=True):
    """`drain`, orchestrator to agent."""

    epoch: Count


class Shutdown(Message, frozen=True, kw_only=True):
    """`shutdown`, orchestrator to agent: finish within `grace_ms`, leave, exit."""

    epoch: Count
    grace_ms: DurationMs
    reason: str | None = None


class SpawnAgent(Message, frozen=True, kw_only=True):
    """`agents.spawn`: start a process of a configured role; answered once it is online."""

    role: Name
    capabilities: Capabilities | None = None
    agent_id: AgentId | None = None
    slots: Slots | None = None
    labels: Labels | None = None
    env: Annotated[dict[str, Text], Meta(max_length=256)] | None = None


class SpawnAnswer(Message, frozen=True, kw_only=True):
    """The spawned agent."""

    agent_id: str
    state: AgentState


class AgentVerb(Message, frozen=True, kw_only=True):
    """`agents.drain`, `agents.resume`, `agents.shutdown`."""

    agent_id: AgentId
    grace_ms: DurationMs | None = None
    reason: ShortText | None = None


class AgentChange(Message, frozen=True, kw_only=True):
    """The answer to an operator's verb on an agent."""

    agent_id: str
    state: AgentState
    changed: bool


class GetAgent(Message, frozen=True, kw_only=True):
    """`agents.get`."""

    agent_id: AgentId


class ListAgents(Message, frozen=True, kw_only=True):
    """`agents.list`: by agent id; the cursor is opaque."""

    state: AgentState | None = None
    capability: Name | None = None
    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT)] | None = None
    cursor: Annotated[str, Meta(max_length=512)] | None = None


class AgentDocument(Message, frozen=True, kw_only=True):
    """The answer to `agents.get`, and an entry of `agents.list`."""

    agent_id: str
    state: AgentState
    role: str | None
    capabilities: list[str]
    labels: dict[str, LabelValue]
    slots: int
    slots_used: int
    incarnation: str | None
    version: str | None
    last_seen_at: Instant | None
    tasks: list[AttemptRef]
    success_rate: float | None
    draining: bool = False
    metadata: dict[str, str] | None = None
    spawned: bool = False


class AgentPage(Message, frozen=True, kw_only=True):
    """A page of agents, at most as many as fit into one message; only the last one has no `cursor`."""

    agents: list[AgentDocument]
    cursor: str | None = None


class AgentEvent(Message, frozen=True, kw_only=True):
    """A change of an agent: the data of what `event.agent.<state>.<agent_id>` carries.

    `revision` is `<epoch>-<batch>-<place>`: where the change was written.
    """

    agent_id: str
    pool: str
    state: AgentState
    revision: str
    at: Instant
    incarnation: str | None = None
    reason: str | None = None
