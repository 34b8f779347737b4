"""taskiq with a JetStream stream (pulled), and results in a JetStream object store."""

import os

from benchmarks.compare.drivers.seat import work
from benchmarks.compare.drivers.taskiq_base import serve
from nats.js.api import RetentionPolicy, StreamConfig
from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

URL = os.environ["NATS_URL"]

broker = PullBasedJetStreamBroker(
    servers=[URL],
    # A queue keeps what is not done; the default stream would keep everything.
    stream_config=StreamConfig(name="taskiq_jetstream", retention=RetentionPolicy.WORK_QUEUE),
    pull_consume_batch=100,
    pull_consume_timeout=5,
).with_result_backend(NATSObjectStoreResultBackend(servers=[URL]))


@broker.task(task_name="noop")
async def noop(text: str) -> str:
    """The task."""
    return work(text)


if __name__ == "__main__":
    serve("benchmarks.compare.drivers.taskiq_nats_driver", broker, noop, looks=500)
