"""taskiq, whatever its broker: the driver modules name `broker` and call `serve`.

In its favour: results are polled for at an interval that grows with the number of waiting callers (taskiq's own is
0.2 s, which would be the idle latency), and uvloop is on both sides. It has no bulk call: tasks are kicked at once.
"""

import asyncio
import os
import sys
from pathlib import Path

import uvloop
from benchmarks.compare.drivers.seat import BULK, Client, check, obey
from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, AsyncTaskiqTask

FIRST_LOOK_S = 0.001
LOOKS_A_SECOND = 5_000
"""Of all callers together."""


class Taskiq(Client):
    """`kiq`, then `wait_result`."""

    def __init__(self, broker: AsyncBroker, task: AsyncTaskiqDecoratedTask[[str], str]) -> None:
        self.broker = broker
        self.task = task
        self.waiting = 0

    async def open(self) -> None:
        await self.broker.startup()

    async def run(self, text: str) -> str:
        return await self._read(await self.task.kiq(text))

    async def submit(self, text: str) -> None:
        await self.task.kiq(text)

    async def run_many(self, texts: list[str]) -> int:
        for at in range(0, len(texts), BULK):
            handles = await asyncio.gather(*(self.task.kiq(text) for text in texts[at : at + BULK]))
            for result in await asyncio.gather(*(self._read(handle) for handle in handles)):
                check(result)
        return len(texts)

    async def _read(self, handle: AsyncTaskiqTask[str]) -> str:
        self.waiting += 1
        try:
            pause = max(FIRST_LOOK_S, self.waiting / LOOKS_A_SECOND)
            result = await handle.wait_result(check_interval=pause)
        finally:
            self.waiting -= 1
        return result.return_value


def serve(module: str, broker: AsyncBroker, task: AsyncTaskiqDecoratedTask[[str], str]) -> None:
    """`client`, or `worker`: one worker process, acknowledgements after the task."""
    if sys.argv[1] == "client":
        uvloop.run(obey(Taskiq(broker, task)))
        return
    taskiq = Path(sys.executable).with_name("taskiq")
    os.execv(  # noqa: S606 - the worker is the process that the harness watches
        taskiq, [str(taskiq), "worker", f"{module}:broker", "--workers", "1", "--ack-type", "when_saved"]
    )
