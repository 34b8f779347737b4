"""The servers that tests share: real ones, started once a session on one event loop. Helpers are in `tests.support`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from tests.support.databases import new_database

from callboard.bus.embedded import EmbeddedNats
from callboard.orchestrator.store.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Session-wide, so that fixtures of every scope and all tests share one loop, in one thread."""
    return "asyncio"


@pytest.fixture(scope="session")
async def nats_server(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedNats]:  # noqa: ARG001 - orders the loop before the server
    """One nats-server for the session, without a token. A test that stops or kills a server starts its own."""
    async with EmbeddedNats(tmp_path_factory.mktemp("nats"), token=None) as server:
        yield server


@pytest.fixture(scope="session")
async def postgres_server(
    anyio_backend: str,  # noqa: ARG001 - orders the loop before the server
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[EmbeddedPostgres]:
    """One PostgreSQL for the session; `fsync` is off, since its data ends with the session."""
    settings = {"fsync": "off", "max_connections": "100"}
    async with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), settings=settings) as server:
        yield server


@pytest.fixture(scope="session")
def database_names() -> Iterator[str]:
    return (f"test_{number}" for number in itertools.count(1))


@pytest.fixture
async def database_url(postgres_server: EmbeddedPostgres, database_names: Iterator[str]) -> AsyncIterator[str]:
    """The URL of a new, empty database, dropped after the test whoever is still connected."""
    async with new_database(postgres_server, next(database_names)) as url:
        yield url
