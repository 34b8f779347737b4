"""The store in Postgres does what a store must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.store_battery import StoreBattery
from tests.support.store_postgres import opened_store
from tests.support.store_rows import T0, draft, own

from callboard.orchestrator.store import loading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.orchestrator.store.postgres import PostgresStore

pytestmark = pytest.mark.anyio


class TestPostgresStore(StoreBattery):
    @pytest.fixture
    async def store(self, database_url: str) -> AsyncIterator[PostgresStore]:
        async with opened_store(database_url) as store:
            yield store

    async def test_a_deep_queue_is_loaded_in_slices(
        self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loading, "SLICE", 3)
        owner = await own(store)
        loaded: list[str] = []
        for count in (2, 1, 4, 2):
            # Several of one instant, so that a slice ends among them.
            tasks = [draft(created_ms=T0 + count) for _ in range(count)]
            await owner.commit(*(task.insert() for task in tasks), draft().insert_final())
            loaded = [stored.columns.task_id for stored in (await store.load(owner.lease)).tasks]
            assert set(loaded) >= {task.task_id for task in tasks}
            assert len(loaded) == len(set(loaded))
        assert len(loaded) == 9
