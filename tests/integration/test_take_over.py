"""Taking a pool: only who hears the bus tries, and who loads a deep queue keeps the lease meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from callboard.bus.connection import Bus, BusChange, BusState
from callboard.bus.embedded import EmbeddedNats
from callboard.bus.options import BusOptions
from callboard.orchestrator.clock import steady_s
from callboard.orchestrator.config import OrchestratorConfig, OrchestratorMode
from callboard.orchestrator.ids import TaskIds
from callboard.orchestrator.keeper import PoolKeeper, Premises
from callboard.orchestrator.launcher import Launcher
from callboard.orchestrator.metrics import Metrics
from callboard.orchestrator.replicas import Replicas
from callboard.orchestrator.status import ProcessFacts
from callboard.orchestrator.store.memory import MemoryStore
from callboard.schemas.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from callboard.orchestrator.core.changes import Snapshot
    from callboard.orchestrator.store.port import Lease, Store

pytestmark = pytest.mark.anyio

WITHIN_S = 20.0


@asynccontextmanager
async def keeping(bus: Bus, store: Store, *, holder: str = "me", lease_ms: int = 3000) -> AsyncIterator[PoolKeeper]:
    """A replica's stand for the pool `default`."""
    config = OrchestratorConfig(mode=OrchestratorMode.TEST, replica=holder, pool_lease_ms=lease_ms)
    premises = Premises(
        config=config,
        bus=bus,
        store=store,
        launcher=Launcher(config, agent_environment={}),
        metrics=Metrics(),
        ids=TaskIds(),
        facts=ProcessFacts(mode=config.mode, version="0", started_ms=0),
        holder=holder,
        replicas=(
            replicas := Replicas(
                bus,
                prefix=config.prefix,
                holder=holder,
                store=store.identity,
                reply_prefixes=config.reply_prefixes,
                on_conflict=lambda e: pytest.fail(e.message),
            )
        ),
        on_unfit=lambda error: pytest.fail(error.message),
    )
    keeper = PoolKeeper("default", premises)
    replicas.attach([keeper])
    running = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        await keeper.stop()
        async with asyncio.timeout(WITHIN_S):
            await running


class Ears(Bus):
    """A bus that tells how often it was asked whether it hears."""

    asked = 0
    tried: asyncio.Event

    async def rtt(self, timeout_s: float = WITHIN_S) -> float:
        self.asked += 1
        if self.asked > 2:
            self.tried.set()
        return await super().rtt(timeout_s)


class Wanted(MemoryStore):
    """A store that notes who wants the lease."""

    def __init__(self, tried: asyncio.Event) -> None:
        super().__init__(key_retention_ms=1000)
        self.tried = tried
        self.tries = 0

    async def acquire(self, pool: str, *, holder: str, replica: str, lease_ms: int) -> Lease | None:
        self.tries += 1
        self.tried.set()
        return await super().acquire(pool, holder=holder, replica=replica, lease_ms=lease_ms)


async def test_a_replica_that_is_deaf_on_the_bus_leaves_the_pool_to_others(tmp_path: Path) -> None:
    changes: asyncio.Queue[BusChange] = asyncio.Queue()
    server = EmbeddedNats(tmp_path, token=None)
    await server.start()
    try:
        async with await Ears.connect(BusOptions(servers=(server.url,)), on_change=changes.put_nowait) as bus:
            bus.tried = asyncio.Event()
            store = Wanted(bus.tried)
            await server.stop()
            async with asyncio.timeout(WITHIN_S):
                while (await changes.get()).state is not BusState.DISCONNECTED:
                    pass
                async with keeping(bus, store) as keeper:
                    await bus.tried.wait()
                    assert store.tries == 0
                    await server.start()
                    await keeper.owned.wait()
                    assert keeper.owner is not None
                    assert keeper.owner.lease.epoch == 1
    finally:
        await server.stop()


class Deep(MemoryStore):
    """A store whose loading ends when the lease was renewed meanwhile."""

    def __init__(self) -> None:
        super().__init__(key_retention_ms=1000)
        self.loading = asyncio.Event()
        self.renewed = asyncio.Event()

    async def renew(self, lease: Lease, *, lease_ms: int, **more: Any) -> Lease:  # noqa: ANN401 - what else is written is none of this test
        renewed = await super().renew(lease, lease_ms=lease_ms, **more)
        self.renewed.set()
        return renewed

    async def load(self, lease: Lease) -> Snapshot:
        self.loading.set()
        await self.renewed.wait()
        return await super().load(lease)


async def test_the_lease_is_renewed_while_a_deep_queue_is_loaded(nats_server: EmbeddedNats) -> None:
    store = Deep()
    async with (
        await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus,
        keeping(bus, store) as keeper,
        asyncio.timeout(WITHIN_S),
    ):
        await keeper.owned.wait()
        assert store.renewed.is_set()


class Endless(Deep):
    """A store that never stops loading."""

    async def load(self, lease: Lease) -> Snapshot:
        self.loading.set()
        await asyncio.Event().wait()
        return await super().load(lease)


async def test_a_stop_does_not_wait_for_a_deep_queue_to_be_loaded(nats_server: EmbeddedNats) -> None:
    store = Endless()
    async with (
        asyncio.timeout(WITHIN_S),
        await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus,
        keeping(bus, store) as keeper,
    ):
        await store.loading.wait()
        assert keeper.is_loading
    assert await store.acquire("default", holder="next", replica="next", lease_ms=1000) is not None


async def test_whoever_lost_the_lease_while_loading_lets_go(nats_server: EmbeddedNats) -> None:
    store = Endless()
    async with (
        asyncio.timeout(WITHIN_S),
        await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus,
        keeping(bus, store) as keeper,
    ):
        await store.loading.wait()
        store.loading.clear()
        await store.acquire("default", holder="me", replica="again", lease_ms=60_000)
        await store.loading.wait()  # fenced by its renewal, it took the pool anew
        assert keeper.is_loading


async def test_whoever_wakes_after_its_lease_accepts_nothing_even_before_it_knows(
    nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus,
        keeping(bus, MemoryStore(key_retention_ms=1000)) as keeper,
    ):
        await keeper.owned.wait()
        assert keeper.owner is not None
        keeper.owner.require_active()
        monkeypatch.setattr(keeper.owner._trust, "_steady", lambda: steady_s() + 60)
        assert keeper.owner.is_active
        with pytest.raises(UnavailableError):
            keeper.owner.require_active()
        monkeypatch.undo()
