"""An agent by hand: it signs in, beats, and answers offers as its test says. From the protocol page alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from tests.contract.support import Json, RefusedError, Wire, fail_after, refused, unique

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

BEAT_S: Final = 0.1
"""Far below the interval that the test orchestrators dictate (0.5 s)."""


class HandAgent:
    """One process of one agent; `another()` is the next process with the same id."""

    def __init__(self, wire: Wire, agent_id: str | None = None, **description: Any) -> None:  # noqa: ANN401 - JSON
        self.wire = wire
        self.agent_id = agent_id or unique("agent")
        self.incarnation = str(uuid.uuid4())
        self.description = description
        self.answer: Json | bytes | None = {"accepted": True}
        """What every new offer is answered with; `None` is silence, bytes go out as they are."""
        self.answer_headers: dict[str, str] | None = None
        self.running: list[Json] = []
        """What heartbeats list."""
        self.seq = 0
        self.messages: dict[str, list[Json]] = defaultdict(list)
        """All that came on `to.<agent_id>.<verb>`, repeats included."""
        self.told_to_cancel: list[Json] = []
        """What heartbeats' answers listed in `cancel`."""
        self.told_to_drain = False
        self.unanswered: set[str] = set()
        """Verbs that are heard and not answered."""
        self._offers: asyncio.Queue[Json] = asyncio.Queue()
        self._news = asyncio.Condition()
        self._known: dict[tuple[str, int], Json | bytes | None] = {}
        self._subscription: Subscription | None = None
        self._silence = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None

    def another(self) -> HandAgent:
        """The next process with this agent's id."""
        return HandAgent(self.wire, self.agent_id, **self.description)

    # -- life --------------------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        self._subscription = await self.wire.nats.subscribe(f"{self.wire.root}.to.{self.agent_id}.*", cb=self._take)
        await self.wire.nats.flush()

    async def register(self, **fields: Any) -> Json:  # noqa: ANN401 - JSON
        return await self.ask("register", **{**self.description, **fields})

    async def beat(self, **fields: Any) -> Json:  # noqa: ANN401 - JSON
        """One heartbeat."""
        self.seq += 1
        answer = await self.ask("heartbeat", **{"seq": self.seq, "running": self.running, **fields})
        async with self._news:
            self.told_to_cancel += answer["cancel"]
            self.told_to_drain = answer["drain"]
            self._news.notify_all()
        return answer

    def start_beating(self) -> None:
        self._silence.clear()
        self._beating = asyncio.create_task(self._beat_on())

    async def stop_beating(self) -> None:
        """Fall silent. Offers are still answered."""
        # Not cancelled: asyncio's `wait_for`, on which nats-py's requests rest, may swallow it (Python 3.11).
        self._silence.set()
        if self._beating is not None:
            with contextlib.suppress(RefusedError):  # the test had it replaced or stopped
                await self._beating
            self._beating = None

    async def vanish(self) -> None:
        """End without a word, as a killed process does."""
        await self.stop_beating()
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None
            await self.wire.nats.flush()

    async def leave(self) -> Json:
        await self.stop_beating()
        return await self.ask("leave")

    async def _beat_on(self) -> None:
        while not self._silence.is_set():
            await self.beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._silence.wait()

    # -- requests ----------------------------------------------------------------------------------------------------

    async def ask(self, verb: str, /, **fields: Any) -> Json:  # noqa: ANN401 - JSON
        """This agent's own request, as its present incarnation unless `fields` say otherwise."""
        return await self.wire.ask(f"agent.{self.agent_id}.{verb}", **{"incarnation": self.incarnation, **fields})

    async def refusal(self, verb: str, /, **fields: Any) -> RefusedError:  # noqa: ANN401 - JSON
        """The error that `ask` gets."""
        return await refused(self.ask(verb, **fields))

    async def complete(self, offer: Json, result: object = "done") -> Json:
        """Report a result; answered, it is listed no more."""
        body = {**held(offer), "incarnation": self.incarnation, "result": result}
        answer = await self.wire.ask_raw(f"agent.{self.agent_id}.complete", json.dumps(body).encode())
        self.unlist(offer)
        return answer

    async def fail(self, offer: Json, message: str = "it failed", **error: Any) -> Json:  # noqa: ANN401 - JSON
        """Report a failure; answered, it is listed no more."""
        answer = await self.ask("fail", **held(offer), error={"message": message, **error})
        self.unlist(offer)
        return answer

    async def progress(self, offer: Json, **fields: Any) -> None:  # noqa: ANN401 - JSON
        body = {"incarnation": self.incarnation, **held(offer), **fields}
        await self.wire.nats.publish(f"{self.wire.root}.agent.{self.agent_id}.progress", json.dumps(body).encode())

    def unlist(self, offer: Json) -> None:
        self.running = [each for each in self.running if each != held(offer)]

    # -- what comes --------------------------------------------------------------------------------------------------

    async def offered(self, task_id: str | None = None) -> Json:
        """The next offer, repeats left out; of this task, if given."""
        async with fail_after(lambda: f"{self.agent_id} was not offered {task_id or 'anything'}"):
            offer = await self._offers.get()
        assert task_id in (None, offer["task_id"]), offer
        return offer

    @property
    def has_offers(self) -> bool:
        """Whether an offer came that `offered` has not returned."""
        return not self._offers.empty()

    async def told(self, verb: str, count: int = 1) -> Json:
        """The `count`th message of this verb."""
        async with fail_after(lambda: f"{self.agent_id} got {len(self.messages[verb])} {verb}"):
            while len(self.messages[verb]) < count:
                async with self._news:
                    await self._news.wait()
        return self.messages[verb][count - 1]

    async def heard_cancel_of(self, offer: Json) -> None:
        """Wait until a heartbeat's answer lists this attempt in `cancel`."""
        async with fail_after(lambda: f"cancel heard only of {self.told_to_cancel}"):
            while held(offer) not in self.told_to_cancel:
                async with self._news:
                    await self._news.wait()

    async def _take(self, message: Msg) -> None:
        verb, body = message.subject.rpartition(".")[2], json.loads(message.data)
        answer: Json | bytes | None = {}
        if verb == "assign":
            attempt = (body["task_id"], body["attempt"])
            is_new = attempt not in self._known
            answer = self._known.setdefault(attempt, self.answer)
            if is_new and isinstance(answer, dict) and answer.get("accepted"):
                self.running.append(held(body))
            if is_new:
                self._offers.put_nowait(body)
        if answer is not None and verb not in self.unanswered:
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            await self.wire.nats.publish(message.reply, data, headers=self.answer_headers)
        async with self._news:
            self.messages[verb].append(body)
            self._news.notify_all()


def held(offer: Json) -> Json:
    """The pair that fences."""
    return {"task_id": offer["task_id"], "attempt": offer["attempt"]}


@asynccontextmanager
async def online(wire: Wire, agent_id: str | None = None, **description: Any) -> AsyncIterator[HandAgent]:  # noqa: ANN401 - JSON
    """An agent that listens, is registered and beats; it leaves in the end, whoever it has become."""
    agent = HandAgent(wire, agent_id, **description)
    await agent.listen()
    await agent.register()
    agent.start_beating()
    try:
        yield agent
    finally:
        await agent.vanish()
        try:
            await agent.ask("leave")
        except RefusedError as error:
            if error.code not in {"unknown_incarnation", "incarnation_replaced"}:  # the test had it replaced or stopped
                raise


async def run_one(wire: Wire, agent: HandAgent, **fields: Any) -> tuple[str, Json]:  # noqa: ANN401 - JSON
    """Submit a task for `agent` alone and have it accepted: its id and offer.

    It is `running`; the database, which `get` reads, may hear of that a second later (section 4).
    """
    task_id = await wire.submit(requires={"agent_id": agent.agent_id}, **fields)
    offer = await agent.offered(task_id)
    await wire.events.until(task_id, "running")
    return task_id, offer
