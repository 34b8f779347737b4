"""What tests write into a store: rows as the core would seal them, with as little said as possible."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from callboard.orchestrator.core.changes import (
    AgentRow,
    Changes,
    Ending,
    KeyHold,
    NewTask,
    TaskChange,
    TaskColumns,
    TaskDialogue,
)
from callboard.orchestrator.core.model import Dialogue, EndedAttempt
from callboard.orchestrator.store.port import NO_EVENTS, NOTHING_PUBLISHED, NOWHERE, Events
from callboard.schemas.tasks import TaskError, TaskSpec
from callboard.schemas.vocabulary import (
    ACCEPTED_TASK_STATES,
    HELD_TASK_STATES,
    AgentState,
    Outcome,
    TaskPriority,
    TaskState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from callboard.orchestrator.core.changes import StoredTask
    from callboard.orchestrator.store.port import Committed, Lease, Place, Published, Store

POOL = "default"
LEASE_MS = 60_000
RETENTION_MS = 7 * 86_400_000
T0 = 1_700_000_000_000
"""An instant in 2023: long past every retention."""
S = TaskState

_numbers = itertools.count(1)


def task_id() -> str:
    """An id that no other test of this process has; later ones sort later."""
    number = f"{next(_numbers):024x}"
    return f"{number[:8]}-{number[8:12]}-7{number[12:15]}-8{number[15:18]}-000000{number[18:]}"


def spec_json(**fields: Any) -> bytes:  # noqa: ANN401 - fields of any type
    return TaskSpec(**{"type": "lint", **fields}).without_payload()


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A task on its way: what the next change of it starts from."""

    new: NewTask
    columns: TaskColumns

    @property
    def task_id(self) -> str:
        return self.new.task_id

    def insert(self, *, ended: tuple[EndedAttempt, ...] = ()) -> TaskChange:
        return TaskChange(columns=self.columns, new=self.new, ended=ended)

    def insert_final(self, state: TaskState = S.CANCELLED, *, finished_ms: int = T0) -> TaskChange:
        return replace(self.finish(state, finished_ms=finished_ms)[1], new=self.new, guard=None)

    def move(self, state: TaskState, **columns: Any) -> tuple[Draft, TaskChange]:  # noqa: ANN401 - fields of any type
        """The same task in another live state, guarded by the one before."""
        is_held = state in HELD_TASK_STATES
        before = self.columns
        attempt = max(before.attempt + (state is S.ASSIGNED), int(is_held))
        given = {
            "state": state,
            "version": before.version + 1,
            "attempt": attempt,
            "agent_id": "agent-1" if is_held else None,
            "incarnation": "i-1" if is_held else None,
            "assigned_ms": T0 + attempt if is_held else None,
            "started_ms": T0 + attempt + 1 if state in ACCEPTED_TASK_STATES else None,
            "until_ms": T0 + 500 if state is S.DEFERRED else None,
            "reason": "backoff" if state is S.DEFERRED else None,
            "updated_ms": before.updated_ms + 1,
            **columns,
        }
        after = replace(before, **given)
        ended: tuple[EndedAttempt, ...] = ()
        if before.state in HELD_TASK_STATES and not is_held:
            ended = (ended_attempt(before.attempt, state=state),)
        change = TaskChange(columns=after, guard=(before.state, before.attempt), ended=ended)
        return replace(self, columns=after), change

    def finish(
        self,
        state: TaskState = S.SUCCEEDED,
        *,
        finished_ms: int = T0,
        error: TaskError | None = None,
        result: bytes = b'{"ok": true}',
    ) -> tuple[Draft, TaskChange]:
        before = self.columns
        after = replace(before, state=state, version=before.version + 1, updated_ms=finished_ms, until_ms=None)
        is_held = before.state in HELD_TASK_STATES
        ended = (ended_attempt(before.attempt, state=state, error=error),) if is_held else ()
        ending = Ending(finished_ms=finished_ms, result=result if state is S.SUCCEEDED else None, error=error)
        change = TaskChange(columns=after, guard=(before.state, before.attempt), ended=ended, ending=ending)
        return replace(self, columns=after), change


def draft(
    *,
    key: str | None = None,
    scope: str = "client",
    priority: TaskPriority = TaskPriority.NORMAL,
    created_ms: int = T0,
    order_ms: int | None = None,
    payload: bytes = b'{"path": "x.py"}',
    digest: bytes = b"d" * 32,
    retry_of: str | None = None,
    task_type: str = "lint",
    placement: str = "lint|||",
    deadline_ms: int | None = None,
    concurrency: tuple[str, int] | None = None,
    **spec: Any,  # noqa: ANN401 - fields of any type
) -> Draft:
    """A queued task."""
    new = NewTask(
        task_id=task_id(),
        type=task_type,
        priority=priority.rank,
        created_ms=created_ms,
        order_ms=created_ms if order_ms is None else order_ms,
        placement=placement,
        deadline_ms=deadline_ms,
        spec=spec_json(type=task_type, key=key if scope == "client" else None, priority=priority, **spec),
        payload=payload,
        key_scope=None if key is None else scope,
        key=key,
        digest=digest,
        retry_of=retry_of,
        concurrency_key=None if concurrency is None else concurrency[0],
        concurrency_limit=None if concurrency is None else concurrency[1],
    )
    columns = TaskColumns(
        task_id=new.task_id,
        state=S.QUEUED,
        version=1,
        attempt=0,
        agent_id=None,
        incarnation=None,
        assigned_ms=None,
        started_ms=None,
        updated_ms=created_ms,
        until_ms=None,
        reason=None,
        spent=0,
        crashes=0,
        crashed_on=(),
        progress=None,
    )
    return Draft(new=new, columns=columns)


def ended_attempt(attempt: int, *, state: TaskState = S.QUEUED, error: TaskError | None = None) -> EndedAttempt:
    return EndedAttempt(
        attempt=attempt,
        agent_id="agent-1",
        incarnation="i-1",
        started_ms=T0 + attempt,
        ended_ms=T0 + attempt + 10,
        outcome=Outcome.SUCCEEDED if state is S.SUCCEEDED else Outcome.FAILED,
        state=state,
        error=error,
    )


def agent_row(agent_id: str = "agent-1", **fields: Any) -> AgentRow:  # noqa: ANN401 - fields of any type
    given: dict[str, Any] = {
        "agent_id": agent_id,
        "state": AgentState.ONLINE,
        "incarnation": "i-1",
        "replaced": ("i-0",),
        "role": "tester",
        "capabilities": ("go", "python"),
        "labels": {"zone": "a", "gpus": 2, "spot": True, "load": 0.5},
        "metadata": {"note": "ünï\n"},
        "slots": 4,
        "version": "1.2",
        "operator_drain": False,
        "own_drain": True,
        "spawned": False,
        "seen_ms": T0,
        **fields,
    }
    return AgentRow(**given)


def dialogue(*, attempt: int = 1, **fields: Any) -> Dialogue:  # noqa: ANN401 - fields of any type
    """An open question."""
    return Dialogue(**{"attempt": attempt, "query": 1, "asked_ms": T0, "prompt": "ünï?", **fields})


class Owner:
    """A lease and the number of its next batch."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self.store = store
        self.lease = lease
        self.number = lease.batch

    async def commit(
        self,
        *tasks: TaskChange,
        agents: tuple[AgentRow, ...] = (),
        forget: tuple[str, ...] = (),
        keep: tuple[KeyHold, ...] = (),
        drop: tuple[KeyHold, ...] = (),
        asked: tuple[TaskDialogue, ...] = (),
        events: Events = NO_EVENTS,
        published: Published = NOTHING_PUBLISHED,
    ) -> Committed:
        """Commit the next batch."""
        self.number += 1
        return await self.again(
            *tasks, agents=agents, forget=forget, keep=keep, drop=drop, asked=asked, events=events, published=published
        )

    async def again(
        self,
        *tasks: TaskChange,
        agents: tuple[AgentRow, ...] = (),
        forget: tuple[str, ...] = (),
        keep: tuple[KeyHold, ...] = (),
        drop: tuple[KeyHold, ...] = (),
        asked: tuple[TaskDialogue, ...] = (),
        events: Events = NO_EVENTS,
        published: Published = NOTHING_PUBLISHED,
    ) -> Committed:
        """Commit the last batch once more."""
        changes = Changes(
            tasks=tasks,
            agents=agents,
            forgotten_agents=forget,
            dialogues=asked,
            kept_holds=keep,
            dropped_holds=drop,
        )
        return await self.store.commit(
            self.lease, self.number, changes, lease_ms=LEASE_MS, events=events, published=published
        )

    async def state_of(self, task_id: str) -> TaskState | None:
        return (await self.store.look_up(self.lease.pool, task_id)).state


def told(*tasks: TaskChange, agents: bytes | None = None) -> Events:
    """A line of each change, by which it is known."""
    lines = {change.columns.task_id: line_of(change) for change in tasks}
    return Events(tasks=lines, agents=agents)


def line_of(change: TaskChange) -> bytes:
    return f'{{"task_id":"{change.columns.task_id}","version":{change.columns.version}}}'.encode()


async def kept_lines(store: Store, pool: str = POOL) -> list[tuple[Place, list[bytes]]]:
    """What the outbox holds, by batches; within one the order says nothing."""
    rows = await store.outbox(pool, NOWHERE, limit=1_000)
    return [(row.place, sorted(row.lines.split(b"\n"))) for row in rows if row.lines]


async def own(store: Store, pool: str = POOL, *, holder: str = "holder-1", lease_ms: int = LEASE_MS) -> Owner:
    """Take a pool that is free."""
    lease = await store.acquire(pool, holder=holder, replica="replica-1", lease_ms=lease_ms)
    assert lease is not None
    return Owner(store, lease)


def ids_of(stored: Iterable[StoredTask]) -> list[str]:
    return [each.columns.task_id for each in stored]


def as_json(message: object) -> Any:  # noqa: ANN401 - any JSON value
    """A message as its reader gets it: raw parts compare by content."""
    return msgspec.json.decode(msgspec.json.encode(message))
