"""The history's partitions come and go, and nothing is lost or refused without them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import structlog
from tests.support.store_postgres import blocked_backend, connected, opened_store
from tests.support.store_rows import T0, S, draft, own

from callboard.orchestrator.store import maintenance
from callboard.orchestrator.store.driver import PgConnection
from callboard.schemas.tasks import ListTasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.orchestrator.store.postgres import PostgresStore

pytestmark = pytest.mark.anyio

DAY_MS = 86_400_000


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresStore]:
    async with opened_store(database_url) as store:
        yield store


@pytest.fixture
async def observer(database_url: str) -> AsyncIterator[PgConnection]:
    async with connected(database_url) as pg:
        yield pg


async def maintain(store: PostgresStore, *, retention_days: int = 30) -> None:
    await store.maintain(retention_days=retention_days)


async def partitions(observer: PgConnection) -> dict[str, int]:
    """The tasks in each partition."""
    rows = await observer.fetch(
        "SELECT inhrelid::regclass::text, (SELECT count(*) FROM task_history h WHERE h.tableoid = inhrelid)"
        " FROM pg_inherits WHERE inhparent = 'task_history'::regclass"
    )
    return {row[0].removeprefix("task_history_"): row[1] for row in rows}


def name(now_ms: int, days: int) -> str:
    return f"{datetime.fromtimestamp(now_ms / 1000, UTC) + timedelta(days=days):%Y%m%d}"


async def test_partitions_are_made_ahead_and_take_their_rows(store: PostgresStore, observer: PgConnection) -> None:
    owner = await own(store)
    now_ms = owner.lease.now_ms
    times = (T0, now_ms - DAY_MS, now_ms, now_ms + DAY_MS, now_ms + 9 * DAY_MS)
    tasks = [draft() for _ in times]
    await owner.commit(*(task.insert() for task in tasks))
    await owner.commit(*(task.finish(finished_ms=at_ms)[1] for task, at_ms in zip(tasks, times, strict=True)))
    assert await partitions(observer) == {"default": 5}
    for _ in range(2):
        await maintain(store, retention_days=10_000)
        assert await partitions(observer) == {
            "default": 3,
            name(now_ms, 0): 1,
            name(now_ms, 1): 1,
            name(now_ms, 2): 0,
            name(now_ms, 3): 0,
        }
    late = draft()
    await owner.commit(late.insert_final(finished_ms=now_ms + 2 * DAY_MS))
    assert (await partitions(observer))[name(now_ms, 2)] == 1
    assert len((await store.page("default", ListTasks())).tasks) == 6
    indexes = await observer.fetch(
        "SELECT indexname FROM pg_indexes WHERE tablename = $1", f"task_history_{name(now_ms, 2)}"
    )
    assert len(indexes) == 2


async def test_partitions_past_the_retention_are_dropped_whole(store: PostgresStore, observer: PgConnection) -> None:
    owner = await own(store)
    now_ms = owner.lease.now_ms
    for days in (-5, -4, -3):
        day = datetime.fromtimestamp(now_ms / 1000, UTC).date() + timedelta(days=days)
        async with observer.transaction():
            await maintenance._make_partition(observer, day)
    midnight_ms = now_ms - now_ms % DAY_MS
    old, kept = draft(), draft()
    await owner.commit(
        old.insert_final(finished_ms=midnight_ms - 3 * DAY_MS - 1),
        kept.insert_final(finished_ms=midnight_ms - 3 * DAY_MS),
    )
    assert (await partitions(observer))[name(now_ms, -4)] == 1
    await maintain(store, retention_days=3)
    assert min(await partitions(observer)) == name(now_ms, -3)
    assert [await owner.state_of(task.task_id) for task in (old, kept)] == [None, S.CANCELLED]


async def test_strays_past_the_retention_are_deleted_in_steps(store: PostgresStore, observer: PgConnection) -> None:
    owner = await own(store)
    count = maintenance.CHUNK * 2 + 1
    for _ in range(2):
        await owner.commit(*(draft(key=draft().task_id).insert_final(finished_ms=T0) for _ in range(count // 2 + 1)))
    await maintain(store)
    assert (await partitions(observer))["default"] == 0
    assert await observer.fetchval("SELECT count(*) FROM task_key") == 0


async def test_what_cannot_be_had_at_once_is_left_for_the_next_time(
    store: PostgresStore,
    observer: PgConnection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(maintenance, "LOCK_TIMEOUT_MS", 20)
    async with connected(database_url) as reader:
        async with reader.transaction():
            await reader.execute("LOCK TABLE task_history_default IN ROW EXCLUSIVE MODE")
            with structlog.testing.capture_logs() as logs:
                await maintain(store)
            assert {log["log_level"] for log in logs} == {"warning"}
            assert set(await partitions(observer)) == {"default"}
        await maintain(store)
        assert len(await partitions(observer)) == 5


async def test_only_one_maintains_at_a_time(store: PostgresStore, observer: PgConnection, database_url: str) -> None:
    async with connected(database_url) as reader:
        hold = reader.transaction()
        await hold.start()
        await reader.execute("LOCK TABLE task_key IN ACCESS EXCLUSIVE MODE")
        first = asyncio.create_task(maintain(store))
        await blocked_backend(observer)
        await maintain(store)  # finds somebody at it, and leaves at once
        assert set(await partitions(observer)) == {"default"}
        await hold.rollback()
        await first
    assert len(await partitions(observer)) == 5
    await maintain(store)
