"""procrastinate on Postgres. It keeps no results: what the client learns is the job's status.

It has no call that waits for a job. In its favour, one statement asks for all jobs that are waited for, every 2 ms,
instead of one call for each; uvloop is on both sides.
"""

import asyncio
import os
import sys

import psycopg
import uvloop
from benchmarks.compare.drivers.seat import BULK, RESULT, Client, obey, work
from procrastinate import App, PsycopgConnector

URL = os.environ["DATABASE_URL"]
CONNECTIONS = 16
LOOK_S = 0.002

app = App(connector=PsycopgConnector(conninfo=URL, min_size=4, max_size=CONNECTIONS))


@app.task(name="noop", queue="bench")
async def noop(text: str) -> str:
    """The task."""
    return work(text)


class Procrastinate(Client):
    """`defer_async` or `batch_defer_async`, then a look at the status."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[str]] = {}
        self.looking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await app.open_async()
        self.looking = asyncio.create_task(self._look())

    async def run(self, text: str) -> str:
        return await self._finished(await noop.defer_async(text=text))

    async def submit(self, text: str) -> None:
        await noop.defer_async(text=text)

    async def run_many(self, texts: list[str]) -> int:
        waiting: list[asyncio.Future[str]] = []
        for at in range(0, len(texts), BULK):
            jobs = await noop.batch_defer_async(*({"text": text} for text in texts[at : at + BULK]))
            waiting += [self._finished(job) for job in jobs]
        return sum(result == RESULT for result in await asyncio.gather(*waiting))

    def _finished(self, job: int) -> "asyncio.Future[str]":
        future = self.waiting[job] = asyncio.get_running_loop().create_future()
        return future

    async def _look(self) -> None:
        async with await psycopg.AsyncConnection.connect(URL, autocommit=True) as connection:
            while True:
                await asyncio.sleep(LOOK_S)
                if self.waiting:
                    rows = await connection.execute(
                        "SELECT id, status FROM procrastinate_jobs WHERE id = ANY(%s) AND status IN "
                        "('succeeded', 'failed', 'cancelled', 'aborted')",
                        [list(self.waiting)],
                    )
                    for job, status in await rows.fetchall():
                        self.waiting.pop(job).set_result(RESULT if status == "succeeded" else status)


async def install() -> None:
    """Make the tables."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def worker() -> None:
    """One process, many tasks at once."""
    async with app.open_async():
        await app.run_worker_async(queues=["bench"], concurrency=CONNECTIONS)


if __name__ == "__main__":
    uvloop.run({"client": lambda: obey(Procrastinate()), "worker": worker, "install": install}[sys.argv[1]]())
