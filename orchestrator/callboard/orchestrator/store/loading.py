"""Reading a whole pool at a take-over: in slices by index, so that no statement takes long however deep the queue is.

Only the owner writes the pool's rows, and the caller is the owner: nothing changes between the slices.
"""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import BigInteger, Text, Uuid, bindparam, cast, func, select, tuple_

from callboard.orchestrator.core.changes import AgentRow, Snapshot, StoredTask, TaskColumns
from callboard.orchestrator.core.model import EndedAttempt
from callboard.orchestrator.store.driver import PgConnection, Record
from callboard.orchestrator.store.sql import query
from callboard.orchestrator.store.tables import agent, pool_pause, task
from callboard.schemas.labels import LabelValue
from callboard.schemas.vocabulary import AgentState, TaskState

SLICE: Final = 10_000
_FIRST: Final = (-(2**63), "00000000-0000-0000-0000-000000000000")

_texts = msgspec.json.Decoder(tuple[str, ...])
_labels = msgspec.json.Decoder(dict[str, LabelValue])
_metadata = msgspec.json.Decoder(dict[str, str])
_ended = msgspec.json.Decoder(EndedAttempt)

_TASKS: Final = query(
    select(
        cast(task.c.id, Text).label("task_id"),
        *(task.c[name] for name in ("state", "version", "attempt", "agent_id", "incarnation", "assigned_ms")),
        *(task.c[name] for name in ("started_ms", "updated_ms", "until_ms", "reason", "spent", "crashes")),
        *(task.c[name] for name in ("crashed_on", "progress", "spec", "created_ms", "order_ms", "deadline_ms")),
        task.c.priority,
        task.c.attempts[func.cardinality(task.c.attempts)].label("last_end"),
    )
    .where(
        task.c.pool == bindparam("pool"),
        tuple_(task.c.created_ms, task.c.id)
        > tuple_(bindparam("created_ms", type_=BigInteger), bindparam("id", type_=Uuid(as_uuid=False))),
    )
    .order_by(task.c.created_ms, task.c.id)
    .limit(bindparam("limit"))
)
_PAUSES: Final = query(
    select(pool_pause.c.type).where(pool_pause.c.pool == bindparam("pool")).order_by(pool_pause.c.type)
)
_AGENTS: Final = query(select(agent).where(agent.c.pool == bindparam("pool")).order_by(agent.c.agent_id))


async def load(pg: PgConnection, pool: str) -> Snapshot:
    """The live tasks in the queue's order (protocol, section 4), and the agents by id."""
    ordered: list[tuple[tuple[int, int, str], StoredTask]] = []
    created_ms, task_id = _FIRST
    while True:
        rows = await _TASKS.fetch(pg, pool=pool, created_ms=created_ms, id=task_id, limit=SLICE)
        ordered += [((-row["priority"], row["order_ms"], row["task_id"]), _stored(row)) for row in rows]
        if len(rows) < SLICE:
            break
        created_ms, task_id = rows[-1]["created_ms"], rows[-1]["task_id"]
    ordered.sort(key=lambda entry: entry[0])
    agents = [_agent(row) for row in await _AGENTS.fetch(pg, pool=pool)]
    pauses = tuple(row["type"] for row in await _PAUSES.fetch(pg, pool=pool))
    return Snapshot(tasks=[stored for _, stored in ordered], agents=agents, pauses=pauses)


def _stored(row: Record) -> StoredTask:
    columns = TaskColumns(
        task_id=row["task_id"],
        state=TaskState(row["state"]),
        version=row["version"],
        attempt=row["attempt"],
        agent_id=row["agent_id"],
        incarnation=row["incarnation"],
        assigned_ms=row["assigned_ms"],
        started_ms=row["started_ms"],
        updated_ms=row["updated_ms"],
        until_ms=row["until_ms"],
        reason=row["reason"],
        spent=row["spent"],
        crashes=row["crashes"],
        crashed_on=tuple(row["crashed_on"]),
        progress=row["progress"],
    )
    return StoredTask(
        columns=columns,
        spec=row["spec"],
        created_ms=row["created_ms"],
        order_ms=row["order_ms"],
        deadline_ms=row["deadline_ms"],
        last_end=None if row["last_end"] is None else _ended.decode(row["last_end"]),
    )


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
