"""A `callboard serve` of its own process, and the wait until somebody answers for its pool."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from callboard.bus.client import Client
from callboard.orchestrator.store.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

WITHIN_S = 30.0

TEST_SETTINGS = {
    "CALLBOARD_MODE": "test",
    "CALLBOARD_HEARTBEAT_INTERVAL_SECONDS": "0.3",
    "CALLBOARD_HTTP_PORT": "0",
    "CALLBOARD_LOG_LEVEL": "info",
    "CALLBOARD_ALLOW_RELAXED_DURABILITY": "true",
}


class Replica:
    """A running replica."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WITHIN_S):
            return await self.process.wait()


def environment(nats_url: str, database_url: str, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CALLBOARD_", "NATS_"))}
    return {**inherited, "NATS_URL": nats_url, "DATABASE_URL": database_url, **TEST_SETTINGS, **(settings or {})}


@contextlib.asynccontextmanager
async def replica(
    nats_url: str, database_url: str, settings: Mapping[str, str] | None = None, *, stderr: int | None = None
) -> AsyncIterator[Replica]:
    """A replica that serves, on a schema that is up to date."""
    await migrate(database_url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "callboard.cli", "serve", env=environment(nats_url, database_url, settings), stderr=stderr
    )
    running = Replica(process)
    try:
        async with Client.connect(nats_url) as client:
            await client.status(timeout_s=WITHIN_S)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
