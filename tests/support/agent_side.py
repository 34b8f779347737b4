"""The orchestrator's end of an agent's wire, in plain messages: it records what the agent asks and answers as told."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Self

from callboard.bus.connection import Bus, BusMessage, BusOptions
from callboard.schemas.codec import encode
from callboard.schemas.errors import ErrorAnswer, OrchestratorError, OutcomeUnknownError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

Answer = dict[str, Any] | OrchestratorError | None
WITHIN_S = 20.0


def task_id(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012d}"


class AgentSide:
    """Answers one agent of the pool `default`.

    Attributes:
        requests: what came, by verb.
        answers: what is answered, by verb; a function of the request, `None` for silence.
    """

    def __init__(self, url: str, agent_id: str, *, interval_ms: int = 200) -> None:
        self.agent_id = agent_id
        self.epoch = 1
        self.interval_ms = interval_ms
        self.requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.answers: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "register": lambda _: self.welcome(),
            "heartbeat": lambda _: self.pulse(),
            "complete": lambda _: {"recorded": True},
            "fail": lambda _: {"recorded": True, "state": "queued"},
            "leave": lambda _: {},
        }
        self._options = BusOptions(servers=(url,), retry_min_s=0.02, retry_max_s=0.1)
        self._changed = asyncio.Event()
        self._numbers = itertools.count(1)
        self.bus: Bus

    async def __aenter__(self) -> Self:
        self.bus = await Bus.connect(self._options)
        await self.bus.subscribe(f"callboard.v1.default.agent.{self.agent_id}.*", self._received)
        await self.bus.flush()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.bus.close()

    def welcome(self, **fields: object) -> dict[str, Any]:
        return {
            "agent_id": self.agent_id,
            "pool": "default",
            **self.pulse(),
            "server_time": "2026-01-02T03:04:05Z",
            **fields,
        }

    def pulse(self, **fields: object) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "heartbeat_interval_ms": self.interval_ms,
            "lease_ms": 3 * self.interval_ms,
            "cancel": [],
            "drain": False,
            "database": "ok",
            **fields,
        }

    def _received(self, message: BusMessage) -> None:
        verb = message.subject.rpartition(".")[2]
        request = json.loads(message.data)
        self.requests[verb].append(request)
        self._changed.set()
        if message.reply:
            answer = self.answers[verb](request)
            if isinstance(answer, OrchestratorError):
                headers = {"Nats-Service-Error": answer.message, "Nats-Service-Error-Code": str(answer.number)}
                self.bus.send(message.reply, encode(ErrorAnswer(error=answer.body())), headers=headers)
            elif answer is not None:
                self.bus.send(message.reply, json.dumps(answer).encode())

    async def seen(self, verb: str, count: int = 1) -> dict[str, Any]:
        """The `count`-th request of this verb, once it has come."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.requests[verb]) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.requests[verb][count - 1]

    async def more(self, verb: str, count: int = 1) -> dict[str, Any]:
        """The `count`-th from now."""
        return await self.seen(verb, len(self.requests[verb]) + count)

    async def tell(self, verb: str, **fields: object) -> dict[str, Any]:
        """Ask the agent, again and again while nobody listens or answers; its answer."""
        data = json.dumps({"epoch": self.epoch, **fields}).encode()
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    subject = f"callboard.v1.default.to.{self.agent_id}.{verb}"
                    answer = await self.bus.request(subject, data, timeout_s=2)
                except (UnavailableError, OutcomeUnknownError):
                    continue
                body: dict[str, Any] = json.loads(answer.data)
                return body

    async def offer(self, type_: str = "work", payload: object = None, **fields: object) -> tuple[str, dict[str, Any]]:
        """Offer a new task; its id and the answer."""
        which = task_id(next(self._numbers))
        return which, await self.offer_again(which, type_, payload, **fields)

    async def offer_again(
        self, which: str, type_: str = "work", payload: object = None, **fields: object
    ) -> dict[str, Any]:
        task = {"task_id": which, "attempt": 1, "type": type_, "payload": payload, "priority": "normal", "metadata": {}}
        return await self.tell("assign", **{**task, **fields})

    async def accepted(self, type_: str = "work", payload: object = None, **fields: object) -> str:
        which, answer = await self.offer(type_, payload, **fields)
        assert answer == {"accepted": True}
        return which
