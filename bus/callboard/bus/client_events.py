"""What a client hears of changes: as they come, or from a stream that keeps them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import Final

import msgspec

from callboard.bus.client_calls import Caller
from callboard.bus.jetstream import PullConsumer, sequence_of, since, stream_of
from callboard.bus.messages import BusMessage
from callboard.schemas.errors import ConfigurationError, OrchestratorError, UnavailableError
from callboard.schemas.events import CloudEvent

_AT_ONCE: Final = 256
_WAIT_S: Final = 5.0
_PAUSE_S: Final = 0.5
_HELD: Final = 10_000
"""Events that may wait for a reader; with more, it is told that it is too slow."""


class HeardEvent(msgspec.Struct, frozen=True):
    """An event: its attributes, and all of it as it was sent."""

    event: CloudEvent
    body: bytes


class EventCalls(Caller):
    """Events of one pool."""

    async def events(
        self, *, topic: str = "", start: datetime | None = None, follow: bool = True
    ) -> AsyncIterator[HeardEvent]:
        """Events, in the order of their commits for each task; some may come twice, with the same `id`.

        Args:
            topic: `task`, `task.failed`, `agent.online` and so on, or `owner`; empty: all.
            start: from then on, out of the JetStream stream that keeps them; else what comes from now on.
            follow: go on when all that is kept was told; without `start` that is the only way.

        Raises:
            ConfigurationError: with `start`: no stream keeps the events, or JetStream is not enabled.
            UnavailableError: NATS is away; or, without `start`, the reader is too slow.
        """
        # That of the owner ends there; whom the others are about comes behind.
        pattern = f"{self._subjects.root}.event.{topic if topic == 'owner' else f'{topic}.>'.lstrip('.')}"
        messages = self._heard(pattern) if start is None else self._kept(pattern, start, follow=follow)
        async for message in messages:
            with suppress(msgspec.MsgspecError):  # whatever else somebody publishes there
                yield HeardEvent(msgspec.json.decode(message.data, type=CloudEvent), message.data)

    async def _heard(self, pattern: str) -> AsyncIterator[BusMessage]:
        arrived: asyncio.Queue[BusMessage] = asyncio.Queue()
        subscription = await self._bus.subscribe(pattern, arrived.put_nowait)
        try:
            while arrived.qsize() < _HELD:
                yield await arrived.get()
            raise UnavailableError(f"{_HELD} events wait: read faster, or from a stream")
        finally:
            await subscription.unsubscribe()

    async def _kept(self, pattern: str, start: datetime, *, follow: bool) -> AsyncIterator[BusMessage]:
        consumer: PullConsumer | None = None
        after = 0
        while True:
            try:
                if consumer is None:
                    consumer = await since(self._bus, await self._stream(pattern), pattern, after or start)
                found = await consumer.take(_AT_ONCE, wait_s=_WAIT_S if follow else 0)
            except ConfigurationError:
                raise
            except OrchestratorError:
                if not follow:
                    raise
                # The server was away, or has forgotten a reader that was: go on where it was.
                consumer = None
                await asyncio.sleep(_PAUSE_S)
                continue
            for message in found:
                after = sequence_of(message)
                yield message
            if not found and not follow:
                return

    async def _stream(self, pattern: str) -> str:
        name = await stream_of(self._bus, pattern)
        if name is None:
            raise ConfigurationError(
                f"no JetStream stream keeps the events of pool {self._subjects.pool}: set events.stream", path="stream"
            )
        return name
