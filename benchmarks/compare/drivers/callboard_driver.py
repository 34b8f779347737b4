"""This project: `callboard.bus.client.Client`, and an agent of the Python SDK. Both on uvloop."""

import asyncio
import os
import sys
import uuid
from contextlib import AsyncExitStack

import uvloop
from benchmarks.compare.drivers.seat import BULK, RESULT, Client, obey, work

from callboard.agents import Agent, TaskContext
from callboard.bus.client import Client as CallboardClient
from callboard.bus.client_spec import make_spec
from callboard.schemas.subjects import DEFAULT_POOL

TYPE = "noop"
SLOTS = 1_000


class Callboard(Client):
    """One connection, one request to submit and one to wait."""

    def __init__(self) -> None:
        self.stack = AsyncExitStack()
        self.client: CallboardClient

    async def open(self) -> None:
        self.client = await self.stack.enter_async_context(
            CallboardClient.connect(os.environ["NATS_URL"], pool=os.environ.get("CALLBOARD_POOL", DEFAULT_POOL))
        )

    async def run(self, text: str) -> str:
        return str(await self.client.run(TYPE, text))

    async def submit(self, text: str) -> None:
        await self.client.submit(TYPE, text)

    async def run_many(self, texts: list[str]) -> int:
        chunks = [texts[at : at + BULK] for at in range(0, len(texts), BULK)]
        return sum(await asyncio.gather(*(self._run_chunk(chunk) for chunk in chunks)))

    async def _run_chunk(self, texts: list[str]) -> int:
        answers = await self.client.submit_many([make_spec(TYPE, text, {}) for text in texts])
        results = await asyncio.gather(*(self.client.result(answer.task_id) for answer in answers if answer.task_id))
        return sum(result == RESULT for result in results)

    async def close(self) -> None:
        await self.stack.aclose()


def main() -> None:
    """`client`, or `worker`."""
    # The agent has a thread with a loop of its own: the policy gives both loops.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if sys.argv[1] == "client":
        asyncio.run(obey(Callboard()))
        return
    agent = Agent(f"bench-{uuid.uuid4().hex[:8]}", slots=SLOTS)

    @agent.task(TYPE)
    async def noop(ctx: TaskContext) -> str:
        return work(ctx.payload)

    asyncio.run(agent.run(os.environ["NATS_URL"]))


if __name__ == "__main__":
    main()
