"""Spawned agents that come back: after a crash that nobody noticed, and though they are quarantined."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from callboard.bus.client import Client
from callboard.orchestrator import Orchestrator, OrchestratorConfig, OrchestratorMode
from callboard.orchestrator.config import NatsSettings, RoleSettings
from callboard.schemas.vocabulary import AgentState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.bus.embedded import EmbeddedNats

pytestmark = pytest.mark.anyio

WITHIN_S = 30.0
SPAWN_S = 10.0
CALLBOARD = Path(sys.executable).with_name("callboard")


@asynccontextmanager
async def spawning(nats: EmbeddedNats, *command: str, **settings: Any) -> AsyncIterator[Client]:  # noqa: ANN401 - any setting
    """A client of an orchestrator whose role `hand` runs `command` for each task."""
    config = OrchestratorConfig(
        mode=OrchestratorMode.TEST,
        nats=NatsSettings(url=nats.url),
        enable_database_persistence=False,
        spawn_timeout_seconds=SPAWN_S,
        roles={"hand": RoleSettings(command=(str(CALLBOARD), "agent", "exec", "--", *command))},
        **settings,
    )
    async with asyncio.timeout(WITHIN_S), Orchestrator(config), Client.connect(nats.url) as client:
        yield client


async def test_one_that_crashed_and_came_back_unnoticed_is_left_alone(nats_server: EmbeddedNats) -> None:
    async with spawning(nats_server, "sh", "-c", "echo $PPID", heartbeat_interval_seconds=5.0) as client:
        await client.spawn("hand", agent_id="w1")
        first = await client.agent("w1")
        os.kill(int(await client.run("pid")), signal.SIGKILL)
        async for agent in looking(client):
            if agent.incarnation != first.incarnation:
                break
        pid = await client.run("pid")
        again = await client.spawn("hand", agent_id="w1")
        assert again.state is AgentState.ONLINE
        assert await client.run("pid") == pid


async def test_one_that_is_quarantined_can_be_spawned_again(nats_server: EmbeddedNats) -> None:
    async with spawning(nats_server, "false", agent_quarantine_failures=1) as client:
        await client.spawn("hand", agent_id="w1")
        await client.wait((await client.submit("ill", max_attempts=1)).task_id)
        assert (await client.agent("w1")).state is AgentState.QUARANTINED
        await client.shutdown_agent("w1", grace_ms=500)
        async for agent in looking(client):
            if agent.state is AgentState.STOPPED:
                break
        await client.spawn("hand", agent_id="w1", timeout_s=SPAWN_S)
        assert (await client.agent("w1")).state is AgentState.QUARANTINED


async def looking(client: Client) -> AsyncIterator[Any]:
    """The agent as it is shown, again and again."""
    while True:
        yield await client.agent("w1")
