"""How events get out: by NATS alone, or into a JetStream stream."""

from collections.abc import Sequence
from typing import Any, Final

import structlog

from callboard.bus.connection import Bus
from callboard.bus.jetstream import NO_LIMIT, ensure_stream, publish_all
from callboard.bus.messages import NoRespondersError
from callboard.orchestrator.config import EventSettings, OrchestratorConfig
from callboard.orchestrator.publisher import Carrier
from callboard.orchestrator.telemetry import Telemetry
from callboard.schemas.errors import PayloadTooLargeError
from callboard.schemas.events import EventMessage

DUPLICATES_S: Final = 600
"""How long the stream knows an event again that is published twice."""
_NS: Final = 1_000_000_000

log = structlog.get_logger("callboard.orchestrator")


def carrier_of(config: OrchestratorConfig, bus: Bus, telemetry: Telemetry) -> Carrier:
    """The carrier that is configured."""
    if config.events.stream is None:
        return PlainCarrier(bus, telemetry)
    return StreamCarrier(bus, config.events, config.prefix, telemetry)


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
                self._bus.send_ready(message.subject, message.block, message.body)
            except PayloadTooLargeError as error:
                # It will never fit: what comes after it must not wait for ever.
                log.critical("event dropped", id=message.id, reason=error.message)
                self._telemetry.events_failed()
        await self._bus.flush()


class StreamCarrier:
    """Publishes into a JetStream stream. An event has arrived once the stream has acknowledged it."""

    def __init__(self, bus: Bus, settings: EventSettings, prefix: str, telemetry: Telemetry) -> None:
        assert settings.stream is not None  # noqa: S101 - else events are carried by NATS alone
        self._bus, self._name, self._telemetry = bus, settings.stream, telemetry
        self._wanted = stream_wanted(settings, prefix)
        self._is_there = False

    async def open(self) -> None:
        """Make the stream, or verify it.

        Raises:
            ConfigurationError: JetStream is not enabled, or does not allow such a stream.
            UnavailableError, OutcomeUnknownError: nobody can say now.
        """
        await ensure_stream(self._bus, self._name, self._wanted)
        self._is_there = True

    async def publish(self, messages: Sequence[EventMessage]) -> None:
        """Publish these, in order.

        Raises:
            OrchestratorError: perhaps not all have arrived.
        """
        if not self._is_there:
            await self.open()
        try:
            too_large = await publish_all(self._bus, messages)
        except NoRespondersError:
            # Somebody has removed the stream: it is made anew.
            self._is_there = False
            raise
        if too_large:
            # They will never fit: what comes after them must not wait for ever.
            log.critical("events dropped", stream=self._name, count=too_large, reason="larger than the stream takes")
            for _ in range(too_large):
                self._telemetry.events_failed()


def stream_wanted(settings: EventSettings, prefix: str) -> dict[str, Any]:
    """What is asked of the stream; all else is its own affair."""
    return {
        "subjects": [f"{prefix}.v1.*.event.>"],
        "max_age": settings.max_age_seconds * _NS,
        "max_bytes": settings.max_bytes or NO_LIMIT,
        "max_msgs": settings.max_messages or NO_LIMIT,
        "num_replicas": settings.replicas,
        "duplicate_window": min(settings.max_age_seconds or DUPLICATES_S, DUPLICATES_S) * _NS,
    }
