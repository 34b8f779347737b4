"""Reading the tasks that wait, a few at a time, in the order in which their turn comes.

Rules:
- Each read is a walk along one index from a given place, so that it costs what it returns (see
  `connections.DISPATCHING`).
- The conditions of a partial index are literals here: a parameter would keep a cached plan from using it.
- A walk is in order already; sorting it again in Python costs nothing and needs no promise of the planner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    LargeBinary,
    SmallInteger,
    Uuid,
    bindparam,
    column,
    func,
    literal_column,
    select,
    true,
    tuple_,
)

from callboard.orchestrator.store.batch_rows import placement_digest
from callboard.orchestrator.store.driver import PgConnection
from callboard.orchestrator.store.sql import query
from callboard.orchestrator.store.stored import COLUMNS, stored_of
from callboard.orchestrator.store.tables import task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.types import TypeEngine

    from callboard.orchestrator.core.changes import AgendaRead, LaneRead, StoredTask

_UUID: Final = Uuid(as_uuid=False)
QUEUED: Final[ColumnElement[bool]] = task.c.state == literal_column("'queued'")
IN_POOL: Final[ColumnElement[bool]] = task.c.pool == bindparam("pool")

_LANE: Final[dict[str, TypeEngine[Any]]] = {
    "placement": LargeBinary(),
    "priority": SmallInteger(),
    "from_ms": BigInteger(),
    "from_id": _UUID,
    "limit": BigInteger(),
}
_wanted: Final = (
    func.unnest(*(bindparam(name, type_=ARRAY(kind)) for name, kind in _LANE.items()))
    .table_valued(*(column(name, kind) for name, kind in _LANE.items()), with_ordinality="lane")
    .render_derived(name="wanted")
)
_queued: Final = (
    select(*COLUMNS)
    .where(
        *(IN_POOL, QUEUED),
        *(task.c.placement == _wanted.c.placement, task.c.priority == _wanted.c.priority),
        tuple_(task.c.order_ms, task.c.id) >= tuple_(_wanted.c.from_ms, _wanted.c.from_id),
    )
    .order_by(task.c.order_ms, task.c.id)
    .limit(_wanted.c.limit)
    .lateral("queued")
)
_LANES: Final = query(select(_wanted.c.lane, *_queued.c).select_from(_wanted.join(_queued, true())))

_INSTANT: Final = func.least(task.c.until_ms, task.c.deadline_ms)
_AGENDA: Final = query(
    select(*COLUMNS)
    .where(
        IN_POOL,
        task.c.state.in_((literal_column("'queued'"), literal_column("'deferred'"))),
        _INSTANT.is_not(None),
        tuple_(_INSTANT, task.c.id)
        >= tuple_(bindparam("from_ms", type_=BigInteger), bindparam("from_id", type_=_UUID)),
    )
    .order_by(_INSTANT, task.c.id)
    .limit(bindparam("limit"))
)


def _count(*conditions: ColumnElement[bool]) -> ColumnElement[Any]:
    of_class = (IN_POOL, QUEUED, task.c.placement == bindparam("placement"))
    return select(func.count()).select_from(task).where(*of_class, *conditions).scalar_subquery()


_PRIORITY: Final = bindparam("priority", type_=SmallInteger)
_PLACE: Final = tuple_(bindparam("order_ms", type_=BigInteger), bindparam("id", type_=_UUID))
_QUEUED_BEFORE: Final = query(
    # Two walks: the index has the priorities falling and the rest rising, which no comparison of rows can say.
    select(
        (
            _count(task.c.priority > _PRIORITY)
            + _count(task.c.priority == _PRIORITY, tuple_(task.c.order_ms, task.c.id) < _PLACE)
        ).label("count")
    )
)


async def lanes(pg: PgConnection, pool: str, reads: Sequence[LaneRead]) -> list[list[StoredTask]]:
    """The queued tasks of each lane, from its place on."""
    found: list[list[StoredTask]] = [[] for _ in reads]
    rows = await _LANES.fetch(
        pg,
        pool=pool,
        placement=[placement_digest(read.placement) for read in reads],
        priority=[read.priority for read in reads],
        from_ms=[read.from_ms for read in reads],
        from_id=[read.from_id for read in reads],
        limit=[read.limit for read in reads],
    )
    for row in rows:
        found[row["lane"] - 1].append(stored_of(row))
    for lane in found:
        lane.sort(key=lambda stored: (stored.order_ms, stored.columns.task_id))
    return found


async def agenda(pg: PgConnection, pool: str, read: AgendaRead) -> list[StoredTask]:
    """The waiting tasks that time will change, from a place on."""
    rows = await _AGENDA.fetch(pg, pool=pool, from_ms=read.from_ms, from_id=read.from_id, limit=read.limit)
    return [stored_of(row) for row in rows]


async def queued_before(
    pg: PgConnection, pool: str, placement: str, priority: int, *, order_ms: int, task_id: str
) -> int:
    """How many queued tasks of a placement class have their turn before that place."""
    digest = placement_digest(placement)
    rows = await _QUEUED_BEFORE.fetch(pg, pool=pool, placement=digest, priority=priority, order_ms=order_ms, id=task_id)
    return int(rows[0]["count"])
