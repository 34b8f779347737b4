"""pgqueuer on Postgres. It keeps no results: what the client learns is the status, by its `CompletionWatcher`.

In its favour: the watcher looks 2 ms after a change instead of 50, clients and worker have pools, and uvloop is on both
sides.
"""

import asyncio
import os
import sys
from datetime import timedelta

import asyncpg
import uvloop
from benchmarks.compare.drivers.seat import BULK, RESULT, Client, obey, work
from pgqueuer import AsyncpgDriver, AsyncpgPoolDriver, Job, PgQueuer, Queries
from pgqueuer.core.completion import CompletionWatcher

URL = os.environ["DATABASE_URL"]
BATCH = 500
CONNECTIONS = 16
LOOK = timedelta(milliseconds=2)


class Pgqueuer(Client):
    """`enqueue`, alone or with a list, then `wait_for`."""

    queries: Queries
    watcher: CompletionWatcher

    async def open(self) -> None:
        driver = AsyncpgPoolDriver(await asyncpg.create_pool(URL, min_size=CONNECTIONS, max_size=CONNECTIONS))
        self.queries = Queries(driver)
        self.watcher = CompletionWatcher(driver, queries=self.queries, debounce=LOOK)
        await self.watcher.__aenter__()

    async def run(self, text: str) -> str:
        (job,) = await self.queries.enqueue("noop", text.encode())
        status = await self.watcher.wait_for(job)
        return RESULT if status == "successful" else status

    async def submit(self, text: str) -> None:
        await self.queries.enqueue("noop", text.encode())

    async def run_many(self, texts: list[str]) -> int:
        waiting: list[asyncio.Future[str]] = []
        for at in range(0, len(texts), BULK):
            chunk = [text.encode() for text in texts[at : at + BULK]]
            jobs = await self.queries.enqueue(["noop"] * len(chunk), chunk, [0] * len(chunk))
            waiting += [self.watcher.wait_for(job) for job in jobs]
        return sum(status == "successful" for status in await asyncio.gather(*waiting))


async def install() -> None:
    """Make the tables."""
    connection = await asyncpg.connect(URL)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


async def worker() -> None:
    """One process, many tasks at once."""
    queuer = PgQueuer.from_asyncpg_pool(await asyncpg.create_pool(URL, min_size=4, max_size=CONNECTIONS))

    @queuer.entrypoint("noop")
    async def noop(job: Job) -> None:
        work((job.payload or b"").decode())

    await queuer.run(batch_size=BATCH)


if __name__ == "__main__":
    uvloop.run({"client": lambda: obey(Pgqueuer()), "worker": worker, "install": install}[sys.argv[1]]())
