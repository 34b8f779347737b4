"""Celery with Redis, and results in Redis."""

import asyncio
import os
import sys
from pathlib import Path

from benchmarks.compare.drivers.seat import BULK, MOST_CALLERS, RESULT, BlockingClient, obey, work
from celery import Celery
from celery.result import AsyncResult, ResultSet

URL = os.environ["REDIS_URL"]
WAIT_S = 60

app = Celery("bench", broker=URL, backend=URL)
# Acknowledged after the task, as in every other system here: what a dying worker held runs again.
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=64,
    result_expires=3600,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=MOST_CALLERS,
    redis_max_connections=4 * MOST_CALLERS,
)


@app.task(name="noop")
def noop(text: str) -> str:
    """The task."""
    return work(text)


class CeleryClient(BlockingClient):
    """`delay`, then `get`; it has no bulk call: tasks are sent one after the other, then read together."""

    async def open(self) -> None:
        pass

    def run_blocking(self, text: str) -> str:
        result: AsyncResult[str] = noop.delay(text)
        return str(result.get(timeout=WAIT_S))

    def submit_blocking(self, text: str) -> None:
        noop.delay(text)

    def run_many_blocking(self, texts: list[str]) -> int:
        done = 0
        for at in range(0, len(texts), BULK):
            results = ResultSet([noop.delay(text) for text in texts[at : at + BULK]])
            done += sum(each == RESULT for each in results.join_native(timeout=WAIT_S))
        return done


def main() -> None:
    """`client`, or `worker`: one process that runs the tasks itself."""
    if sys.argv[1] == "client":
        asyncio.run(obey(CeleryClient()))
        return
    program = Path(sys.executable).with_name("celery")
    arguments = ["-A", "benchmarks.compare.drivers.celery_driver", "worker", "--pool", "solo", "--loglevel", "WARNING"]
    arguments += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    os.execv(program, [str(program), *arguments])  # noqa: S606 - the worker is the process that the harness watches


if __name__ == "__main__":
    main()
