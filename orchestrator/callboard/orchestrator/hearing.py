"""Hearing ourselves: the owner asks itself over NATS, so that one who is deaf on the bus does not keep its pool."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from callboard.bus.connection import Bus, BusMessage, BusSubscription
from callboard.orchestrator.trust import Trust
from callboard.schemas.errors import OrchestratorError

log = structlog.get_logger("callboard.orchestrator")

EVERY_S: Final = 0.5
TIMEOUT_S: Final = 1.0


class Hearing:
    """Keeps `trust` told of our own requests that came back.

    Args:
        on_change: Called when what is known of our hearing changed.
    """

    def __init__(self, bus: Bus, trust: Trust, on_change: Callable[[], None]) -> None:
        self._bus = bus
        self._trust = trust
        self._on_change = on_change
        self._subject = bus.new_inbox()
        self._subscription: BusSubscription | None = None
        self._asking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, and begin to ask."""
        self._subscription = await self._bus.subscribe(self._subject, self._answer)
        self._asking = asyncio.create_task(self._ask())

    async def stop(self) -> None:
        """Ask no more. May be called twice."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def _ask(self) -> None:
        while True:
            was_heard = self._trust.is_heard
            try:
                await self._bus.request(self._subject, b"", timeout_s=TIMEOUT_S)
            except OrchestratorError:
                is_heard = self._trust.is_heard
            else:
                self._trust.heard()
                is_heard = True
            if is_heard != was_heard:
                self._on_change()
            await asyncio.sleep(EVERY_S)

    def _answer(self, message: BusMessage) -> None:
        try:
            self._bus.send(message.reply, b"")
        except OrchestratorError as error:
            # None of ours, or one that ends with the connection: nobody waits for this answer.
            log.debug("not answered", subject=message.subject, why=error.message)
