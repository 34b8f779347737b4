"""The store in Postgres does what a store must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.store_battery import StoreBattery
from tests.support.store_rows import RETENTION_MS

from callboard.orchestrator.store.migrate import migrate
from callboard.orchestrator.store.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


class TestPostgresStore(StoreBattery):
    @pytest.fixture
    async def store(self, database_url: str) -> AsyncIterator[PostgresStore]:
        await migrate(database_url)
        store = PostgresStore(database_url, key_retention_ms=RETENTION_MS, allow_relaxed_durability=True)
        await store.open()
        yield store
        await store.close()
