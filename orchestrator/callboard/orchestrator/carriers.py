"""How events get out: by NATS alone, or into a JetStream stream."""

from collections.abc import Sequence
from typing import Final

import structlog

from callboard.bus.connection import Bus
from callboard.orchestrator.telemetry import Telemetry
from callboard.schemas.errors import PayloadTooLargeError
from callboard.schemas.events import CONTENT_TYPE, EventMessage

log = structlog.get_logger("callboard.orchestrator")

_HEAD: Final = f"NATS/1.0\r\ncontent-type: {CONTENT_TYPE}\r\nNats-Msg-Id: "


def header_of(message: EventMessage) -> bytes:
    """The header block of an event; ids are made of names, so that there is nothing to escape."""
    return f"{_HEAD}{message.id}\r\n\r\n".encode()


class PlainCarrier:
    """Publishes to whoever listens. An event has arrived once the server has answered a PING that follows it."""

    def __init__(self, bus: Bus, telemetry: Telemetry) -> None:
        self._bus, self._telemetry = bus, telemetry

    async def publish(self, messages: Sequence[EventMessage]) -> None:
        """Publish these, in order.

        Raises:
            UnavailableError: NATS is away; perhaps not all have arrived.
        """
        for message in messages:
            try:
                self._bus.send_ready(message.subject, header_of(message), message.body)
            except PayloadTooLargeError as error:
                # It will never fit: what comes after it must not wait for ever.
                log.critical("event dropped", id=message.id, reason=error.message)
                self._telemetry.events_failed()
        await self._bus.flush()
