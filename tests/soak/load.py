"""The load of the soak: residents who work at a constant rate, and visitors, each seen once and never again.

Tasks bring names that are seen once, too: affinity and concurrency keys, and requirements that no other task has.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from typing import TYPE_CHECKING

from callboard.agents import Agent, TaskContext
from callboard.bus.ask import ask
from callboard.bus.client import Client, SubmitOptions
from callboard.bus.connection import Bus
from callboard.bus.options import BusOptions
from callboard.schemas.agents import Register, RegisterAnswer
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.labels import LabelMatch, LabelOp
from callboard.schemas.subjects import Subjects
from callboard.schemas.vocabulary import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

RESIDENTS = 4
TASKS_A_SECOND = 40
VISITORS_A_SECOND = 100_000 / 3600
"""Agents and clients in turn: a hundred thousand an hour."""
ONE_IN = 10
"""So many of the visiting agents vanish without a goodbye."""
PATIENCE_S = 30
AT_ONCE = 200
"""Visits open at once; more of them mean that the stack does not keep up."""


class Load:
    """Runs until cancelled; any error of any of them ends it."""

    def __init__(self, nats_url: str) -> None:
        self.tasks = 0
        self.agents = 0
        self.clients = 0
        self._url = nats_url
        self._numbers = itertools.count()

    async def run(self) -> None:
        """Begin, and go on."""
        async with asyncio.TaskGroup() as group, Client.connect(self._url) as client:
            for number in range(RESIDENTS):
                agent = self._agent(f"resident-{number}", slots=8)
                await agent.start(self._url)
            group.create_task(self._pace(TASKS_A_SECOND, lambda _: self._submit(client)))
            await self._pace(VISITORS_A_SECOND, self._visit)

    async def _pace(self, a_second: float, begin: Callable[[int], Coroutine[None, None, None]]) -> None:
        """Begin one after the other at a constant rate, however long each takes."""
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(AT_ONCE)
        began_s = loop.time()

        async def one(number: int) -> None:
            try:
                await begin(number)
            finally:
                room.release()

        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                await asyncio.sleep(max(0.0, began_s + number / a_second - loop.time()))
                await room.acquire()
                group.create_task(one(number))

    async def _submit(self, client: Client) -> None:
        number = next(self._numbers)
        answer = await client.submit("work", {"n": number}, **_wanted(number))
        task = await client.wait(answer.task_id)
        assert task.state is TaskState.SUCCEEDED, task
        self.tasks += 1

    async def _visit(self, number: int) -> None:
        if number % 2:
            async with Client.connect(self._url) as client:
                await self._submit(client)
                await client.status()
            self.clients += 1
        elif number % (2 * ONE_IN):
            agent = self._agent(f"visitor-{number}", slots=1)
            await agent.start(self._url)
            await agent.drain()
            self.agents += 1
        else:
            async with await Bus.connect(BusOptions(servers=(self._url,))) as bus:
                subject = Subjects().from_agent(f"visitor-{number}", "register")
                # Of another role than any task asks for: what it is given would only come back after its lease.
                message = Register(incarnation=str(uuid.uuid4()), role="ghost", draining=True)
                await self._sign_in(bus, subject, message)
            self.agents += 1

    async def _sign_in(self, bus: Bus, subject: str, message: Register) -> None:
        """As an agent does: asked again when a commit took long; anything but that ends the run."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await ask(bus, subject, message, RegisterAnswer, timeout_s=10)
                except OrchestratorError as error:
                    if not error.retryable:
                        raise
                    await asyncio.sleep((error.retry_after_ms or 100) / 1000)
                else:
                    return

    def _agent(self, agent_id: str, *, slots: int) -> Agent:
        agent = Agent(agent_id, slots=slots, labels={"size": 1})

        async def work(ctx: TaskContext) -> object:
            return ctx.payload

        agent.task("work")(work)
        return agent


def _wanted(number: int) -> SubmitOptions:
    affinity_key = f"affinity-{number}"
    match number % 4:
        case 0:
            return SubmitOptions(affinity_key=affinity_key, concurrency_key=f"key-{number}")
        case 1:
            # Everybody is large enough, and nobody has asked for just this before: a placement class of its own.
            large = LabelMatch(key="size", op=LabelOp.AT_LEAST, value=-number)
            return SubmitOptions(affinity_key=affinity_key, labels=[large])
        case _:
            return SubmitOptions(affinity_key=affinity_key)
