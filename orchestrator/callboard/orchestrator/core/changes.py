"""What a batch writes: immutable rows, at most one per task and one per agent.

The store writes a batch in one transaction that begins with the lease check; each row is guarded by the state and
attempt that the batch before left (protocol, section 6; the lease: `leases`).
"""

from typing import NamedTuple

import msgspec

from callboard.orchestrator.core.model import Dialogue, EndedAttempt
from callboard.schemas.labels import LabelValue
from callboard.schemas.tasks import TaskError
from callboard.schemas.vocabulary import AgentState, TaskState
from callboard.schemas.why import AgentScore


class TaskColumns(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a task that change over its life."""

    task_id: str
    state: TaskState
    version: int
    attempt: int
    agent_id: str | None
    incarnation: str | None
    assigned_ms: int | None
    started_ms: int | None
    updated_ms: int
    until_ms: int | None
    reason: str | None
    spent: int
    crashes: int
    crashed_on: tuple[str, ...]
    progress: bytes | None
    scores: tuple[AgentScore, ...] = ()
    """The best scores of the decision that placed the attempt in hand."""


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a task that never change.

    `key_scope` is `client` for a key of the client's, `retry` for the id of the task that this one retries.
    """

    task_id: str
    type: str
    priority: int
    created_ms: int
    order_ms: int
    placement: str
    deadline_ms: int | None
    spec: bytes
    payload: bytes
    key_scope: str | None = None
    key: str | None = None
    digest: bytes = b""
    retry_of: str | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What a task's end adds: it moves to the history."""

    finished_ms: int
    result: bytes | None
    error: TaskError | None


class TaskChange(msgspec.Struct, frozen=True, kw_only=True):
    """One task's write. `new` inserts it; else `guard` is the state and attempt that the row must have.

    `ended` are the attempts that ended in this batch, to be appended to the kept ones. With `ending` the row goes to
    the history; `new` and `ending` together go there straight.
    """

    columns: TaskColumns
    new: NewTask | None = None
    guard: tuple[TaskState, int] | None = None
    ended: tuple[EndedAttempt, ...] = ()
    ending: Ending | None = None


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's row, written whole."""

    agent_id: str
    state: AgentState
    incarnation: str | None
    replaced: tuple[str, ...]
    role: str | None
    capabilities: tuple[str, ...]
    labels: dict[str, LabelValue]
    metadata: dict[str, str]
    slots: int
    version: str | None
    operator_drain: bool
    own_drain: bool
    spawned: bool
    seen_ms: int


class TaskDialogue(NamedTuple):
    """What the attempt in hand of a task asked last; `None` when that attempt is over."""

    task_id: str
    dialogue: Dialogue | None


class KeyHold(NamedTuple):
    """An attempt that is over and still counts for its concurrency key, because its agent may still run it."""

    agent_id: str
    task_id: str
    attempt: int
    key: str


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one batch writes."""

    tasks: tuple[TaskChange, ...] = ()
    agents: tuple[AgentRow, ...] = ()
    forgotten_agents: tuple[str, ...] = ()
    pauses: tuple[str, ...] = ()
    """Types of task that are paused from now; the empty text is the whole pool."""
    resumes: tuple[str, ...] = ()
    dialogues: tuple[TaskDialogue, ...] = ()
    kept_holds: tuple[KeyHold, ...] = ()
    dropped_holds: tuple[KeyHold, ...] = ()
    """Those of earlier batches that count no longer."""

    def __bool__(self) -> bool:
        return bool(
            self.tasks
            or self.agents
            or self.forgotten_agents
            or self.pauses
            or self.resumes
            or self.dialogues
            or self.kept_holds
            or self.dropped_holds
        )


class StoredTask(msgspec.Struct, frozen=True, kw_only=True):
    """A live task as it stands in the database: what a new owner starts from. `spec` is JSON without the payload."""

    columns: TaskColumns
    spec: bytes
    created_ms: int
    order_ms: int
    deadline_ms: int | None
    last_end: EndedAttempt | None


class LaneRead(msgspec.Struct, frozen=True, kw_only=True):
    """Which queued tasks of one placement class and one priority to read: `limit` from `(from_ms, from_id)` on."""

    placement: str
    priority: int
    from_ms: int
    from_id: str
    limit: int


class AgendaRead(msgspec.Struct, frozen=True, kw_only=True):
    """Which waiting tasks to read by the instant at which time will change them: `limit` from `(from_ms, from_id)` on.

    The instant is the earlier one of `until_ms` and `deadline_ms`.
    """

    from_ms: int
    from_id: str
    limit: int


class WindowAsked(msgspec.Struct, frozen=True, kw_only=True):
    """One read of the window; `stamp` tells what left memory after it began."""

    lanes: tuple[LaneRead, ...]
    agenda: AgendaRead | None
    stamp: int


class KeyLimit(NamedTuple):
    """How many live tasks of a concurrency key have this limit."""

    key: str
    limit: int
    tasks: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The committed state of a pool at a take-over, without what merely waits.

    `held` are the tasks in the hands of agents, `dialogues` what those asked last, by task; `heads` the first queued
    task of each placement class and priority; `counts` has every live state. The other waiting tasks are read when they
    are wanted.
    """

    held: list[StoredTask] = msgspec.field(default_factory=list[StoredTask])
    heads: list[StoredTask] = msgspec.field(default_factory=list[StoredTask])
    counts: dict[TaskState, int] = msgspec.field(default_factory=dict[TaskState, int])
    limits: list[KeyLimit] = msgspec.field(default_factory=list[KeyLimit])
    key_holds: list[KeyHold] = msgspec.field(default_factory=list[KeyHold])
    dialogues: dict[str, Dialogue] = msgspec.field(default_factory=dict[str, Dialogue])
    agents: list[AgentRow] = msgspec.field(default_factory=list[AgentRow])
    pauses: tuple[str, ...] = ()
