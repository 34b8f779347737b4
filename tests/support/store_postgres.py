"""A migrated, opened store in a test's own database, and a second connection to look and interfere with."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
from tests.support.store_rows import RETENTION_MS

from callboard.orchestrator.store.driver import PgConnection
from callboard.orchestrator.store.migrate import migrate
from callboard.orchestrator.store.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WITHIN_S = 20


@asynccontextmanager
async def opened_store(database_url: str) -> AsyncIterator[PostgresStore]:
    """Migrates the database; `fsync` may be off."""
    await migrate(database_url)
    store = PostgresStore(database_url, key_retention_ms=RETENTION_MS, allow_relaxed_durability=True)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[PgConnection]:
    """A plain connection."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def blocked_backend(observer: PgConnection, *, count: int = 1) -> int:
    """The process id of a backend that waits for a lock, as soon as `count` do. Each look is a round trip.

    `observer` must not be in a transaction, where it would go on seeing what it saw first.
    """
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(WITHIN_S):
        while len(found := await observer.fetch(waiting)) < count:
            pass
    return int(found[0]["pid"])


async def gone(observer: PgConnection, pid: int) -> None:
    """Wait until a backend has ended."""
    async with asyncio.timeout(WITHIN_S):
        while await observer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid):
            pass
