"""Being there: the micro service `agents` with its endpoints, its heartbeats and its `status` (sections 3, 4 and 8)."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from callboard.agents.synadia.peers import OURS
from callboard.agents.synadia.wire import DEFAULT_INTERVAL_S, INBOX, PROTOCOL_VERSION, QUEUE_GROUP, SERVICE
from callboard.bus.connection import Bus, BusMessage, BusSubscription
from callboard.bus.micro import semantic_version
from callboard.schemas.errors import ConfigurationError, OrchestratorError

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_TYPE: Final = "io.nats.micro.v1.{}_response"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Who we are among the agents.

    Attributes:
        owner, name: tokens of our subjects.
        version: of the program, for people.
        max_payload: bytes of a prompt that we take.
        about: further metadata.

    Raises:
        ConfigurationError: `owner` or `name` is no token of a subject.
    """

    owner: str
    name: str
    version: str
    max_payload: int
    about: dict[str, str]
    interval_s: float = DEFAULT_INTERVAL_S

    def __post_init__(self) -> None:
        for what, token in (("owner", self.owner), ("name", self.name)):
            if not _TOKEN.fullmatch(token):
                raise ConfigurationError(f"not an {what} of an agent: {token!r}; use 1 to 63 letters, digits, - and _")

    def subject(self, verb: str) -> str:
        """`agents.<verb>.callboard.<owner>.<name>`."""
        return f"{SERVICE}.{verb}.{OURS}.{self.owner}.{self.name}"


class Service:
    """The service, from `start` to `stop`.

    Args:
        instance_id: new for each.
        on_prompt: gets every prompt; must not block.
    """

    def __init__(self, bus: Bus, presence: Presence, instance_id: str, on_prompt: Callable[[BusMessage], None]) -> None:
        self._bus = bus
        self._presence = presence
        self._id = instance_id
        self._on_prompt = on_prompt
        self._started = datetime.now(UTC)
        self._prompts: BusSubscription | None = None
        self._others: list[BusSubscription] = []
        self._beating: asyncio.Task[None] | None = None
        self.prompts = 0
        """How many came."""

    async def start(self) -> None:
        """Be found and prompted from now on.

        Raises:
            OrchestratorError: NATS is away.
        """
        at = self._presence
        self._prompts = await self._bus.subscribe(at.subject("prompt"), self._prompted, queue=QUEUE_GROUP)
        self._others.append(
            await self._bus.subscribe(at.subject("status"), self._answering(self.beat), queue=QUEUE_GROUP)
        )
        for verb, answer in (("PING", self.ping), ("INFO", self.info), ("STATS", self.stats)):
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{SERVICE}", f"$SRV.{verb}.{SERVICE}.{self._id}"):
                self._others.append(await self._bus.subscribe(subject, self._answering(answer)))
        await self._bus.flush()
        # Who discovers us by a heartbeat finds us registered (section 8.2).
        self._beating = asyncio.create_task(self._beat(), name="synadia-heartbeats")

    async def close_door(self) -> None:
        """Take no prompt any more. May be called twice."""
        if self._prompts is not None:
            await self._bus.drain([self._prompts])
            self._prompts = None

    async def stop(self) -> None:
        """Be there no more. May be called twice."""
        await self.close_door()
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        while self._others:
            await self._others.pop().unsubscribe()

    def beat(self) -> dict[str, Any]:
        """The heartbeat (section 8.3)."""
        return {
            "agent": OURS,
            "owner": self._presence.owner,
            "session": self._presence.name,
            "instance_id": self._id,
            "ts": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "interval_s": self._presence.interval_s,
        }

    def ping(self) -> dict[str, Any]:
        """The answer to `$SRV.PING`."""
        return self._answer("ping")

    def info(self) -> dict[str, Any]:
        """The answer to `$SRV.INFO`."""
        taken = {"max_payload": f"{self._presence.max_payload}B", "attachments_ok": "true"}
        prompt = self._endpoint("prompt", metadata=taken)
        endpoints = [prompt, self._endpoint("status", metadata={})]
        description = "A pool of agents behind one door: prompts become durable tasks"
        return {**self._answer("info"), "description": description, "endpoints": endpoints}

    def stats(self) -> dict[str, Any]:
        """The answer to `$SRV.STATS`: prompts are counted, and nothing else."""
        none = {"num_errors": 0, "last_error": "", "processing_time": 0, "average_processing_time": 0}
        endpoints = [
            {**self._endpoint("prompt"), "num_requests": self.prompts, **none},
            {**self._endpoint("status"), "num_requests": 0, **none},
        ]
        return {**self._answer("stats"), "started": self._started.isoformat(), "endpoints": endpoints}

    def _endpoint(self, verb: str, **more: object) -> dict[str, Any]:
        return {"name": verb, "subject": self._presence.subject(verb), "queue_group": QUEUE_GROUP, **more}

    def _answer(self, verb: str) -> dict[str, Any]:
        presence = self._presence
        who = {"agent": OURS, "owner": presence.owner, "session": presence.name, "protocol_version": PROTOCOL_VERSION}
        return {
            "type": _TYPE.format(verb),
            "name": SERVICE,
            "id": self._id,
            "version": semantic_version(presence.version),
            "metadata": {**presence.about, **who},
        }

    def _answering(self, answer: Callable[[], dict[str, Any]]) -> Callable[[BusMessage], None]:
        def receive(message: BusMessage) -> None:
            if message.reply.startswith(INBOX):
                _send(self._bus, message.reply, answer())

        return receive

    def _prompted(self, message: BusMessage) -> None:
        self.prompts += 1
        self._on_prompt(message)

    async def _beat(self) -> None:
        while True:
            _send(self._bus, self._presence.subject("hb"), self.beat())
            await asyncio.sleep(self._presence.interval_s)  # its cadence is what a heartbeat is


def _send(bus: Bus, subject: str, body: dict[str, Any]) -> None:
    """While NATS is away nobody hears a heartbeat, nor waits for an answer."""
    try:
        bus.send(subject, msgspec.json.encode(body))
    except OrchestratorError:
        return
