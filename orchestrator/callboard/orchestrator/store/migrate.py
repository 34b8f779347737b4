"""Bringing a database's schema to this version: `callboard migrate`.

One transaction: all or nothing, and a lock in it lets any number of replicas do this at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from callboard.orchestrator.store.connections import connect
from callboard.schemas.errors import DatabaseOperationError

if TYPE_CHECKING:
    from sqlalchemy import Connection

VERSION_TABLE: Final = "schema_version"
MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x63616C6C626F6172
"""An arbitrary number that means "Callboard's schema" among this database's advisory locks."""


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """The revisions that a migration led from (`None`: an empty database) and to."""

    before: str | None
    after: str | None


async def migrate(database_url: str) -> MigrationReport:
    """Bring the schema to this version's revision; does nothing when it is there already.

    Raises:
        ConfigurationError: the URL is none.
        DatabaseOperationError: the database cannot be reached, or refuses; nothing was changed.
    """
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: connect(database_url), poolclass=NullPool
    )
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            return await connection.run_sync(_upgrade)
    except (OSError, asyncpg.PostgresError, SQLAlchemyError) as error:
        # SQLAlchemy adds the statement to its text, over many lines.
        cause = str(getattr(error, "orig", error)).partition("\n")[0]
        raise DatabaseOperationError(f"the database was not migrated: {cause}") from error
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> MigrationReport:
    config = alembic_config()
    config.attributes["connection"] = connection
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    before = context.get_current_revision()
    command.upgrade(config, "head")
    return MigrationReport(before, context.get_current_revision())


def alembic_config() -> Config:
    """Alembic's configuration without a file, so that an installed wheel needs none."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
