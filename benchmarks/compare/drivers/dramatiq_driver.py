"""dramatiq with Redis, and results in Redis, awaited by a blocking read."""

import asyncio
import os
import sys
from pathlib import Path

import dramatiq
from benchmarks.compare.drivers.seat import BlockingClient, check, obey, work
from dramatiq.brokers.redis import RedisBroker
from dramatiq.message import Message
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from redis import Redis

URL = os.environ["REDIS_URL"]
WAIT_MS = 60_000
THREADS = 8
"""Of the one worker process: its default."""
CONNECTIONS = 600
"""A blocking read holds one for each caller."""

broker = RedisBroker(client=Redis.from_url(URL, max_connections=CONNECTIONS))
broker.add_middleware(Results(backend=RedisBackend(client=Redis.from_url(URL, max_connections=CONNECTIONS))))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(text: str) -> str:
    """The task."""
    return work(text)


class Dramatiq(BlockingClient):
    """`send`, then `get_result`; it has no bulk call: tasks are sent one after the other, then read."""

    async def open(self) -> None:
        pass

    def run_blocking(self, text: str) -> str:
        return self._read(noop.send(text))

    def submit_blocking(self, text: str) -> None:
        noop.send(text)

    def run_many_blocking(self, texts: list[str]) -> int:
        for message in [noop.send(text) for text in texts]:
            check(self._read(message))
        return len(texts)

    def _read(self, message: "Message[str]") -> str:
        return str(message.get_result(block=True, timeout=WAIT_MS))


def main() -> None:
    """`client`, or `worker`."""
    if sys.argv[1] == "client":
        asyncio.run(obey(Dramatiq()))
        return
    program = Path(sys.executable).with_name("dramatiq")
    arguments = [
        "benchmarks.compare.drivers.dramatiq_driver",
        "--processes",
        "1",
        "--threads",
        str(THREADS),
        "--skip-logging",
    ]
    os.execv(program, [str(program), *arguments])  # noqa: S606 - the worker is the process that the harness watches


if __name__ == "__main__":
    main()
