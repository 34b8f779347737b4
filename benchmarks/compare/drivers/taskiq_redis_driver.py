"""taskiq with Redis streams, and results in Redis."""

import os

from benchmarks.compare.drivers.seat import work
from benchmarks.compare.drivers.taskiq_base import serve
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

URL = os.environ["REDIS_URL"]

broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=3600))


@broker.task(task_name="noop")
async def noop(text: str) -> str:
    """The task."""
    return work(text)


if __name__ == "__main__":
    serve("benchmarks.compare.drivers.taskiq_redis_driver", broker, noop, looks=5_000)
