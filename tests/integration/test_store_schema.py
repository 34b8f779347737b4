"""Opening and migrating: the schema's version, its tables as the queries see them, what the database keeps."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from asyncpg import CheckViolationError
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from tests.support.store_postgres import connected, opened_store
from tests.support.store_rows import RETENTION_MS, draft, ids_of, own

from callboard.orchestrator.core.changes import AgendaRead
from callboard.orchestrator.store.connections import connect
from callboard.orchestrator.store.embedded import EmbeddedPostgres
from callboard.orchestrator.store.large_tables import INDEXES
from callboard.orchestrator.store.migrate import MigrationReport, alembic_config, migrate
from callboard.orchestrator.store.port import FIRST_ID
from callboard.orchestrator.store.postgres import PostgresStore
from callboard.orchestrator.store.schema import mark
from callboard.orchestrator.store.tables import SCHEMA_REVISION, metadata
from callboard.schemas.errors import ConfigurationError, DatabaseOperationError
from callboard.schemas.vocabulary import Durability, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import asyncpg
    from alembic.config import Config
    from sqlalchemy import Connection

pytestmark = pytest.mark.anyio


async def test_an_empty_database_is_migrated_once(database_url: str) -> None:
    assert await migrate(database_url) == MigrationReport(None, SCHEMA_REVISION)
    assert await migrate(database_url) == MigrationReport(SCHEMA_REVISION, SCHEMA_REVISION)


async def test_a_database_that_cannot_be_reached_is_named_without_its_password() -> None:
    with pytest.raises(DatabaseOperationError) as refused:
        await migrate("postgresql+asyncpg://u:hunter2@127.0.0.1:1/callboard")
    assert refused.value.message.startswith(
        "the database was not migrated: postgresql+asyncpg://***@127.0.0.1:1/callboard cannot be reached: "
    )
    assert refused.value.message.endswith("; is this its address, and is it running?")


@pytest.mark.parametrize("url", ["postgresql:///callboard", "postgresql://", "postgresql://u:p@:1/callboard"])
async def test_an_address_without_a_host_is_told_what_it_lacks(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PGHOST", ""), ("PGPORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(DatabaseOperationError) as refused:
        await migrate(url)
    assert refused.value.message.endswith("; the address names no host: write postgresql://user@host:5432/database")


async def test_several_may_migrate_at_once(database_url: str) -> None:
    reports = await asyncio.gather(*(migrate(database_url) for _ in range(4)))
    assert sorted(report.before or "" for report in reports) == ["", *[SCHEMA_REVISION] * 3]


async def test_the_name_of_the_driver_in_the_url_is_no_matter(database_url: str) -> None:
    url = database_url.replace("postgresql://", "postgresql+asyncpg://")
    await migrate(url)
    async with opened_store(url) as store:
        await store.ping()


def test_the_newest_migration_is_the_one_that_this_version_needs() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [SCHEMA_REVISION]


async def test_the_tables_are_what_the_queries_take_them_for(database_url: str) -> None:
    await migrate(database_url)
    async with connected(database_url) as pg:
        rows = await pg.fetch(
            "SELECT attrelid::regclass::text AS name, attname, format_type(atttypid, atttypmod) AS type, attnotnull,"
            " coalesce(attnum = ANY(indkey), false) AS is_key"
            " FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
            " LEFT JOIN pg_index ON indrelid = c.oid AND indisprimary"
            " WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace"
            " AND attnum > 0 AND NOT attisdropped AND relname <> 'schema_version'"
        )
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy does not type it
    expected = {
        (table.name, column.name, column.type.compile(dialect).lower(), not column.nullable, column.primary_key)
        for table in metadata.tables.values()
        for column in table.columns
    }
    assert {tuple(row) for row in rows} == expected


OLD_INSERT = """
INSERT INTO task (
    id, pool, type, priority, created_ms, order_ms, placement, deadline_ms, spec, payload, retry_of,
    state, version, attempt, agent_id, incarnation, assigned_ms, started_ms, updated_ms, until_ms, reason,
    spent, crashes, crashed_on, progress, attempts, epoch, batch
) VALUES (
    $1, 'default', 'lint', 1, 1, $2, decode(md5('lint'), 'hex'), 9, '{"type":"lint"}', 'null', NULL,
    'queued', 1, 0, NULL, NULL, NULL, NULL, 1, NULL, NULL, 0, 0, '{}', NULL, '{}', 1, 1
)
"""
"""As a replica of revision 0002 writes a task."""


async def test_live_tasks_and_the_replica_that_still_writes_them_outlast_the_third_migration(database_url: str) -> None:
    tasks = [draft().task_id for _ in range(3)]
    await alembic(database_url, command.upgrade, "0002")
    async with connected(database_url) as pg:
        await pg.execute(OLD_INSERT, tasks[0], 5)
        assert await migrate(database_url) == MigrationReport("0002", SCHEMA_REVISION)
        await pg.execute(OLD_INSERT, tasks[1], 4)
        async with opened_store(database_url) as store:
            snapshot = await store.load((await own(store)).lease)
            assert snapshot.counts[TaskState.QUEUED] == 2
            assert snapshot.limits == []
            assert ids_of(snapshot.heads) == [tasks[1]]
            everything = AgendaRead(from_ms=0, from_id=FIRST_ID, limit=9)
            assert ids_of(await store.agenda("default", everything)) == tasks[:2]
        await alembic(database_url, command.downgrade, "0002")
        await pg.execute(OLD_INSERT, tasks[2], 6)
        assert await pg.fetchval("SELECT count(*) FROM task") == 3
    assert await migrate(database_url) == MigrationReport("0002", SCHEMA_REVISION)


async def test_a_migration_does_not_make_commits_wait_for_as_long_as_a_table_is_large(database_url: str) -> None:
    """An older transaction holds up the builder of an index for as long as one likes: what then goes on?"""
    await alembic(database_url, command.upgrade, "0002")
    async with connected(database_url) as older, connected(database_url) as pg:
        await pg.execute(OLD_INSERT, draft().task_id, 5)
        await older.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM agent")
        migrating = asyncio.create_task(migrate(database_url))
        await until(pg, "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass('task_state')")
        assert await pg.fetchval("SELECT version_num FROM schema_version") == SCHEMA_REVISION
        await pg.execute("SET lock_timeout = '1s'")
        await pg.execute(OLD_INSERT, draft().task_id, 4)
        await pg.execute("UPDATE task SET version = 2")
        assert not migrating.done()
        await older.execute("COMMIT")
        assert await migrating == MigrationReport("0002", SCHEMA_REVISION)
        assert await pg.fetch(UNFINISHED) == []


async def test_a_migration_that_was_cut_short_is_finished_by_the_next_one(database_url: str) -> None:
    await alembic(database_url, command.upgrade, "0002")
    async with connected(database_url) as older, connected(database_url) as pg:
        await older.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM agent")
        migrating = asyncio.create_task(migrate(database_url))
        await until(pg, "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass('task_state')")
        await pg.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%'")
        with pytest.raises(DatabaseOperationError):
            await migrating
        await older.execute("COMMIT")
        assert len(await pg.fetch(UNFINISHED)) > 1
        assert await migrate(database_url) == MigrationReport(SCHEMA_REVISION, SCHEMA_REVISION)
        assert await pg.fetch(UNFINISHED) == []
        for name in INDEXES:
            assert await pg.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", name)


UNFINISHED = """
SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid AND indrelid = 'task'::regclass
UNION ALL SELECT conname::text FROM pg_constraint WHERE NOT convalidated AND conrelid = 'task'::regclass
"""


async def until(pg: asyncpg.Connection, so: str) -> None:
    """Wait until a query says yes; Postgres has no signal for this."""
    async with asyncio.timeout(20):
        while not await pg.fetchval(so):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("key", "limit"), [("k", None), (None, 1), ("k", 0)])
async def test_a_concurrency_key_and_its_limit_go_together(
    database_url: str, key: str | None, limit: int | None
) -> None:
    await migrate(database_url)
    task_id = draft().task_id
    async with connected(database_url) as pg:
        await pg.execute(OLD_INSERT, task_id, 1)
        with pytest.raises(CheckViolationError):
            await pg.execute("UPDATE task SET concurrency_key = $1, concurrency_limit = $2", key, limit)
        await pg.execute("UPDATE task SET concurrency_key = 'k', concurrency_limit = 1")


async def alembic(database_url: str, step: Callable[[Config, str], None], revision: str) -> None:
    """Take one step of alembic's, as `migrate` does."""

    def run(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        step(config, revision)

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: connect(database_url), poolclass=NullPool
    )
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


async def test_a_database_that_was_not_migrated_is_refused(database_url: str) -> None:
    store = PostgresStore(database_url, key_retention_ms=RETENTION_MS, allow_relaxed_durability=True)
    with pytest.raises(ConfigurationError, match=f"empty.*{SCHEMA_REVISION}.*callboard migrate"):
        await store.open()
    await store.close()


@pytest.mark.parametrize(("found", "remedy"), [("0002", "callboard migrate"), ("9999", "install")])
async def test_a_schema_that_does_not_fit_is_refused_naming_both_and_the_remedy(
    database_url: str, found: str, remedy: str
) -> None:
    await migrate(database_url)
    async with connected(database_url) as pg:
        await pg.execute("UPDATE schema_version SET version_num = $1", found)
        await pg.execute(mark(found))
    store = PostgresStore(database_url, key_retention_ms=RETENTION_MS, allow_relaxed_durability=True)
    with pytest.raises(ConfigurationError, match=f"{found}.*{SCHEMA_REVISION}.*{remedy}") as caught:
        await store.open()
    assert caught.value.details == {"found": found, "needed": SCHEMA_REVISION}
    await store.close()


async def test_a_newer_schema_that_serves_this_version_too_is_good_and_is_left_alone(database_url: str) -> None:
    await migrate(database_url)
    async with connected(database_url) as pg:
        await pg.execute("UPDATE schema_version SET version_num = '9999'")
    assert await migrate(database_url) == MigrationReport("9999", "9999")
    async with opened_store(database_url) as store:
        assert (await own(store)).lease.epoch == 1


async def test_a_schema_without_the_mark_serves_its_own_version_alone(database_url: str) -> None:
    await migrate(database_url)
    async with connected(database_url) as pg:
        await pg.execute("COMMENT ON TABLE schema_version IS NULL")
        async with opened_store(database_url) as store:
            await store.ping()
        await pg.execute("UPDATE schema_version SET version_num = '9999'")
    store = PostgresStore(database_url, key_retention_ms=RETENTION_MS, allow_relaxed_durability=True)
    with pytest.raises(ConfigurationError, match="9999"):
        await store.open()
    await store.close()


async def test_a_url_that_is_none_is_refused() -> None:
    nonsense = "postgresql://host:not-a-port/db"
    with pytest.raises(ConfigurationError, match="database_url"):
        await PostgresStore(nonsense, key_retention_ms=RETENTION_MS).open()
    with pytest.raises(ConfigurationError, match="database_url"):
        await migrate(nonsense)


async def test_what_cannot_be_migrated_is_said_in_one_line(database_url: str, tmp_path: Path) -> None:
    async with connected(database_url) as pg:
        await pg.execute("CREATE TABLE task (is_ours boolean)")
    for url, why in (
        (f"postgresql://callboard@/x?host={tmp_path}&port=5432", "No such file"),
        (database_url, "exists"),
    ):
        with pytest.raises(DatabaseOperationError, match=why) as caught:
            await migrate(url)
        assert "\n" not in str(caught.value)
    async with connected(database_url) as pg:
        assert await pg.fetchval("SELECT to_regclass('pool_lease') IS NULL AND to_regclass('schema_version') IS NULL")


async def test_a_database_that_may_forget_is_refused_unless_that_is_allowed(database_url: str) -> None:
    await migrate(database_url)
    name = re.search(r"/(test_\d+)\?", database_url)
    assert name is not None
    async with connected(database_url) as pg:
        await pg.execute(f"ALTER DATABASE {name[1]} SET synchronous_commit = off")
    store = PostgresStore(database_url, key_retention_ms=RETENTION_MS)
    with pytest.raises(ConfigurationError, match="fsync, synchronous_commit off") as caught:
        await store.open()
    assert caught.value.details == {"settings": ["fsync", "synchronous_commit"]}
    await store.close()
    async with opened_store(database_url) as allowed:
        assert allowed.durability is Durability.RELAXED


async def test_a_database_with_its_usual_settings_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as server:
        await migrate(server.dsn)
        store = PostgresStore(server.dsn, key_retention_ms=RETENTION_MS)
        await store.open()
        assert store.durability is Durability.FSYNC
        await store.close()
