"""What a new owner starts from: all that is in hand, and of what merely waits no more than counts and heads.

Rules:
- No statement's cost grows with the queue's depth, but for the counts, which are read from indexes alone and have a
  time-out of their own.
- Only the owner writes the pool's rows, and the caller is the owner: nothing changes between the statements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import (
    LargeBinary,
    SmallInteger,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    true,
)

from callboard.orchestrator.core.changes import AgentRow, KeyHold, KeyLimit, Snapshot, StoredTask
from callboard.orchestrator.core.model import Dialogue
from callboard.orchestrator.store.driver import PgConnection, Record
from callboard.orchestrator.store.port import LIVE_STATES
from callboard.orchestrator.store.sql import Query, query
from callboard.orchestrator.store.stored import COLUMNS, stored_of
from callboard.orchestrator.store.tables import agent, key_hold, pool_pause, task, task_dialogue
from callboard.orchestrator.store.waiting import IN_POOL, QUEUED
from callboard.schemas.accepted import decoder_of_accepted
from callboard.schemas.labels import LabelValue
from callboard.schemas.vocabulary import HELD_TASK_STATES, AgentState

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

CLASSES: Final = 5_000
"""Placement classes whose heads one statement reads: there may be as many as there are tasks."""
COUNTING_S: Final = 60
"""Longer than other statements may take: one that gives up would never let a deep pool have an owner."""

_texts = msgspec.json.Decoder(tuple[str, ...])
_labels = decoder_of_accepted(dict[str, LabelValue])
_dialogue = decoder_of_accepted(Dialogue)
_metadata = msgspec.json.Decoder(dict[str, str])

_HELD: Final = query(
    select(*COLUMNS).where(
        IN_POOL, task.c.state.in_([literal_column(f"'{state}'") for state in sorted(HELD_TASK_STATES)])
    )
)
_COUNTS: Final = query(select(task.c.state, func.count().label("tasks")).where(IN_POOL).group_by(task.c.state))
_KEY: Final = (task.c.concurrency_key, task.c.concurrency_limit)
_LIMITS: Final = query(
    select(*_KEY, func.count().label("tasks")).where(IN_POOL, task.c.concurrency_key.is_not(None)).group_by(*_KEY)
)
_KEY_HOLDS: Final = query(
    select(
        key_hold.c.agent_id, cast(key_hold.c.task_id, Text).label("task_id"), key_hold.c.attempt, key_hold.c.key
    ).where(key_hold.c.pool == bindparam("pool"))
)
_DIALOGUES: Final = query(
    select(cast(task_dialogue.c.task_id, Text).label("task_id"), task_dialogue.c.body).where(
        task_dialogue.c.pool == bindparam("pool")
    )
)
_PAUSES: Final = query(
    select(pool_pause.c.type).where(pool_pause.c.pool == bindparam("pool")).order_by(pool_pause.c.type)
)
_AGENTS: Final = query(select(agent).where(agent.c.pool == bindparam("pool")).order_by(agent.c.agent_id))


_ONE: Final[ColumnElement[int]] = literal_column("1")
"""Not a parameter, whose value the planner would have to guess."""


def _heads_query() -> Query:
    """The first queued task of each placement class and priority, for `limit` classes after the class `after`.

    A loose scan: from each class the next one is found by one descent of the index, however many tasks lie between.
    """

    def least_placement(*conditions: ColumnElement[bool]) -> Any:  # noqa: ANN401 - a select of one column
        return select(task.c.placement).where(IN_POOL, QUEUED, *conditions).order_by(task.c.placement).limit(_ONE)

    first = least_placement(task.c.placement > bindparam("after", type_=LargeBinary)).subquery("first")
    every = select(first.c.placement).cte("class", recursive=True)
    following = least_placement(task.c.placement > every.c.placement).lateral("following")
    every = every.union_all(select(following.c.placement).select_from(every.join(following, true())))
    some = select(every.c.placement).limit(bindparam("limit")).subquery("some")
    rank = func.generate_series(*map(literal_column, ("0", "3"))).table_valued("priority").render_derived(name="rank")
    head = (
        select(*COLUMNS, task.c.priority)
        .where(IN_POOL, QUEUED, task.c.placement == some.c.placement)
        .where(task.c.priority == cast(rank.c.priority, SmallInteger))
        .order_by(task.c.order_ms, task.c.id)
        .limit(_ONE)
        .lateral("head")
    )
    return query(select(some.c.placement, *head.c).select_from(some.join(rank, true()).join(head, true())))


_HEADS: Final = _heads_query()


async def load(pg: PgConnection, pool: str) -> Snapshot:
    """See `port.Store.load`."""
    held = [stored_of(row) for row in await _HELD.fetch(pg, pool=pool)]
    held.sort(key=lambda stored: stored.columns.task_id)
    counts, limits = await _count(pg, pool)
    return Snapshot(
        held=held,
        heads=await _heads(pg, pool),
        counts={state: counts.get(state, 0) for state in LIVE_STATES},
        limits=sorted(KeyLimit(*row) for row in limits),
        key_holds=sorted(KeyHold(*row) for row in await _KEY_HOLDS.fetch(pg, pool=pool)),
        agents=[_agent(row) for row in await _AGENTS.fetch(pg, pool=pool)],
        dialogues={row["task_id"]: _dialogue.decode(row["body"]) for row in await _DIALOGUES.fetch(pg, pool=pool)},
        pauses=tuple(row["type"] for row in await _PAUSES.fetch(pg, pool=pool)),
    )


async def _count(pg: PgConnection, pool: str) -> tuple[dict[str, int], list[Record]]:
    """The live tasks by state, and those with a concurrency key by it and its limit."""
    async with pg.transaction(readonly=True):
        await pg.execute(f"SET LOCAL statement_timeout = '{COUNTING_S}s'")
        counts = {row["state"]: row["tasks"] for row in await _COUNTS.fetch(pg, timeout_s=COUNTING_S, pool=pool)}
        return counts, await _LIMITS.fetch(pg, timeout_s=COUNTING_S, pool=pool)


async def _heads(pg: PgConnection, pool: str) -> list[StoredTask]:
    """The heads in the queue's order (protocol, section 4)."""
    found: list[tuple[tuple[int, int, str], StoredTask]] = []
    after = b""
    while True:
        rows = await _HEADS.fetch(pg, pool=pool, after=after, limit=CLASSES)
        found += [((-row["priority"], row["order_ms"], row["task_id"]), stored_of(row)) for row in rows]
        classes = {row["placement"] for row in rows}
        if len(classes) < CLASSES:
            break
        after = max(classes)
    found.sort(key=lambda entry: entry[0])
    return [stored for _, stored in found]


def _agent(row: Record) -> AgentRow:
    return AgentRow(
        agent_id=row["agent_id"],
        state=AgentState(row["state"]),
        incarnation=row["incarnation"],
        replaced=_texts.decode(row["replaced"]),
        role=row["role"],
        capabilities=_texts.decode(row["capabilities"]),
        labels=_labels.decode(row["labels"]),
        metadata=_metadata.decode(row["metadata"]),
        slots=row["slots"],
        version=row["version"],
        operator_drain=row["operator_drain"],
        own_drain=row["own_drain"],
        spawned=row["spawned"],
        seen_ms=row["seen_ms"],
    )
