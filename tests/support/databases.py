"""A new, empty database on a server, dropped after its use."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.orchestrator.store.embedded import EmbeddedPostgres


@asynccontextmanager
async def new_database(server: EmbeddedPostgres, name: str) -> AsyncIterator[str]:
    """Its URL; in the end it is dropped, whoever is still connected."""
    admin = await asyncpg.connect(**server.connect_args)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield server.dsn_of(name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()
