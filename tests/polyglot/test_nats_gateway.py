"""A pool as an agent of the Synadia Agent Protocol, prompted by the real `nats` command."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.polyglot.conftest import Cli

pytestmark = pytest.mark.anyio

WITHIN_S = 30.0


@asynccontextmanager
async def callboard(environment: dict[str, str], *arguments: str, ready: bytes) -> AsyncIterator[None]:
    """A command of ours at work."""
    program = Path(sys.executable).with_name("callboard")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(program, *arguments, env=environment, stderr=pipe)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(WITHIN_S):
            while ready not in (line := await process.stderr.readline()):
                assert line, "it ended"
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(WITHIN_S):
            await process.communicate()
    assert process.returncode == 0


async def test_the_nats_command_finds_the_pool_among_the_agents_and_prompts_it(cli: Cli, dev: dict[str, str]) -> None:
    """As docs/agents.md has it. What `nats` does not understand it hides: so what it shows is looked at."""
    async with AsyncExitStack() as stack:
        gateway = ("gateway", "--owner", "me", "--capability", "length")
        await stack.enter_async_context(callboard(dev, *gateway, ready=b"gateway open"))
        agent = ("agent", "exec", "--capability", "length", "--input", "{payload.prompt}", "--", "wc", "-c")
        await stack.enter_async_context(callboard(dev, *agent, ready=b"signed_in"))
        services = await cli.json("micro", "ls", "agents", "--json")
        assert [service["name"] for service in services] == ["agents"]
        info = (await cli.json("micro", "info", "agents", "--json"))["info"]
        assert [endpoint["name"] for endpoint in info["endpoints"]] == ["prompt", "status"]
        [stats] = await cli.json("micro", "stats", "agents", "--json")
        assert stats["id"] == info["id"]
        subject = "agents.prompt.callboard.me.default"
        told = await cli.run("req", subject, "hello", "--replies=0", "--raw", "--wait-for-empty")
        chunks = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
        assert chunks[0] == {"type": "status", "data": "ack"}
        assert "nil body" in told, "the terminator"
        assert chunks[-1] == {"type": "response", "data": "5\n"}
