"""Beside a server: the answers by which `nats micro ls / info / stats / ping` find it (NATS ADR-32).

The `nats` command checks answers against published JSON schemas and hides, without a word, what does not fit: hence the
`type` field, a semantic version, strings only in `metadata`, integer nanoseconds. Requests do not pass through here.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
from nats.nuid import NUID

from callboard.bus.connection import Bus, BusSubscription
from callboard.bus.messages import BusMessage
from callboard.bus.serve import EndpointStats, Request, Server
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.names import is_name

_RELEASE: Final = re.compile(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?")
_NOT_IN_BUILD: Final = re.compile(r"[^0-9A-Za-z-]+")


class _Answer(msgspec.Struct, kw_only=True, tag_field="type"):
    """What every answer begins with."""

    name: str
    id: str
    version: str
    metadata: dict[str, str]


class Ping(_Answer, kw_only=True, tag="io.nats.micro.v1.ping_response"):
    """`$SRV.PING`: here I am."""


class EndpointInfo(msgspec.Struct, kw_only=True):
    """An endpoint; without `queue_group`, since it has none (protocol, section 1)."""

    name: str
    subject: str
    metadata: dict[str, str]


class Info(_Answer, kw_only=True, tag="io.nats.micro.v1.info_response"):
    """`$SRV.INFO`: what I do."""

    description: str
    endpoints: list[EndpointInfo]


class EndpointFigures(msgspec.Struct, kw_only=True):
    """The statistics of an endpoint, times in nanoseconds."""

    name: str
    subject: str
    num_requests: int
    num_errors: int
    last_error: str
    processing_time: int
    average_processing_time: int


class Stats(_Answer, kw_only=True, tag="io.nats.micro.v1.stats_response"):
    """`$SRV.STATS`: how much I have done."""

    started: datetime
    endpoints: list[EndpointFigures]


class MicroService:
    """The answers for one server.

    Args:
        name: letters, digits, `-` and `_`: `callboard`, or `callboard_<pool>`.
        version: ours; made a semantic version if it is not one.

    Raises:
        ConfigurationError: `name` is not such a name.
    """

    def __init__(
        self, bus: Bus, name: str, version: str, description: str, *, metadata: Mapping[str, str], server: Server
    ) -> None:
        if not is_name(name):
            raise ConfigurationError(f"not the name of a micro service: {name!r}", path="name")
        self.name = name
        self.id = NUID().next().decode()
        self.version = semantic_version(version)
        self._bus = bus
        self._description = description
        self._metadata = dict(metadata)
        self._server = server
        self._started = datetime.now(UTC)
        self._subscriptions: list[BusSubscription] = []
        self._stats = EndpointStats()

    async def start(self) -> None:
        """Answer from now on. May be called twice."""
        if self._subscriptions:
            return
        answers: dict[str, Callable[[], _Answer]] = {"PING": self.ping, "INFO": self.info, "STATS": self.stats}
        for verb, answer in answers.items():
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{self.name}", f"$SRV.{verb}.{self.name}.{self.id}"):
                self._subscriptions.append(await self._bus.subscribe(subject, self._receiver(answer)))
        await self._bus.flush()

    async def stop(self) -> None:
        """Answer no more. May be called twice."""
        while self._subscriptions:
            await self._subscriptions.pop().unsubscribe()

    def ping(self) -> Ping:
        """The answer to `$SRV.PING`."""
        return Ping(name=self.name, id=self.id, version=self.version, metadata=self._metadata)

    def info(self) -> Info:
        """The answer to `$SRV.INFO`."""
        return Info(
            name=self.name,
            id=self.id,
            version=self.version,
            metadata=self._metadata,
            description=self._description,
            endpoints=[
                EndpointInfo(
                    name=endpoint.name, subject=endpoint.subject, metadata={"description": endpoint.description}
                )
                for endpoint in self._server.endpoints
            ],
        )

    def stats(self) -> Stats:
        """The answer to `$SRV.STATS`."""
        return Stats(
            name=self.name,
            id=self.id,
            version=self.version,
            metadata=self._metadata,
            started=self._started,
            endpoints=[
                _figures(endpoint.name, endpoint.subject, self._server.stats[endpoint.name])
                for endpoint in self._server.endpoints
            ],
        )

    def _receiver(self, answer: Callable[[], _Answer]) -> Callable[[BusMessage], None]:
        def receive(message: BusMessage) -> None:
            if self._server.guard.may_answer(message):
                Request(self._bus, message, self._stats, None).answer(answer())

        return receive


def semantic_version(version: str) -> str:
    """`version` as SemVer: a release of three numbers, whatever follows it as build metadata."""
    found = _RELEASE.match(version)
    if found is None:
        return "0.0.0"
    release = ".".join(str(int(number or "0")) for number in found.groups())
    build = _NOT_IN_BUILD.sub("-", version[found.end() :]).strip("-")
    return f"{release}+{build}" if build else release


def _figures(name: str, subject: str, stats: EndpointStats) -> EndpointFigures:
    return EndpointFigures(
        name=name,
        subject=subject,
        num_requests=stats.num_requests,
        num_errors=stats.num_errors,
        last_error=stats.last_error,
        processing_time=stats.processing_time_ns,
        average_processing_time=stats.processing_time_ns // max(stats.num_requests, 1),
    )
