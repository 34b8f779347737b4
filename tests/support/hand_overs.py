"""Several replicas under load: who owns what, what the SDK's users see, and how long nobody answers at a hand-over."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from traceback import format_exception
from typing import TYPE_CHECKING

import msgspec

from callboard.agents import Agent, TaskContext
from callboard.bus.ask import ask
from callboard.bus.client import Client
from callboard.bus.connection import Bus, BusMessage
from callboard.bus.options import BusOptions
from callboard.orchestrator.replicas import replicas_subject
from callboard.orchestrator.spread import Standing
from callboard.schemas.base import Nothing
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.events import OwnerChanged
from callboard.schemas.status import OwnerEvent, SystemStatus
from callboard.schemas.subjects import DEFAULT_PREFIX, Subjects
from callboard.schemas.vocabulary import TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from tests.support.replica import Replica

WITHIN_S = 30.0
PACE_S = 0.005
"""Between two questions of one prober: how exactly a gap is measured, and how little the load of measuring is."""


class Owners:
    """Who owns which pool, as the owners announce it."""

    def __init__(self) -> None:
        self.latest: dict[str, OwnerEvent] = {}
        self.changes = 0
        self._at_hand: set[int] = set()
        self._changed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def heard(cls, nats_url: str) -> AsyncIterator[Owners]:
        async with await Bus.connect(BusOptions(servers=(nats_url,))) as bus:
            owners = cls()
            await bus.subscribe(Subjects("*").owner_event, owners._hear)
            await bus.subscribe(replicas_subject(DEFAULT_PREFIX), owners._hear_replica)
            await bus.flush()
            yield owners

    def _hear(self, message: BusMessage) -> None:
        event = msgspec.json.decode(message.data, type=OwnerChanged).data
        self.latest[event.pool] = event
        self.changes += 1
        self._changed.set()

    def _hear_replica(self, message: BusMessage) -> None:
        standing = msgspec.json.decode(message.data, type=Standing)
        if standing.owns or standing.would_serve:
            self._at_hand.add(int(standing.holder.split("-")[-2]))
            self._changed.set()

    async def until_at_hand(self, replica: Replica) -> None:
        """Wait until a replica could take a pool: what answers for the pools before that is another one."""
        async with asyncio.timeout(WITHIN_S):
            while replica.pid not in self._at_hand:
                self._changed.clear()
                await self._changed.wait()

    def loads(self) -> Counter[str]:
        """Pools by replica."""
        return Counter(event.replica for event in self.latest.values())

    async def until(self, so: Callable[[Counter[str]], bool], *, within_s: float = WITHIN_S) -> Counter[str]:
        """Wait until the loads are `so`."""
        try:
            async with asyncio.timeout(within_s):
                while not so(self.loads()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"the pools are spread so: {dict(self.loads())}") from None
        return self.loads()


@dataclass(frozen=True, slots=True)
class HandOver:
    """What a prober saw: the seconds from the last answer of one owner to the first of the next."""

    pool: str
    epoch: int
    gap_s: float


class Prober:
    """Asks one pool for its status without rest, one raw request at a time: no retry of the SDK blurs what it sees."""

    def __init__(self, bus: Bus, pool: str) -> None:
        self._bus = bus
        self._subject = Subjects(pool).status
        self._pool = pool
        self._last: tuple[int, float] | None = None
        self.seen: list[HandOver] = []
        self.ordinary_s = 0.0
        """The longest pause between two answers of one owner: what the machine itself holds up."""
        self.lost = 0
        """Questions that were neither answered nor told at once that nobody listens."""

    async def run(self) -> None:
        while True:
            try:
                status = await ask(self._bus, self._subject, Nothing(), SystemStatus, timeout_s=2)
            except OrchestratorError as error:
                self.lost += error.code != "unavailable"
            else:
                self._note(status.owner.epoch)
            await asyncio.sleep(PACE_S)

    def _note(self, epoch: int) -> None:
        now_s = perf_counter()
        if self._last is not None:
            pause_s = now_s - self._last[1]
            if self._last[0] != epoch:
                self.seen.append(HandOver(self._pool, epoch, pause_s))
            else:
                self.ordinary_s = max(self.ordinary_s, pause_s)
        self._last = (epoch, now_s)


class Load:
    """Clients and agents of the SDK at work in every pool. An error that reaches any of them fails the test."""

    def __init__(self) -> None:
        self.finished = 0
        self.runs: Counter[str] = Counter()
        self.longest_s = 0.0
        self.probers: list[Prober] = []
        self._progress = asyncio.Event()

    @property
    def gaps_s(self) -> list[float]:
        """The gaps of all hand-overs seen, the shortest first."""
        return sorted(seen.gap_s for prober in self.probers for seen in prober.seen)

    def slowest(self) -> list[HandOver]:
        """The hand-overs with the longest gaps."""
        seen = [seen for prober in self.probers for seen in prober.seen]
        return sorted(seen, key=lambda each: -each.gap_s)[:5]

    @classmethod
    @asynccontextmanager
    async def on(cls, nats_url: str, pools: Iterable[str]) -> AsyncIterator[Load]:
        load = cls()
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(await Bus.connect(BusOptions(servers=(nats_url,))))
            running = []
            for pool in pools:
                agent = load._agent(pool)
                await agent.start(nats_url)
                stack.push_async_callback(agent.stop)
                prober = Prober(bus, pool)
                load.probers.append(prober)
                client = Client(bus, pool=pool)
                running += [asyncio.create_task(work) for work in (prober.run(), load._work(client), load._ask(client))]
            try:
                yield load
                failed = [task.exception() for task in running if task.done()]
                assert not failed, [format_exception(error) for error in failed if error is not None]
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def until_more(self, count: int) -> None:
        """Wait until so many more tasks are done."""
        wanted = self.finished + count
        async with asyncio.timeout(WITHIN_S):
            while self.finished < wanted:
                self._progress.clear()
                await self._progress.wait()

    def _agent(self, pool: str) -> Agent:
        agent = Agent(f"worker-{pool}", slots=4, pool=pool)

        async def work(ctx: TaskContext) -> object:
            self.runs[ctx.task_id] += 1
            return ctx.payload

        agent.task("work")(work)
        return agent

    async def _work(self, client: Client) -> None:
        number = 0
        while True:
            began_s = perf_counter()
            answer = await client.submit("work", number)
            task = await client.wait(answer.task_id)
            assert (task.state, task.result_value()) == (TaskState.SUCCEEDED, number)
            self.longest_s = max(self.longest_s, perf_counter() - began_s)
            self.finished += 1
            self._progress.set()
            number += 1

    async def _ask(self, client: Client) -> None:
        while True:
            answer = await client.submit("work", None, role="nobody")
            assert (await client.get(answer.task_id)).state is TaskState.QUEUED
            assert (await client.list(limit=5)).tasks
            assert (await client.agents()).agents
            assert (await client.cancel(answer.task_id)).state is TaskState.CANCELLED
            await asyncio.sleep(PACE_S)
