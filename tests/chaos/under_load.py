"""A rig under load, for tests that bring one fault about: its history is checked whole at the end."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Final

from tests.chaos import history as h
from tests.chaos.checker import check
from tests.chaos.clients import Clients
from tests.chaos.faults import Faults
from tests.chaos.rig import WITHIN_S, tick

from callboard.schemas.vocabulary import TaskState

if TYPE_CHECKING:
    from tests.chaos.rig import Rig

SEED: Final = 20260
RATE: Final = 30.0


class Run:
    """A rig under load, whose history is checked at the end."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.faults = Faults(rig)
        self.clients = Clients(rig.client, rig.history, Random(SEED))  # noqa: S311 - a load, no secret
        self._load: asyncio.Task[None] | None = None

    def begin_load(self) -> None:
        self._load = asyncio.create_task(self.clients.keep_submitting(RATE))

    def end_load(self) -> None:
        """Nobody submits any more; whoever has, waits for an answer."""
        if self._load is not None:
            self._load.cancel()

    async def close(self) -> None:
        """Everyone goes away, whatever became of the test."""
        self.end_load()
        await self.clients.abandon()

    async def more(self, count: int = 20) -> None:
        """Wait until so many more tasks have succeeded."""
        before = await self.succeeded()
        async with asyncio.timeout(WITHIN_S):
            while await self.succeeded() < before + count:
                await tick()

    async def succeeded(self) -> int:
        status = await self.rig.client.status(timeout_s=WITHIN_S)
        return status.tasks.by_state.get(TaskState.SUCCEEDED, 0)

    async def finish(self) -> list[h.AnyEvent]:
        """End the load, wait until all is done, and check; the history."""
        self.end_load()
        await self.clients.finish()
        self.rig.history.write(h.Healed())
        async with asyncio.timeout(WITHIN_S):
            while await self.rig.live_tasks():
                await tick()
        await self.rig.export()
        history = h.read(self.rig.history.path)
        assert check(history) == []
        return history
