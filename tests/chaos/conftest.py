"""A Postgres that tells when each commit was, for the tests in this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.chaos import database_log

from callboard.orchestrator.store.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(scope="session")
async def postgres_server(
    anyio_backend: str,  # noqa: ARG001 - orders the loop before the server
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[EmbeddedPostgres]:
    """One for this folder; as everywhere `fsync` is off, since its data ends with the session."""
    settings = {"fsync": "off", "max_connections": "100", **database_log.SETTINGS}
    async with EmbeddedPostgres(tmp_path_factory.mktemp("chaos-postgres"), settings=settings) as server:
        yield server
