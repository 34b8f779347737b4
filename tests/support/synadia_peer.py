"""An agent of the Synadia Agent Protocol by hand, from its text alone: what it sends is the test's, right or wrong."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from callboard.bus.connection import Bus, BusMessage, BusOptions

if TYPE_CHECKING:
    from types import TracebackType

    from callboard.bus.connection import BusSubscription

BEAT_S: Final = 0.1
ERROR: Final = "Nats-Service-Error"

_numbers = itertools.count(1)


class Caller:
    """Whoever sent a prompt: what it sent, and the way to answer."""

    def __init__(self, peer: Peer, message: BusMessage) -> None:
        self.peer = peer
        self.data = message.data
        self.reply = message.reply

    @property
    def envelope(self) -> dict[str, Any]:
        envelope: dict[str, Any] = json.loads(self.data)
        return envelope

    def raw(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.peer.bus.send(self.reply, data, headers=headers)

    def chunk(self, kind: str, data: object) -> None:
        self.raw(json.dumps({"type": kind, "data": data}).encode())

    def ack(self) -> None:
        self.chunk("status", "ack")

    def say(self, text: str) -> None:
        self.chunk("response", text)

    def end(self) -> None:
        self.raw(b"")

    def fail(self, code: int, text: str, body: dict[str, Any] | None = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.raw(data, {ERROR: text, f"{ERROR}-Code": str(code)})
        self.end()

    async def ask(self, prompt: str, *, reply_subject: str | None = None) -> bytes:
        """A query, and its answer."""
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        inbox = reply_subject or self.peer.bus.new_inbox()
        subscription = await self.peer.bus.subscribe(inbox, lambda message: answered.set_result(message.data))
        self.chunk("query", {"id": str(uuid.uuid4()), "reply_subject": inbox, "prompt": prompt})
        try:
            return await answered
        finally:
            await subscription.unsubscribe()


Behaviour = Callable[[Caller], Awaitable[None]]


async def echo(caller: Caller) -> None:
    """Says what it was told, in two pieces."""
    caller.ack()
    prompt = caller.envelope["prompt"]
    caller.say("echo: ")
    caller.say(prompt)
    caller.end()


class Peer:
    """One instance.

    Args:
        behaviour: what it does with a prompt.
        metadata: of the service; what is `None` is left out.
        name: the instances of one agent have the same.
        subject: of its prompt endpoint.
    """

    def __init__(
        self,
        where: str | BusOptions,
        behaviour: Behaviour = echo,
        *,
        name: str | None = None,
        interval_s: float = BEAT_S,
        subject: str | None = None,
        endpoint: dict[str, Any] | None = None,
        **metadata: object,
    ) -> None:
        self.id = uuid.uuid4().hex.upper()
        self.name = name or f"peer{next(_numbers)}"
        self.subject = subject or f"agents.prompt.hand.tests.{self.name}"
        self.behaviour = behaviour
        self.interval_s = interval_s
        self.endpoint = {"max_payload": "1MB", "attachments_ok": "true", **(endpoint or {})}
        given = {"agent": "hand", "owner": "tests", "session": self.name, "protocol_version": "0.3", **metadata}
        self.metadata = {key: value for key, value in given.items() if value is not None}
        self.prompts: list[Caller] = []
        self.bus: Bus
        if isinstance(where, str):
            where = BusOptions(servers=(where,), retry_min_s=0.02, retry_max_s=0.1)
        self._options = where
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: list[BusSubscription] = []
        self._beating: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.bus = await Bus.connect(self._options)
        await self.bus.subscribe(self.subject, self._prompted)
        for subject, answer in (
            ("$SRV.INFO.agents", self.info),
            (f"$SRV.INFO.agents.{self.id}", self.info),
            (f"$SRV.PING.agents.{self.id}", self.ping),
        ):
            await self.bus.subscribe(subject, self._answering(answer))
        await self.bus.flush()
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.die()

    async def die(self) -> None:
        """Without a word. May be called twice."""
        await self.stop_beating()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.bus.close()

    async def stop_beating(self) -> None:
        """It goes on to answer."""
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating

    def info(self) -> dict[str, Any]:
        prompt = {"name": "prompt", "subject": self.subject, "queue_group": "agents", "metadata": self.endpoint}
        status = {"name": "status", "subject": f"agents.status.hand.tests.{self.name}", "queue_group": "agents"}
        return {
            **self.ping(),
            "type": "io.nats.micro.v1.info_response",
            "description": "a hand-written agent",
            "endpoints": [status, prompt],
        }

    def ping(self) -> dict[str, Any]:
        return {
            "type": "io.nats.micro.v1.ping_response",
            "name": "agents",
            "id": self.id,
            "version": "1.2.3",
            "metadata": self.metadata,
        }

    def beat(self, **fields: object) -> None:
        body = {
            "agent": "hand",
            "owner": "tests",
            "session": self.name,
            "instance_id": self.id,
            "ts": "2026-01-02T03:04:05Z",
            "interval_s": self.interval_s,
            **fields,
        }
        self.bus.send(f"agents.hb.hand.tests.{self.name}", json.dumps(body).encode())

    async def prompted(self, count: int = 1) -> Caller:
        """The `count`th prompt, once it has come."""
        async with asyncio.timeout(20):
            while len(self.prompts) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.prompts[count - 1]

    async def _beat(self) -> None:
        while True:
            with suppress(Exception):  # NATS may be away
                self.beat()
            await asyncio.sleep(self.interval_s)  # its cadence is what is tested

    def _answering(self, answer: Callable[[], dict[str, Any]]) -> Callable[[BusMessage], None]:
        return lambda message: self.bus.send(message.reply, json.dumps(answer()).encode())

    def _prompted(self, message: BusMessage) -> None:
        caller = Caller(self, message)
        self.prompts.append(caller)
        self._changed.set()
        task = asyncio.ensure_future(self.behaviour(caller))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
