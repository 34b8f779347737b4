"""Migrating while replicas serve: nobody's call fails, and whoever is too old for the new schema says so and stops."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import asyncpg
import pytest
from tests.support.hand_overs import Load, Owners
from tests.support.replica import WITHIN_S, replica
from tests.support.store_postgres import connected

from callboard.bus.client import Client
from callboard.orchestrator.store import migrate as migrating
from callboard.orchestrator.store import schema
from callboard.orchestrator.store.migrate import MIGRATIONS, MigrationReport, alembic_config, migrate
from callboard.orchestrator.store.tables import SCHEMA_REVISION

if TYPE_CHECKING:
    from pathlib import Path

    from alembic.config import Config

    from callboard.bus.embedded import EmbeddedNats

pytestmark = pytest.mark.anyio

NEXT = "9000"
MIGRATION = f"""
from alembic import op

revision = {NEXT!r}
down_revision = {SCHEMA_REVISION!r}


def upgrade():
    op.execute("ALTER TABLE task ADD COLUMN later text")
    op.execute("CREATE INDEX task_later ON task (pool, later) WHERE later IS NOT NULL")
    op.execute("ALTER TABLE task_history ADD COLUMN later text")
    op.execute("ALTER TABLE agent ADD COLUMN later text")
"""
"""What the next version would bring: it locks every table that a replica writes."""


def install_next_version(directory: Path, monkeypatch: pytest.MonkeyPatch, *, oldest_served: str) -> None:
    """Have `migrate` be that of the next version; replicas, processes of their own, stay what they are."""
    (directory / "later.py").write_text(MIGRATION)

    def config() -> Config:
        later = alembic_config()
        later.set_main_option("path_separator", "newline")
        later.set_main_option("version_locations", f"{MIGRATIONS / 'versions'}\n{directory}")
        return later

    monkeypatch.setattr(migrating, "alembic_config", config)
    monkeypatch.setattr(migrating, "SCHEMA_REVISION", NEXT)
    monkeypatch.setattr(schema, "OLDEST_SERVED", oldest_served)


async def reader(database_url: str) -> tuple[asyncpg.Connection, str]:
    """A connection in a transaction that has read from `task`, so that nothing can change the table."""
    pg = await asyncpg.connect(database_url)
    await pg.execute("BEGIN; SELECT count(*) FROM task")
    return pg, "SELECT count(*) FROM pg_locks WHERE relation = 'task'::regclass AND NOT granted"


async def test_replicas_serve_while_two_migrate_at_once_behind_a_long_transaction(
    nats_server: EmbeddedNats, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        owners = await stack.enter_async_context(Owners.heard(nats_server.url))
        await stack.enter_async_context(replica(nats_server.url, database_url))
        pg = await stack.enter_async_context(connected(database_url))
        async with Load.on(nats_server.url, ["default"]) as load:
            install_next_version(tmp_path, monkeypatch, oldest_served=SCHEMA_REVISION)
            long, waiting = await reader(database_url)
            reports = [asyncio.create_task(migrate(database_url)) for _ in range(2)]
            async with asyncio.timeout(WITHIN_S):
                while not await pg.fetchval(waiting):  # noqa: ASYNC110 - Postgres has no signal for this
                    await asyncio.sleep(0.01)
            await load.until_more(20)
            assert not any(report.done() for report in reports)
            await long.close()
            async with asyncio.timeout(WITHIN_S):
                done = await asyncio.gather(*reports)
            assert sorted(report.before or "" for report in done) == [SCHEMA_REVISION, NEXT]
            await load.until_more(20)
        assert owners.changes == 1, "the owner kept its pool all the while"
        newcomer = await stack.enter_async_context(replica(nats_server.url, database_url))
        await owners.until_at_hand(newcomer)  # of this version, on the schema of the next


async def test_whoever_is_too_old_for_the_new_schema_says_so_and_stops(
    nats_server: EmbeddedNats, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        pipe = asyncio.subprocess.PIPE
        owner = await stack.enter_async_context(replica(nats_server.url, database_url, stderr=pipe))
        client = await stack.enter_async_context(Client.connect(nats_server.url))
        task_id = (await client.submit("work", 1)).task_id
        install_next_version(tmp_path, monkeypatch, oldest_served=NEXT)
        assert await migrate(database_url) == MigrationReport(SCHEMA_REVISION, NEXT)
        async with asyncio.timeout(WITHIN_S):
            _, written = await owner.process.communicate()
        assert owner.process.returncode not in (0, None)
        last = written.decode().splitlines()[-1]
        assert NEXT in last
        assert SCHEMA_REVISION in last
        assert "Traceback" not in written.decode()
        pg = await stack.enter_async_context(connected(database_url))
        assert await pg.fetchval("SELECT id::text FROM task") == task_id
        assert await pg.fetchval("SELECT holder FROM pool_lease") is None
