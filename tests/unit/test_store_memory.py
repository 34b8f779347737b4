"""The store in memory does what a store must do."""

from __future__ import annotations

import pytest
from tests.support.store_battery import StoreBattery
from tests.support.store_rows import POOL, RETENTION_MS, T0, draft, own
from tests.support.store_waiting import lane

from callboard.orchestrator.store.memory import MemoryStore
from callboard.schemas.vocabulary import Durability, TaskState

pytestmark = pytest.mark.anyio


class TestMemoryStore(StoreBattery):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore(key_retention_ms=RETENTION_MS)


async def test_it_says_what_it_keeps() -> None:
    store = MemoryStore(key_retention_ms=RETENTION_MS)
    await store.open()
    await store.ping()
    assert store.durability is Durability.MEMORY
    owner = await own(store)
    await owner.commit(draft().insert())
    await store.close()
    await store.close()
    await store.open()
    assert (await store.load(owner.lease)).counts[TaskState.QUEUED] == 1


async def test_a_lease_runs_out_by_the_given_clock() -> None:
    now_ms = T0
    store = MemoryStore(key_retention_ms=RETENTION_MS, clock=lambda: now_ms)
    owner = await own(store, lease_ms=3_000)
    now_ms = T0 + 2_999
    assert await store.acquire("default", holder="two", replica="r", lease_ms=3_000) is None
    owner.lease = await store.renew(owner.lease, lease_ms=3_000)
    now_ms = T0 + 5_998
    assert await store.acquire("default", holder="two", replica="r", lease_ms=3_000) is None
    now_ms = T0 + 5_999
    heir = await store.acquire("default", holder="two", replica="r", lease_ms=3_000)
    assert heir is not None
    assert heir.since_ms == T0 + 5_999


async def test_a_place_that_the_database_would_not_take_is_refused() -> None:
    store = MemoryStore(key_retention_ms=RETENTION_MS)
    with pytest.raises(ValueError, match="UUID"):
        await store.lanes(POOL, [lane(from_id="")])
