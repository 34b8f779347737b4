"""The store in Postgres does what a store must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.store_battery import StoreBattery
from tests.support.store_postgres import opened_store
from tests.support.store_rows import draft, ids_of, own

from callboard.orchestrator.store import loading
from callboard.schemas.vocabulary import TaskPriority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.orchestrator.store.postgres import PostgresStore

pytestmark = pytest.mark.anyio


class TestPostgresStore(StoreBattery):
    @pytest.fixture
    async def store(self, database_url: str) -> AsyncIterator[PostgresStore]:
        async with opened_store(database_url) as store:
            yield store

    @pytest.mark.parametrize("classes", [0, 2, 3, 6, 7])
    async def test_the_heads_of_many_classes_are_read_in_slices(
        self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch, classes: int
    ) -> None:
        monkeypatch.setattr(loading, "CLASSES", 3)
        owner = await own(store)
        lanes = [(f"class-{number}", priority) for number in range(classes) for priority in list(TaskPriority)[1:]]
        heads = [draft(placement=placement, priority=priority) for placement, priority in lanes]
        followers = [draft(placement=placement, priority=priority) for placement, priority in lanes]
        await owner.commit(*(task.insert() for task in (*followers, *heads)))
        expected = sorted(heads, key=lambda task: (-task.new.priority, task.task_id))
        assert ids_of((await store.load(owner.lease)).heads) == [task.task_id for task in expected]
