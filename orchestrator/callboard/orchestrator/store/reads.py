"""What clients and effects read of tasks.

Rules:
- A task moves from `task` to `task_history` in one statement, so one statement that looks into both misses none and
  sees none twice.
- A page is found by its place (creation, id), not by counting: rows that come and go shift nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    LargeBinary,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    literal_column,
    null,
    select,
    tuple_,
    union_all,
)

from callboard.orchestrator.core.events import Looked
from callboard.orchestrator.store.documents import DEFAULT_PAGE, Cursor, TaskRow, document_of, ended_of, page_of
from callboard.orchestrator.store.driver import PgConnection
from callboard.orchestrator.store.port import KeyHolder, OfferContent, Original
from callboard.orchestrator.store.sql import Query, among, in_pool, query
from callboard.orchestrator.store.stored import COLUMNS, NO_COLUMNS, stored_of
from callboard.orchestrator.store.tables import task, task_dialogue, task_history, task_key
from callboard.schemas.tasks import TaskPage
from callboard.schemas.vocabulary import TaskState

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select, Table

    from callboard.schemas.tasks import ListTasks, TaskDocument

_NO_NUMBER: Final = cast(null(), BigInteger)
_NO_BYTES: Final = cast(null(), LargeBinary)
_SHARED: Final = (
    *("type", "priority", "state", "version", "attempt", "agent_id", "incarnation", "created_ms", "started_ms"),
    *("updated_ms", "reason", "spec", "progress"),
)


_DIALOGUE: Final = case(
    (
        task.c.state == literal_column(f"'{TaskState.WAITING_INPUT}'"),
        select(task_dialogue.c.body)
        .where(task_dialogue.c.pool == task.c.pool, task_dialogue.c.task_id == task.c.id)
        .scalar_subquery(),
    )
)
"""What a task waits for; nothing is looked for when it does not."""


def _summary(table: Table) -> list[ColumnElement[Any]]:
    """The columns of a `TaskRow` for a page, from either table."""
    is_live = table is task
    return [
        cast(table.c.id, Text).label("task_id"),
        *(table.c[name] for name in _SHARED),
        cast(table.c.retry_of, Text).label("retry_of"),
        (task.c.assigned_ms if is_live else _NO_NUMBER).label("assigned_ms"),
        (task.c.until_ms if is_live else _NO_NUMBER).label("until_ms"),
        (_NO_NUMBER if is_live else task_history.c.finished_ms).label("finished_ms"),
        (_NO_BYTES if is_live else task_history.c.error).label("error"),
    ]


def _whole(table: Table) -> Select[*tuple[Any, ...]]:
    """All columns of a `TaskRow`, for the tasks `ids` of `pool`."""
    result = _NO_BYTES if table is task else task_history.c.result
    dialogue = _DIALOGUE if table is task else _NO_BYTES
    columns = [
        *_summary(table),
        table.c.payload,
        table.c.attempts,
        result.label("result"),
        dialogue.label("dialogue"),
    ]
    return select(*columns).where(in_pool(table.c.pool), among(table.c.id, "ids"))


def _outline(table: Table) -> Select[*tuple[Any, ...]]:
    """What a `Looked` is made of, from either table."""
    stored = COLUMNS if table is task else NO_COLUMNS
    chosen = select(table.c.state.label("looked_state"), table.c.attempts, *stored)
    return chosen.where(in_pool(table.c.pool), table.c.id == bindparam("id", type_=Uuid(as_uuid=False)))


_DOCUMENTS: Final = query(union_all(_whole(task), _whole(task_history)))
_LOOK_UP: Final = query(union_all(_outline(task), _outline(task_history)))
_OFFERS: Final = query(
    select(cast(task.c.id, Text).label("id"), task.c.spec, task.c.payload, task.c.progress).where(
        among(task.c.id, "ids")
    )
)
_KEYS: Final = query(
    select(task_key.c.key, cast(task_key.c.task_id, Text).label("task_id"), task_key.c.digest).where(
        task_key.c.pool == bindparam("pool"), task_key.c.scope == bindparam("scope"), among(task_key.c.key, "keys")
    )
)


async def offers(pg: PgConnection, task_ids: list[str]) -> dict[str, OfferContent]:
    """What the offers of these live tasks carry."""
    rows = await _OFFERS.fetch(pg, ids=task_ids)
    return {row["id"]: OfferContent(spec=row["spec"], payload=row["payload"], progress=row["progress"]) for row in rows}


async def look_up(pg: PgConnection, pool: str, task_id: str) -> Looked:
    """The state of a task and its ended attempts; while it is live, the task."""
    rows = await _LOOK_UP.fetch(pg, pool=pool, id=task_id)
    if not rows:
        return Looked(state=None)
    row = rows[0]
    is_live = row["task_id"] is not None
    return Looked(
        state=TaskState(row["looked_state"]),
        ended=ended_of(row["attempts"]),
        stored=stored_of(row) if is_live else None,
    )


async def rows(pg: PgConnection, pool: str, task_ids: list[str]) -> list[TaskRow]:
    """The rows of several tasks, whole."""
    found = await _DOCUMENTS.fetch(pg, pool=pool, ids=task_ids)
    return [TaskRow(**{**row, "attempts": ended_of(row["attempts"])}) for row in found]


async def documents(pg: PgConnection, pool: str, task_ids: list[str]) -> dict[str, TaskDocument]:
    """The documents of several tasks."""
    return {row.task_id: document_of(row) for row in await rows(pg, pool, task_ids)}


async def key_holders(pg: PgConnection, pool: str, scope: str, keys: list[str]) -> dict[str, KeyHolder]:
    """The tasks that have these keys."""
    found = await _KEYS.fetch(pg, pool=pool, scope=scope, keys=keys)
    known = await documents(pg, pool, [row["task_id"] for row in found]) if found else {}
    return {
        row["key"]: KeyHolder(task_id=row["task_id"], digest=row["digest"], document=known[row["task_id"]])
        for row in found
        if row["task_id"] in known
    }


async def original(pg: PgConnection, pool: str, task_id: str) -> Original | None:
    """A task with its specification and payload."""
    for row in await rows(pg, pool, [task_id]):
        return Original(task_id=task_id, document=document_of(row), spec=row.spec, payload=row.payload or b"")
    return None


async def page(pg: PgConnection, pool: str, wanted: ListTasks) -> TaskPage:
    """One page, the newest first."""
    limit = wanted.limit or DEFAULT_PAGE
    filters = tuple(name for name in ("state", "type", "agent_id") if getattr(wanted, name) is not None)
    values: dict[str, Any] = {name: getattr(wanted, name) for name in filters}
    if wanted.cursor is not None:
        cursor = Cursor.parse(wanted.cursor)
        values |= {"created_ms": cursor.created_ms, "id": cursor.task_id}
    # A filter by state leaves one of the tables out: it could only be searched in vain.
    is_final = None if wanted.state is None else wanted.state.is_final
    shape = _page_query(filters, is_final=is_final, has_cursor=wanted.cursor is not None)
    found = await shape.fetch(pg, pool=pool, limit=limit + 1, **values)
    return page_of([TaskRow(**row) for row in found], limit)


@lru_cache
def _page_query(filters: tuple[str, ...], *, is_final: bool | None, has_cursor: bool) -> Query:
    tables = [task, task_history] if is_final is None else [task_history if is_final else task]
    parts = []
    for table in tables:
        chosen = select(*_summary(table)).where(table.c.pool == bindparam("pool"))
        for name in filters:
            chosen = chosen.where(table.c[name] == bindparam(name))
        if has_cursor:
            place = tuple_(bindparam("created_ms", type_=BigInteger), bindparam("id", type_=Uuid(as_uuid=False)))
            chosen = chosen.where(tuple_(table.c.created_ms, table.c.id) < place)
        newest = chosen.order_by(table.c.created_ms.desc(), table.c.id.desc()).limit(bindparam("limit"))
        parts.append(select(newest.subquery()))
    both = union_all(*parts).subquery()
    return query(select(both).order_by(both.c.created_ms.desc(), both.c.task_id.desc()).limit(bindparam("limit")))
