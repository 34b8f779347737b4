"""A pool in memory on a NATS of its own: whoever is discovered or prompted there belongs to the test."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from callboard.bus.embedded import EmbeddedNats
from callboard.orchestrator import Orchestrator, OrchestratorConfig, OrchestratorMode
from callboard.orchestrator.config import NatsSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def memory_pool(directory: Path) -> AsyncIterator[str]:
    """The address of its NATS."""
    async with EmbeddedNats(directory, token=None) as server:
        config = OrchestratorConfig(
            mode=OrchestratorMode.TEST,
            nats=NatsSettings(url=server.url),
            enable_database_persistence=False,
            heartbeat_interval_seconds=0.3,
        )
        async with Orchestrator(config):
            yield server.url
