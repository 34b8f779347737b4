"""The store in Postgres. Each method is one thing said to the database; what is said is in the modules beside this.

Rules:
- Commits, leases and offers have connections of their own, and so has what the scheduler reads: no client that reads
  can keep a lease from being renewed, or a task from being placed.
- A store that was closed can be opened again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from callboard.orchestrator.store import leases, loading, maintenance, outbox, reads, waiting
from callboard.orchestrator.store.commit import commit
from callboard.orchestrator.store.connections import DISPATCHING, READING, WRITING, Connections
from callboard.orchestrator.store.documents import document_of
from callboard.orchestrator.store.driver import PgConnection
from callboard.orchestrator.store.port import NO_EVENTS, NOTHING_PUBLISHED
from callboard.orchestrator.store.schema import READ_IDENTITY, check_schema
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.vocabulary import Durability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callboard.orchestrator.core.changes import AgendaRead, Changes, LaneRead, Snapshot, StoredTask
    from callboard.orchestrator.core.events import Looked
    from callboard.orchestrator.store.port import (
        Backlog,
        Committed,
        Events,
        KeyHolder,
        Lease,
        OfferContent,
        Original,
        OutboxRow,
        Place,
        Published,
    )
    from callboard.schemas.tasks import ListTasks, TaskDocument, TaskPage

log = structlog.get_logger()

WRITERS: Final = 16
"""Most connections for commits; a pool uses one for its commits and one for its offers."""
DISPATCHERS: Final = 4
READERS: Final = 4

_DURABILITY: Final = ("fsync", "synchronous_commit", "full_page_writes")


class PostgresStore:
    """The durable side of one orchestrator replica; see `port.Store`.

    Args:
        database_url: `postgresql://…`, as asyncpg reads it; `postgresql+asyncpg://…` is the same.
        key_retention_ms: How long a key outlives its task.
        allow_relaxed_durability: Accept a database that may lose what it acknowledged.
    """

    def __init__(self, database_url: str, *, key_retention_ms: int, allow_relaxed_durability: bool = False) -> None:
        self._url = database_url
        self._key_retention_ms = key_retention_ms
        self._allow_relaxed = allow_relaxed_durability
        self._durability = Durability.FSYNC
        self._identity: str | None = None
        self._writing = Connections(database_url, WRITING, limit=WRITERS)
        self._dispatching = Connections(database_url, DISPATCHING, limit=DISPATCHERS)
        self._reading = Connections(database_url, READING, limit=READERS)

    @property
    def durability(self) -> Durability:
        """What an acknowledged commit survives; known after `open`."""
        return self._durability

    @property
    def identity(self) -> str | None:
        """Whose truth this is; `None` in a database that was migrated by an older version. Known after `open`."""
        return self._identity

    async def open(self) -> None:
        """Connect, check the schema's version and the durability settings.

        Raises:
            ConfigurationError: see `port.Store`.
            StoreUnavailableError: the database is away.
        """
        await self.close()
        self._writing = Connections(self._url, WRITING, limit=WRITERS)
        self._dispatching = Connections(self._url, DISPATCHING, limit=DISPATCHERS)
        self._reading = Connections(self._url, READING, limit=READERS)
        async with self._writing.use() as lent:
            await check_schema(lent.pg)
            self._durability = await self._check_durability(lent.pg)
            self._identity = await lent.pg.fetchval(READ_IDENTITY)

    async def _check_durability(self, pg: PgConnection) -> Durability:
        row = await pg.fetchrow(f"SELECT {', '.join(f'current_setting({name!r})' for name in _DURABILITY)}")
        off = [name for name, value in zip(_DURABILITY, row, strict=True) if value == "off"]
        if not off:
            return Durability.FSYNC
        if not self._allow_relaxed:
            raise ConfigurationError(
                f"the database has {', '.join(off)} off: it may lose what it acknowledged; "
                "turn it on, or set allow_relaxed_durability",
                settings=off,
            )
        log.warning("the database may lose what it acknowledged", off=off)
        return Durability.RELAXED

    async def close(self) -> None:
        """Let go of every connection. May be called twice."""
        await self._writing.close()
        await self._dispatching.close()
        await self._reading.close()

    async def ping(self) -> None:
        """One round trip to the database."""
        async with self._writing.use() as lent:
            await lent.pg.fetchval("SELECT 1")

    async def acquire(self, pool: str, *, holder: str, replica: str, lease_ms: int) -> Lease | None:
        """Take the pool's lease if it is free, expired or ours.

        Raises:
            ConfigurationError: the schema was migrated meanwhile, and this version is too old for it.
        """
        async with self._writing.use() as lent:
            lent.handed_over = True
            lease = await leases.acquire(lent.pg, pool, holder=holder, replica=replica, lease_ms=lease_ms)
            if lease is None:
                return None
            # After the lease is ours: a migration that we cannot live with takes it away as its last act (`schema`).
            try:
                await check_schema(lent.pg)
            except ConfigurationError:
                await leases.release(lent.pg, lease)
                raise
            return lease

    async def renew(self, lease: Lease, *, lease_ms: int, published: Published = NOTHING_PUBLISHED) -> Lease:
        """Extend a lease that is still ours, and forget what is published.

        Raises:
            FencedError: it is not.
        """
        async with self._writing.use() as lent:
            lent.handed_over = True
            return await leases.renew(lent.pg, lease, lease_ms=lease_ms, published=published)

    async def release(self, lease: Lease, *, published: Published = NOTHING_PUBLISHED) -> None:
        """Give the lease up, if it is ours, and forget what is published."""
        async with self._writing.use() as lent:
            lent.handed_over = True
            await leases.release(lent.pg, lease, published=published)

    async def load(self, lease: Lease) -> Snapshot:
        """What a new owner starts from, as committed."""
        async with self._dispatching.use() as lent:
            return await loading.load(lent.pg, lease.pool)

    async def lanes(self, pool: str, reads: Sequence[LaneRead]) -> list[list[StoredTask]]:
        """The queued tasks of several lanes in one read, each in its order."""
        async with self._dispatching.use() as lent:
            return await waiting.lanes(lent.pg, pool, reads)

    async def agenda(self, pool: str, read: AgendaRead) -> list[StoredTask]:
        """Waiting tasks with an instant at which time changes them, the next one first."""
        async with self._dispatching.use() as lent:
            return await waiting.agenda(lent.pg, pool, read)

    async def queued_before(self, pool: str, placement: str, priority: int, order_ms: int, task_id: str) -> int:
        """How many queued tasks of a placement class come before that place in the queue's order."""
        async with self._reading.use() as lent:
            return await waiting.queued_before(lent.pg, pool, placement, priority, order_ms=order_ms, task_id=task_id)

    async def commit(
        self,
        lease: Lease,
        number: int,
        changes: Changes,
        *,
        lease_ms: int,
        events: Events = NO_EVENTS,
        published: Published = NOTHING_PUBLISHED,
    ) -> Committed:
        """Write batch `number` with its events and extend the lease, in one transaction; forget what is published.

        Raises:
            FencedError: the pool has another owner or epoch, or `number` does not follow.
        """
        async with self._writing.use() as lent:
            return await commit(
                lent,
                lease,
                number,
                changes,
                lease_ms=lease_ms,
                key_retention_ms=self._key_retention_ms,
                events=events,
                published=published,
            )

    async def outbox(self, pool: str, after: Place, *, limit: int) -> list[OutboxRow]:
        """At most `limit` batches with events that are kept, in the order of their commits, from behind `after` on."""
        async with self._dispatching.use() as lent:
            return await outbox.read(lent.pg, pool, after, limit=limit)

    async def backlog(self, pool: str) -> Backlog:
        """How much is kept of what a pool told; it costs what it counts."""
        async with self._dispatching.use() as lent:
            return await outbox.backlog(lent.pg, pool)

    async def offers(self, task_ids: list[str]) -> dict[str, OfferContent]:
        """What offers of these live tasks carry; ids that are not live are left out."""
        async with self._writing.use() as lent:
            return await reads.offers(lent.pg, task_ids)

    async def look_up(self, pool: str, task_id: str) -> Looked:
        """State and kept attempts of a task, live or in the history; while it is live, the task itself."""
        async with self._reading.use() as lent:
            return await reads.look_up(lent.pg, pool, task_id)

    async def get(self, pool: str, *, task_id: str | None = None, key: str | None = None) -> TaskDocument | None:
        """A task's document, by its id or by the client's key."""
        async with self._reading.use() as lent:
            if key is not None:
                holder = (await reads.key_holders(lent.pg, pool, "client", [key])).get(key)
                return None if holder is None else holder.document
            found = await reads.rows(lent.pg, pool, [task_id] if task_id is not None else [])
        return document_of(found[0]) if found else None

    async def documents(self, pool: str, task_ids: list[str]) -> dict[str, TaskDocument]:
        """Documents of several tasks in one read; missing ones are left out."""
        async with self._reading.use() as lent:
            return await reads.documents(lent.pg, pool, task_ids)

    async def page(self, pool: str, query: ListTasks) -> TaskPage:
        """A page of tasks, live and historic, the newest first by creation.

        Raises:
            InvalidRequestError: the cursor is not one of ours.
        """
        async with self._reading.use() as lent:
            return await reads.page(lent.pg, pool, query)

    async def key_holders(self, pool: str, scope: str, keys: list[str]) -> dict[str, KeyHolder]:
        """The tasks that these keys belong to."""
        async with self._reading.use() as lent:
            return await reads.key_holders(lent.pg, pool, scope, keys)

    async def original(self, pool: str, task_id: str) -> Original | None:
        """A task with its specification and payload, for a retry."""
        async with self._reading.use() as lent:
            return await reads.original(lent.pg, pool, task_id)

    async def maintain(self, *, retention_days: int) -> None:
        """Make the coming days' history partitions, drop those past the retention, forget expired keys."""
        async with self._reading.use() as lent:
            await maintenance.maintain(lent.pg, retention_days=retention_days, key_retention_ms=self._key_retention_ms)
