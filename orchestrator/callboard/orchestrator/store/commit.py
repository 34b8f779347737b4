"""Committing a batch: one statement, and what to do when it does not just work.

Rules:
- No row from the lease: if the batch's number stands there already, this very batch was committed and only the answer
  was lost; otherwise we are fenced.
- What a batch did is read back from what it wrote, by `(epoch, batch)`: the same for the first answer, for a
  repetition, and after a bad row.
- A bad row (a CHECK, a value that does not fit) must not fail its batch for ever: the batch is halved within one
  transaction, behind savepoints, until the row is found, left out and logged. Lease and batch stay atomic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from callboard.orchestrator.core.changes import Changes, NewTask
from callboard.orchestrator.store import leases
from callboard.orchestrator.store.batch import TAKE, TAKEN, Head, statement
from callboard.orchestrator.store.batch_rows import Rows, halves, rows_of
from callboard.orchestrator.store.connections import DATA_ERRORS
from callboard.orchestrator.store.driver import PgConnection, Record
from callboard.orchestrator.store.port import Committed, Events, FencedError, Lease

if TYPE_CHECKING:
    from callboard.orchestrator.store.connections import Lent
    from callboard.orchestrator.store.port import Published

log = structlog.get_logger()

_WRITTEN: Final = """
SELECT id::text FROM task WHERE id = ANY($1::uuid[]) AND (pool = $2) IS TRUE AND epoch = $3 AND batch = $4
UNION ALL
SELECT id::text FROM task_history WHERE id = ANY($1::uuid[]) AND (pool = $2) IS TRUE AND epoch = $3 AND batch = $4
"""
"""By ids alone, see `sql.in_pool`."""
_TAKEN_KEYS: Final = """
SELECT x.id::text FROM unnest($2::uuid[], $3::text[], $4::text[]) AS x(id, scope, key)
JOIN task_key k ON k.pool = $1 AND k.scope = x.scope AND k.key = x.key AND k.task_id <> x.id
WHERE k.key = ANY($4::text[])
"""


async def commit(
    lent: Lent,
    lease: Lease,
    number: int,
    changes: Changes,
    *,
    lease_ms: int,
    key_retention_ms: int,
    events: Events,
    published: Published,
) -> Committed:
    """Write batch `number` with its events and extend the lease; forget what is published.

    Raises:
        FencedError: the pool has another owner or epoch, or `number` does not follow.
    """
    attempt = _Attempt(lent.pg, lease, number, lease_ms=lease_ms, key_retention_ms=key_retention_ms)
    lent.handed_over = True
    try:
        row = await attempt.run(TAKE, rows_of(changes, events, published))
    except DATA_ERRORS as error:
        what = _without_contents(error)
        log.warning("a batch has a bad row", pool=lease.pool, epoch=lease.epoch, batch=number, error=what)
        row = await attempt.run_apart(changes, events, published)
    if row is not None and row["written"] == len(changes.tasks):
        return Committed(now_ms=row["now_ms"])
    return await attempt.settle(changes)


class _Attempt:
    """One try at committing one batch, on one connection."""

    def __init__(self, pg: PgConnection, lease: Lease, number: int, *, lease_ms: int, key_retention_ms: int) -> None:
        self._pg = pg
        self._lease = lease
        self._number = number
        self._head = (lease.pool, lease.epoch, lease.holder, number, key_retention_ms, lease_ms)

    async def run(self, head: Head, rows: Rows) -> Record | None:
        """One statement; `None` when the lease does not stand as `head` wants it."""
        return await self._pg.fetchrow(statement(head, rows.parts), *self._head[: head.parameters], *rows.arrays)

    async def run_apart(self, changes: Changes, events: Events, published: Published) -> Record | None:
        """The same batch in one transaction, without its bad rows and what is told of them."""
        async with self._pg.transaction():
            row = await self.run(TAKE, rows_of(Changes(), Events(agents=events.agents), published))
            if row is not None:
                await self._halve(changes, Events(tasks=events.tasks))
        return row

    async def _halve(self, changes: Changes, events: Events) -> None:
        try:
            async with self._pg.transaction():
                await self.run(TAKEN, rows_of(changes, events))
        except DATA_ERRORS as error:
            parts = halves(changes)
            if not parts:
                log.critical(
                    "a row was refused by the database and is not written: a bug",
                    pool=self._lease.pool,
                    task_id=[change.columns.task_id for change in changes.tasks],
                    agent_id=[row.agent_id for row in changes.agents],
                    hold=[hold[:-1] for hold in (*changes.kept_holds, *changes.dropped_holds)],
                    error=_without_contents(error),
                )
            for part in parts:
                await self._halve(part, events)

    async def settle(self, changes: Changes) -> Committed:
        """What this batch did, if it is committed.

        Raises:
            FencedError: it is not.
        """
        lease = await leases.read(self._pg, self._lease)
        if lease.batch != self._number:
            raise FencedError(f"pool {lease.pool} is at batch {lease.batch}: {self._number} does not follow")
        ids = [change.columns.task_id for change in changes.tasks]
        written = {row[0] for row in await self._pg.fetch(_WRITTEN, ids, lease.pool, lease.epoch, self._number)}
        missing = [change for change in changes.tasks if change.columns.task_id not in written]
        keyed = [change.new for change in missing if change.new is not None and change.new.key is not None]
        refused = await self._taken(keyed)
        stale = frozenset(change.columns.task_id for change in missing) - refused
        return Committed(refused=refused, stale=stale, now_ms=lease.now_ms)

    async def _taken(self, keyed: list[NewTask]) -> frozenset[str]:
        """Those of these tasks whose keys others have."""
        try:
            taken = await self._pg.fetch(
                _TAKEN_KEYS,
                self._lease.pool,
                [new.task_id for new in keyed],
                [new.key_scope for new in keyed],
                [new.key for new in keyed],
            )
        except DATA_ERRORS:
            # A key that no row can hold is nobody's, and must not do what the row that had it was kept from doing.
            return frozenset()
        return frozenset(row[0] for row in taken)


def _without_contents(error: Exception) -> str:
    """What is wrong, but not with what: the row holds payloads and secrets."""
    constraint = getattr(error, "constraint_name", None)
    return f"{type(error).__name__} {getattr(error, 'sqlstate', None)}" + (f": {constraint}" if constraint else "")
