"""Bringing a database's schema to this version: `callboard migrate`.

Rules:
- One transaction: all or nothing, and a lock in it lets any number of replicas do this at once. What would make commits
  wait for as long as a table is large comes after it (`large_tables`).
- Replicas serve meanwhile. A statement that waits for its table makes everyone behind it wait too: so it gives up soon,
  all is undone, and it is tried again after those have had their turn.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from callboard.orchestrator.config.secrets import hide_in_url
from callboard.orchestrator.store import schema
from callboard.orchestrator.store.connections import connect, plain_url
from callboard.orchestrator.store.large_tables import catch_up
from callboard.orchestrator.store.schema import VERSION_TABLE
from callboard.orchestrator.store.tables import SCHEMA_REVISION
from callboard.schemas.errors import DatabaseOperationError

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x63616C6C626F6172
"""An arbitrary number that means "Callboard's schema" among this database's advisory locks."""
_NO_HOST: Final = "the address names no host: write postgresql://user@host:5432/database"
LOCK_TIMEOUT_MS: Final = 500
TRIES: Final = 60
PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """The revisions that a migration led from (`None`: an empty database) and to."""

    before: str | None
    after: str | None


async def migrate(database_url: str) -> MigrationReport:
    """Bring the schema to this version's revision; does nothing when it is there already, or further.

    Raises:
        ConfigurationError: the URL is none.
        DatabaseOperationError: the database cannot be reached, or refuses; it is safe to migrate again.
    """
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: connect(database_url), poolclass=NullPool
    )
    try:
        report = await _migrate_with_patience(engine)
        if report.after == SCHEMA_REVISION:
            await _catch_up(database_url)
    except OSError as error:
        raise DatabaseOperationError(f"the database was not migrated: {_unreached(database_url, error)}") from error
    except (asyncpg.PostgresError, SQLAlchemyError) as error:
        # SQLAlchemy adds the statement to its text, over many lines.
        cause = str(getattr(error, "orig", error)).partition("\n")[0]
        raise DatabaseOperationError(f"the database was not migrated: {cause}") from error
    else:
        return report
    finally:
        await engine.dispose()


def _unreached(database_url: str, error: OSError) -> str:
    """Which database was looked for, what came of it, and what to do."""
    parts = urlsplit(plain_url(database_url))
    # As libpq does, the driver looks on this machine then: what it says is of a host that nobody gave.
    has_host = bool(parts.hostname or "host" in parse_qs(parts.query) or os.environ.get("PGHOST"))
    advice = "is this its address, and is it running?" if has_host else _NO_HOST
    return f"{hide_in_url(database_url)} cannot be reached: {str(error) or 'no answer in time'}; {advice}"


async def _migrate_with_patience(engine: AsyncEngine) -> MigrationReport:
    for _ in range(TRIES - 1):
        try:
            return await _migrate(engine)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != asyncpg.LockNotAvailableError.sqlstate:
                raise
        await asyncio.sleep(PAUSE_S)
    return await _migrate(engine)


async def _catch_up(database_url: str) -> None:
    pg = await connect(database_url)
    try:
        await catch_up(pg)
    finally:
        await pg.close()


async def _migrate(engine: AsyncEngine) -> MigrationReport:
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
        return await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> MigrationReport:
    config = alembic_config()
    config.attributes["connection"] = connection
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    before = context.get_current_revision()
    if before is not None and before > SCHEMA_REVISION:
        return MigrationReport(before, before)
    ends_old_owners = before is not None and before < schema.OLDEST_SERVED
    if ends_old_owners:
        # First of all, as every commit of theirs does; and whoever takes a pool right now waits for it, and then looks.
        connection.execute(text("LOCK TABLE pool_lease IN EXCLUSIVE MODE"))
    command.upgrade(config, "head")
    after = context.get_current_revision()
    if before != after:
        connection.execute(text(schema.mark(schema.OLDEST_SERVED)))
    if connection.scalar(text(schema.READ_IDENTITY)) is None:
        connection.execute(text(schema.give_identity()))
    if ends_old_owners:
        connection.execute(text(schema.FENCE))
    return MigrationReport(before, after)


def alembic_config() -> Config:
    """Alembic's configuration without a file, so that an installed wheel needs none."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
