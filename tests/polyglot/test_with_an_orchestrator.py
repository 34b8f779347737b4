"""An agent of each language at work for a real orchestrator that crashes and comes again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.polyglot.agent_rig import kill_session, tail
from tests.polyglot.languages import LANGUAGES
from tests.support.replica import environment, replica

from callboard.bus.client import Client
from callboard.bus.embedded import EmbeddedNats

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

WITHIN_S = 60.0
SETTINGS = {"CALLBOARD_HEARTBEAT_INTERVAL_SECONDS": "1"}
"""As `callboard dev`: a shell that starts some processes for each heartbeat must keep its lease on a busy machine."""
TASKS = 12


@pytest.mark.parametrize("language", LANGUAGES)
async def test_every_task_is_done_though_the_orchestrator_crashes(
    language: str, tmp_path: Path, database_url: str
) -> None:
    command = LANGUAGES[language].build()
    agent_id = f"{language}-1"
    async with EmbeddedNats(tmp_path / "nats", token=None) as server, Client.connect(server.url) as client:
        own = {"CALLBOARD_AGENT_ID": agent_id, "CALLBOARD_SLOTS": "2"}
        log = tmp_path / "agent.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, env={**environment(server.url, database_url), **own}, stdout=output, stderr=output,
                stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            async with replica(server.url, database_url, SETTINGS) as first, asyncio.timeout(WITHIN_S):
                long = await client.submit("sleep", {"ms": 3_000})
                short = [await client.submit("echo", number) for number in range(TASKS)]
                await client.wait(short[0].task_id)
                await first.kill()
            async with replica(server.url, database_url, SETTINGS), asyncio.timeout(WITHIN_S):
                for number, submitted in enumerate(short):
                    task = await client.wait(submitted.task_id)
                    assert (task.state, task.result_value()) == ("succeeded", {"echo": number}), (task, tail(log))
                task = await client.wait(long.task_id)
                assert (task.state, task.attempt, task.result_value()) == ("succeeded", 1, {"slept_ms": 3_000})
                shown = await client.agent(agent_id)
                await client.shutdown_agent(agent_id, grace_ms=10_000)
                assert await process.wait() == 0
                assert shown.slots == 2
        finally:
            kill_session(process)
            await process.wait()
