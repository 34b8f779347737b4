"""Messages about tasks (protocol, section 4): the specification, the document, and the client's requests.

A specification refuses unknown fields, since a misspelt requirement must not widen placement.
"""

import hashlib
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from callboard.schemas.base import Message
from callboard.schemas.errors import ErrorBody
from callboard.schemas.labels import LabelMatch, Preference
from callboard.schemas.limits import LIST_LIMIT, SUBMIT_MANY, WAIT_MANY, WAIT_MS
from callboard.schemas.names import (
    NO_NUL_PATTERN,
    AgentId,
    Attempt,
    Count,
    DurationMs,
    Incarnation,
    Instant,
    Key,
    LimitMs,
    Name,
    Query,
    ShortText,
    TaskId,
    Text,
    Traceparent,
    is_traceparent,
)
from callboard.schemas.vocabulary import (
    OnUnsatisfiable,
    Outcome,
    TaskAssignmentStrategy,
    TaskPriority,
    TaskState,
)

NULL: Final = Raw(b"null")
DEFAULT_MAX_ATTEMPTS: Final = 3
DEFAULT_CONCURRENCY_LIMIT: Final = 1

Capabilities = Annotated[list[Name], Meta(max_length=256)]
Metadata = Annotated[dict[Annotated[str, Meta(max_length=256, pattern=NO_NUL_PATTERN)], Text], Meta(max_length=256)]


class Requirements(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an agent must have to be eligible. All given parts must hold."""

    role: Name | None = None
    agent_id: AgentId | None = None
    capabilities: Capabilities | None = None
    labels: Annotated[list[LabelMatch], Meta(max_length=64)] | None = None


class Backoff(Message, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """The delay before attempt n + 1: full jitter over `min(initial_ms * factor ** (n - 1), max_ms)`.

    Always encoded whole: `omit_defaults` compares by identity, and equal content must have an equal digest.
    """

    initial_ms: DurationMs = 1000
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_ms: DurationMs = 60_000


Preferences = Annotated[list[Preference], Meta(max_length=64)]


class TaskSpec(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task as a client submits it; durations in milliseconds.

    `traceparent` (W3C) is the trace that the task belongs to; it is no part of the content that a key stands for.
    `payload` is any JSON, kept byte by byte. Give at most one of `deadline` and `ttl_ms`, and of `not_before`
    and `delay_ms`. A `concurrency_key` without a `concurrency_limit` is exclusive: one task of it at a time.
    """

    type: Name
    description: Text | None = None
    payload: Raw = NULL
    metadata: Metadata | None = None
    priority: TaskPriority | None = None
    key: Key | None = None
    requires: Requirements | None = None
    prefers: Preferences | None = None
    affinity_key: Key | None = None
    concurrency_key: Key | None = None
    concurrency_limit: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    strategy: TaskAssignmentStrategy | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=1000)] | None = None
    backoff: Backoff | None = None
    run_timeout_ms: LimitMs | None = None
    progress_timeout_ms: LimitMs | None = None
    deadline: Instant | None = None
    ttl_ms: LimitMs | None = None
    not_before: Instant | None = None
    delay_ms: DurationMs | None = None
    on_unsatisfiable: OnUnsatisfiable | None = None
    traceparent: Traceparent | None = None

    def __post_init__(self) -> None:
        if self.traceparent is not None and not is_traceparent(self.traceparent):
            raise ValueError("traceparent names no trace, or no parent")
        if self.deadline is not None and self.ttl_ms is not None:
            raise ValueError("give deadline or ttl_ms, not both")
        if self.not_before is not None and self.delay_ms is not None:
            raise ValueError("give not_before or delay_ms, not both")
        if self.concurrency_limit is not None and self.concurrency_key is None:
            raise ValueError("concurrency_limit needs a concurrency_key")

    @property
    def limit_of_key(self) -> int | None:
        """How many tasks of its concurrency key may run at once; `None` without a key."""
        return None if self.concurrency_key is None else self.concurrency_limit or DEFAULT_CONCURRENCY_LIMIT

    def without_payload(self) -> bytes:
        """The specification as JSON less its payload: what is stored beside the payload."""
        return msgspec.json.encode(msgspec.structs.replace(self, payload=NULL))

    def content_digest(self) -> bytes:
        """32 bytes that are equal for equal content: defaults filled in, the payload byte by byte."""
        digest = _digest_of_rest(
            msgspec.json.encode(msgspec.structs.replace(self, payload=NULL, key=None, traceparent=None))
        ).copy()
        digest.update(bytes(self.payload))
        return digest.digest()


# Most tasks of a client differ in their payload alone.
@lru_cache(maxsize=128)
def _digest_of_rest(spec_json: bytes) -> "hashlib._Hash":
    """The digest up to the payload, of a specification without payload and key."""
    spec = msgspec.json.decode(spec_json, type=TaskSpec)
    requires = spec.requires or Requirements()
    filled = msgspec.structs.replace(
        spec,
        metadata=spec.metadata or {},
        priority=spec.priority or TaskPriority.NORMAL,
        requires=msgspec.structs.replace(requires, capabilities=sorted(set(requires.capabilities or ()))),
        max_attempts=spec.max_attempts or DEFAULT_MAX_ATTEMPTS,
        concurrency_limit=spec.limit_of_key,
        backoff=spec.backoff or Backoff(),
        on_unsatisfiable=spec.on_unsatisfiable or OnUnsatisfiable.WAIT,
    )
    return hashlib.sha256(msgspec.json.encode(filled, order="deterministic"))


class SubmitAnswer(Message, frozen=True, kw_only=True):
    """The answer to `tasks.submit`, sent after the commit."""

    task_id: str
    state: TaskState
    created: bool
    satisfiable: bool


class SubmitMany(Message, frozen=True, kw_only=True):
    """`tasks.submit_many`: specifications, taken as if sent in order, in one transaction."""

    tasks: Annotated[list[Raw], Meta(min_length=1, max_length=SUBMIT_MANY)]


class SubmitResult(Message, frozen=True, kw_only=True):
    """What became of one of many: the fields of `SubmitAnswer`, or `error`."""

    task_id: str | None = None
    state: TaskState | None = None
    created: bool | None = None
    satisfiable: bool | None = None
    error: ErrorBody | None = None


class SubmitManyAnswer(Message, frozen=True, kw_only=True):
    """One result for each specification, in their order."""

    results: list[SubmitResult]


class TaskError(Message, frozen=True, kw_only=True):
    """Why an attempt failed, as its agent (or the orchestrator, for limits) says it."""

    message: Text
    type: ShortText | None = None
    retryable: bool | None = None
    retry_after_ms: DurationMs | None = None


class Progress(Message, frozen=True, kw_only=True):
    """The last progress of a task."""

    percent: Annotated[float, Meta(ge=0, le=100)] | None = None
    message: Text | None = None
    data: Raw | UnsetType = UNSET


class Question(Message, frozen=True, kw_only=True):
    """What the agent of a task in `waiting_input` asks; `data` is any JSON."""

    query: int
    prompt: str
    data: Raw | UnsetType = UNSET
    asked_at: Instant


class AttemptRecord(Message, frozen=True, kw_only=True):
    """One attempt of a task: who had it, when, and how it ended (`outcome` absent while it runs)."""

    attempt: int
    agent_id: str
    started_at: Instant
    ended_at: Instant | None = None
    outcome: Outcome | None = None
    error: TaskError | None = None


class TaskDocument(Message, frozen=True, kw_only=True):
    """The answer to `tasks.get` and `tasks.wait`; `tasks.list` leaves out payload, result, data and attempts.

    `payload`, `result` and `progress.data` are any JSON, `null` too, so that what is absent is `UNSET` there
    (and msgspec decodes `Raw | None` as `None` only).
    """

    task_id: str
    state: TaskState
    version: int
    type: str
    priority: TaskPriority
    attempt: int
    created_at: Instant
    updated_at: Instant
    description: str | None = None
    payload: Raw | UnsetType = UNSET
    metadata: dict[str, str] | None = None
    key: str | None = None
    requires: Requirements | None = None
    prefers: Preferences | None = None
    affinity_key: str | None = None
    traceparent: str | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    strategy: TaskAssignmentStrategy | None = None
    max_attempts: int | None = None
    backoff: Backoff | None = None
    run_timeout_ms: int | None = None
    progress_timeout_ms: int | None = None
    deadline: Instant | None = None
    ttl_ms: int | None = None
    not_before: Instant | None = None
    delay_ms: int | None = None
    on_unsatisfiable: OnUnsatisfiable | None = None
    agent_id: str | None = None
    incarnation: str | None = None
    started_at: Instant | None = None
    finished_at: Instant | None = None
    reason: str | None = None
    until: Instant | None = None
    progress: Progress | None = None
    question: Question | None = None
    result: Raw | UnsetType = UNSET
    error: TaskError | None = None
    retry_of: str | None = None
    attempts: list[AttemptRecord] | None = None

    def result_value(self) -> Any:  # noqa: ANN401 - a result is any JSON value
        """The decoded result, `None` when there is none."""
        return None if isinstance(self.result, UnsetType) else msgspec.json.decode(self.result)


class GetTask(Message, frozen=True, kw_only=True):
    """`tasks.get`: exactly one of the two."""

    task_id: TaskId | None = None
    key: Key | None = None

    def __post_init__(self) -> None:
        if (self.task_id is None) == (self.key is None):
            raise ValueError("give task_id or key, exactly one of them")


class ListTasks(Message, frozen=True, kw_only=True):
    """`tasks.list`: newest first; the cursor is opaque."""

    state: TaskState | None = None
    type: Name | None = None
    agent_id: AgentId | None = None
    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT)] | None = None
    cursor: Annotated[str, Meta(max_length=512)] | None = None


class TaskPage(Message, frozen=True, kw_only=True):
    """A page of tasks, at most as many as fit into one message; only the last one has no `cursor`."""

    tasks: list[TaskDocument]
    cursor: str | None = None


class WaitTask(Message, frozen=True, kw_only=True):
    """`tasks.wait`: answered when the task is final, or as it stands after `timeout_ms`."""

    task_id: TaskId
    timeout_ms: Annotated[int, Meta(ge=0, le=WAIT_MS)]


class WaitMany(Message, frozen=True, kw_only=True):
    """`tasks.wait_many`: answered when one of the tasks is final, or after `timeout_ms`."""

    task_ids: Annotated[list[TaskId], Meta(min_length=1, max_length=WAIT_MANY)]
    timeout_ms: Annotated[int, Meta(ge=0, le=WAIT_MS)]


class WaitManyAnswer(Message, frozen=True, kw_only=True):
    """The tasks that are final, as many as fit into the answer, and the ids that no task of the pool has."""

    tasks: list[TaskDocument]
    unknown: list[str]


class CancelTask(Message, frozen=True, kw_only=True):
    """`tasks.cancel`."""

    task_id: TaskId
    reason: ShortText | None = None


class RetryTask(Message, frozen=True, kw_only=True):
    """`tasks.retry`: a new task of the same specification, for a final and unsuccessful one."""

    task_id: TaskId


class CompleteTask(Message, frozen=True, kw_only=True):
    """`tasks.complete`: a client finishes a task that is not final."""

    task_id: TaskId
    result: Raw = NULL


class AnswerTask(Message, frozen=True, kw_only=True):
    """`tasks.answer`: to the question that is open; with `attempt` and `query` to that one only."""

    task_id: TaskId
    attempt: Attempt | None = None
    query: Query | None = None
    answer: Raw = NULL


class TaskChange(Message, frozen=True, kw_only=True):
    """The answer to an operator's verb on a task; `changed: false` when it was so already."""

    task_id: str
    state: TaskState
    changed: bool


class AttemptRef(Message, frozen=True, kw_only=True):
    """A task and one of its attempts: the pair that fences."""

    task_id: TaskId
    attempt: Attempt


class TaskEvent(Message, frozen=True, kw_only=True):
    """A change of a task, without payload and result: the data of what `event.task.<state>.<task_id>` carries."""

    task_id: str
    pool: str
    type: str
    state: TaskState
    version: int
    attempt: int
    at: Instant
    agent_id: str | None = None
    incarnation: Incarnation | None = None
    reason: str | None = None
    until: Instant | None = None
    error: TaskError | None = None
    outcome: Outcome | None = None
    traceparent: str | None = None


class TaskCounts(Message, frozen=True, kw_only=True):
    """Tasks by state: live ones exact, final ones since the owner took over."""

    by_state: dict[TaskState, Count]
    oldest_queued_ms: Count | None = None
