"""One prompt and its answer: chunks in their order, until the terminator, an error, or silence (section 6)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from callboard.agents.errors import TaskFailed
from callboard.agents.synadia.errors import failure_of
from callboard.agents.synadia.wire import Chunk, MalformedError, read_chunk
from callboard.bus.connection import Bus, BusMessage

NO_RESPONDERS: Final = 503


class NobodyThereError(Exception):
    """Nobody listens on the prompt subject: nobody has got the prompt."""


class Stream:
    """What comes back."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[BusMessage | None] = asyncio.Queue()

    def put(self, message: BusMessage) -> None:
        """A message came."""
        self._messages.put_nowait(message)

    def wake(self) -> None:
        """Have `next` return, so that its caller looks again at how long it wants to wait."""
        self._messages.put_nowait(None)

    async def next(self, idle_s: float | None) -> Chunk | str | None:
        """The next chunk, `"end"` after the last one, or `None` when there is nothing to look at.

        Raises:
            NobodyThereError: the prompt reached nobody.
            TaskFailed: the agent said so, nothing came for `idle_s`, or what came is not of the protocol.
        """
        try:
            async with asyncio.timeout(idle_s):
                message = await self._messages.get()
        except TimeoutError:
            raise TaskFailed(f"the agent said nothing for {idle_s:g} s", type="silent") from None
        if message is None:
            return None
        if message.status == NO_RESPONDERS:
            raise NobodyThereError
        headers = message.headers or {}
        failed = failure_of(headers, message.data)
        if failed is not None:
            raise failed
        if not message.data:
            return None if headers else "end"
        try:
            return read_chunk(message.data)
        except MalformedError as error:
            raise TaskFailed(f"the agent sent {error}", type="protocol_error") from None


@asynccontextmanager
async def prompted(bus: Bus, subject: str, data: bytes) -> AsyncIterator[Stream]:
    """Send a prompt. Leaving the block is all that a caller can do to cancel it (section 6.7).

    Raises:
        OrchestratorError: it cannot be sent.
    """
    stream, inbox = Stream(), bus.new_inbox()
    subscription = await bus.subscribe(inbox, stream.put)
    try:
        bus.send(subject, data, reply=inbox)
        yield stream
    finally:
        await subscription.unsubscribe()
