"""One peer's agent in the pool: it signs in, its tasks become prompts, and it ends as the peer does."""

from collections.abc import Callable, Iterable
from typing import Any

import structlog

from callboard.agents.agent import Agent
from callboard.agents.context import TaskContext
from callboard.agents.synadia.dispatch import Prompter
from callboard.agents.synadia.peers import Peer
from callboard.bus.connection import Bus
from callboard.bus.options import BusOptions
from callboard.schemas.errors import OrchestratorError

log = structlog.get_logger("callboard.agents.synadia")


class Proxy:
    """A peer's agent, from when it is found until it is gone.

    Args:
        agent: made for the peer, without a handler yet.
        task_types: what it takes.
        idle_s, on_nobody: as `Prompter`; `on_nobody` gets this proxy.
    """

    def __init__(
        self,
        peer: Peer,
        agent: Agent,
        bus: Bus,
        *,
        task_types: Iterable[str],
        idle_s: float,
        on_nobody: "Callable[[Proxy], None]",
    ) -> None:
        self.peer = peer
        self._agent = agent
        self._running = 0
        self._prompter = Prompter(bus, peer, idle_s=idle_s, on_nobody=lambda: on_nobody(self))
        for task_type in task_types:
            agent.task(task_type)(self._run)

    async def _run(self, ctx: TaskContext) -> dict[str, Any]:
        self._running += 1
        try:
            return await self._prompter(ctx)
        finally:
            self._running -= 1

    async def serve(self, options: BusOptions | None) -> None:
        """Sign in, and work until it is told to end, by us or by an operator."""
        try:
            await self._agent.start(options)
            await self._agent.wait()
        except OrchestratorError as error:
            # A newer dispatcher has taken it over, or the pool refuses it for good.
            log.warning("agent ended", agent_id=self.peer.agent_id, code=error.code, why=error.message)

    async def bury(self) -> None:
        """The peer is gone: so is what it was to do, and that is the pool's to find out as with any agent."""
        await (self._agent.abandon() if self._running else self._agent.stop())

    async def abandon(self) -> None:
        """The peer has a successor, which signs in next and is told to be the newer process."""
        await self._agent.abandon()

    async def release(self) -> None:
        """Give back what it has, and leave."""
        await self._agent.stop()

    async def drain(self) -> None:
        """Take nothing new, finish, leave."""
        await self._agent.drain()
