"""An agent of each language joins a running `callboard dev`, token and all, and does a task."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.polyglot.agent_rig import kill_session, tail
from tests.polyglot.conftest import WITHIN_S
from tests.polyglot.languages import LANGUAGES

if TYPE_CHECKING:
    from tests.polyglot.conftest import Cli

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("language", LANGUAGES)
async def test_it_joins_and_does_a_task(language: str, cli: Cli, tmp_path: Path) -> None:
    command = LANGUAGES[language].build()
    addresses = json.loads((Path(cli.environment["CALLBOARD_DATA_DIR"]) / "callboard.json").read_text())
    agent_id, log = f"joining-{language}", tmp_path / "agent.log"
    own = {"NATS_URL": addresses["nats_url"], "CALLBOARD_AGENT_ID": agent_id}
    submitted = await cli.ask("tasks.submit", type="echo", payload=[language], requires={"agent_id": agent_id})
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, env={**cli.environment, **own}, stdout=output, stderr=output, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    try:
        task = await cli.ask("tasks.wait", task_id=submitted["task_id"], timeout_ms=4_500)
        assert (task["state"], task.get("result")) == ("succeeded", {"echo": [language]}), tail(log)
        process.terminate()
        async with asyncio.timeout(WITHIN_S):
            assert await process.wait() == 0
        assert (await cli.ask("agents.get", agent_id=agent_id))["state"] == "stopped"
    finally:
        kill_session(process)
        await process.wait()
