"""taskiq, whatever its broker: the driver modules name `broker` and call `serve`.

In its favour: results are polled for at an interval that grows with the number of waiting callers (taskiq's own is
0.2 s, which would be the idle latency), and uvloop is on both sides. It has no bulk call: tasks are kicked at once.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import uvloop
from benchmarks.compare.drivers.seat import BULK, Client, check, obey
from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, AsyncTaskiqTask
from taskiq.exceptions import ResultGetError, ResultIsReadyError

FIRST_LOOK_S = 0.001


class Taskiq(Client):
    """`kiq`, then `wait_result`."""

    def __init__(self, broker: AsyncBroker, task: AsyncTaskiqDecoratedTask[[str], str], looks: int) -> None:
        self.broker = broker
        self.task = task
        self.looks = looks
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
            pause = max(FIRST_LOOK_S, self.waiting / self.looks)
            while True:
                # A look that fails is made again: JetStream's object store lets some of them time out under load.
                with contextlib.suppress(ResultIsReadyError, ResultGetError):
                    return (await handle.wait_result(check_interval=pause)).return_value
        finally:
            self.waiting -= 1


def serve(module: str, broker: AsyncBroker, task: AsyncTaskiqDecoratedTask[[str], str], *, looks: int) -> None:
    """`client`, or `worker`: one worker process, acknowledgements after the task.

    Args:
        module: whose `broker` the worker serves.
        broker: the same.
        task: what the client kicks.
        looks: how often a second all callers together look for their results.
    """
    if sys.argv[1] == "client":
        uvloop.run(obey(Taskiq(broker, task, looks)))
        return
    program = Path(sys.executable).with_name("taskiq")
    arguments = ["worker", f"{module}:broker", "--workers", "1", "--ack-type", "when_saved", "--log-level", "WARNING"]
    os.execv(program, [str(program), *arguments])  # noqa: S606 - the worker is the process that the harness watches
