"""The client for embedding in other programs: submit, await, watch and steer tasks and agents; no server dependencies.

Example:
    async with Client.connect("nats://127.0.0.1:4222") as client:
        answer = await client.submit("review", {"file": "a.py"}, priority=TaskPriority.HIGH)
        task = await client.wait(answer.task_id)
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

from callboard.bus.client_agents import AgentCalls
from callboard.bus.client_calls import DEFAULT_TIMEOUT_S
from callboard.bus.client_events import EventCalls, HeardEvent
from callboard.bus.client_spec import SubmitOptions
from callboard.bus.client_tasks import TaskCalls, failure_of
from callboard.bus.connection import Bus, BusChange, BusState
from callboard.bus.context import options_from_environment
from callboard.bus.options import BusOptions
from callboard.schemas.errors import UnavailableError
from callboard.schemas.subjects import DEFAULT_POOL, DEFAULT_PREFIX

__all__ = ["Client", "HeardEvent", "SubmitOptions", "failure_of"]


class Client(TaskCalls, AgentCalls, EventCalls):
    """Everything that a client may ask of one pool.

    `Client(bus)` speaks over a connection of yours and leaves it open; `Client.connect` has its own.
    """

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str | BusOptions | None = None,
        *,
        pool: str = DEFAULT_POOL,
        prefix: str = DEFAULT_PREFIX,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        on_change: Callable[[BusChange], None] | None = None,
    ) -> AsyncIterator[Self]:
        """A client with a connection that is kept, and closed at the end of the block.

        Args:
            url: `nats://host:port`, several parted by commas; what else is needed (and all, for `None`) comes from
                the `NATS_*` variables and context files, as the `nats` command reads them. Or all options.
            pool: whose tasks and agents.
            prefix: the first token of all subjects.
            timeout_s: how long to try to connect; 0 tries each server once.
            on_change: told of each change of the connection and of each failed attempt, with its reason.

        Raises:
            ConfigurationError: the address or the credentials cannot be used.
            UnavailableError: no server could be reached in time; the message has the last reason.
        """
        options = url if isinstance(url, BusOptions) else options_from_environment(url=url)
        bus = await _connect(options, timeout_s, on_change)
        try:
            yield cls(bus, pool=pool, prefix=prefix)
        finally:
            await bus.close()


async def _connect(options: BusOptions, timeout_s: float, on_change: Callable[[BusChange], None] | None) -> Bus:
    reason = "no answer"

    def notice(change: BusChange) -> None:
        nonlocal reason
        if change.state is BusState.FAILED:
            reason = change.reason
        if on_change is not None:
            on_change(change)

    try:
        async with asyncio.timeout(timeout_s or None):
            return await Bus.connect(options, on_change=notice, wait=timeout_s > 0)
    except TimeoutError:
        raise UnavailableError(f"NATS cannot be reached: {reason}") from None
