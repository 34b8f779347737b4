"""The store in Postgres does what a store must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.store_battery import StoreBattery
from tests.support.store_postgres import opened_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.orchestrator.store.postgres import PostgresStore

pytestmark = pytest.mark.anyio


class TestPostgresStore(StoreBattery):
    @pytest.fixture
    async def store(self, database_url: str) -> AsyncIterator[PostgresStore]:
        async with opened_store(database_url) as store:
            yield store
