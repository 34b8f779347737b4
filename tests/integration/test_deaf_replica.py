"""A replica that NATS does not reach must not take a pool: it could not serve it, and would keep it from who can."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from callboard.bus.embedded import EmbeddedNats
from callboard.orchestrator import OrchestratorConfig, OrchestratorMode
from callboard.orchestrator.config import NatsSettings
from callboard.orchestrator.service import Orchestrator
from callboard.orchestrator.store.migrate import migrate

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


def replica(nats_url: str, database_url: str) -> Orchestrator:
    nats = NatsSettings(url=nats_url)
    config = OrchestratorConfig(
        mode=OrchestratorMode.TEST, prefix="deaf", nats=nats, database_url=database_url, pool_lease_ms=1000
    )
    return Orchestrator(config)


async def test_a_deaf_standby_leaves_the_pool_to_another(
    nats_server: EmbeddedNats, database_url: str, tmp_path: Path
) -> None:
    await migrate(database_url)
    async with EmbeddedNats(tmp_path, token=None, jetstream=False) as other_side:
        first = replica(nats_server.url, database_url)
        await first.start()
        deaf = replica(other_side.url, database_url)
        starting = asyncio.create_task(deaf.start())
        try:
            # It stands by: nobody on its side of the bus owns the pool, so that it never becomes ready.
            done, _ = await asyncio.wait([starting], timeout=2)
            assert not done
            await other_side.stop()
            await first.shutdown()
            done, _ = await asyncio.wait([starting], timeout=1.5)
            assert not done
            async with replica(nats_server.url, database_url) as second:
                assert (await second.get_system_status()).owner.epoch == 2
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await deaf.shutdown()
