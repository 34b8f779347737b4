"""Intake: messages of a JetStream stream become tasks, each once, whoever is killed between the commit and the word."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
import pytest
from nats.aio.client import Client as NatsClient
from tests.support.replica import Replica, replica
from tests.support.wire import publish_with_headers, send_raw

from callboard.bus.client import Client
from callboard.bus.embedded import EmbeddedNats
from callboard.schemas.errors import TaskNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

    from callboard.schemas.tasks import TaskDocument

pytestmark = pytest.mark.anyio

WITHIN_S = 60.0
STREAM = "jobs"
INTAKE = {"CALLBOARD_INTAKE__STREAM": STREAM, "CALLBOARD_INTAKE__SUBJECTS": "jobs.>"}
DEAD = "callboard.v1.default.intake.dead"


class Side:
    """Whoever publishes jobs, and looks at what becomes of them."""

    def __init__(self, nc: NatsClient, client: Client) -> None:
        self.nc, self.client = nc, client
        self.js: JetStreamContext = nc.jetstream()

    async def until_taken(self) -> None:
        """Until every message of the stream is acknowledged or terminated."""
        async with asyncio.timeout(WITHIN_S):
            while (await self.js.stream_info(STREAM)).state.messages:
                pass

    async def publish(self, job: object, **headers: str) -> None:
        await self.js.publish("jobs.new", json.dumps(job).encode(), headers=headers or None, timeout=WITHIN_S)


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    async with EmbeddedNats(tmp_path / "nats", token=None) as server:
        yield server


@pytest.fixture
async def side(nats: EmbeddedNats) -> AsyncIterator[Side]:
    nc = NatsClient()
    await nc.connect(nats.url)
    try:
        async with Client.connect(nats.url) as client:
            yield Side(nc, client)
    finally:
        await nc.close()


async def test_a_message_becomes_a_task_once(nats: EmbeddedNats, side: Side, database_url: str) -> None:
    async with replica(nats.url, database_url, {**INTAKE, "CALLBOARD_INTAKE__TYPE": "work"}):
        await until_made(side)
        await side.publish({"payload": 1, "key": "mine"})
        await side.publish({"payload": 1, "key": "mine"})
        await side.publish({"payload": 2}, **{"Nats-Msg-Id": "two"})
        await side.publish({"payload": 3, "type": "other", "priority": "high"})
        await side.until_taken()
        first = await side.client.get(key="mine")
        assert (first.type, payload_of(first)) == ("work", 1)
        assert payload_of(await side.client.get(key="two")) == 2
        assert (await side.client.get(key="jobs:4")).priority == "high"
        await side.client.submit("work", 2, key="two")  # the same content: the same task
        status = await side.client.status()
        assert sum(status.tasks.by_state.values()) == 3


def payload_of(task: TaskDocument) -> object:
    assert isinstance(task.payload, msgspec.Raw)
    return json.loads(bytes(task.payload))


async def until_made(side: Side) -> None:
    async with asyncio.timeout(WITHIN_S):
        while STREAM not in [info.config.name for info in await side.js.streams_info()]:
            pass


async def test_what_is_no_task_goes_to_the_dead_letters(nats: EmbeddedNats, side: Side, database_url: str) -> None:
    letters: asyncio.Queue[Msg] = asyncio.Queue()
    await side.nc.subscribe(DEAD, cb=letters.put)
    await side.nc.flush()
    async with replica(nats.url, database_url, INTAKE):
        await until_made(side)
        await side.publish({"type": "work", "payload": 1, "key": "k"})
        bad = [b"{", b"\xff", b"{}", b'{"type": "a", "no": 1}', b'{"type": "work", "payload": 2, "key": "k"}']
        for data in bad:
            await side.js.publish("jobs.new", data, headers={"Mine": "kept"})
        async with asyncio.timeout(WITHIN_S):
            found = [await letters.get() for _ in bad]
        await side.until_taken()
        assert [letter.data for letter in found] == bad
        codes = [(letter.headers or {})["Callboard-Error-Code"] for letter in found]
        assert codes == ["invalid_request"] * 4 + ["key_conflict"]
        await side.publish({"type": "work"}, **{"Nats-Msg-Id": "x" * 257})
        async with asyncio.timeout(WITHIN_S):
            letter = await letters.get()
        assert "Nats-Msg-Id" in (letter.headers or {})["Callboard-Error"]
        block = b"NATS/1.0\r\nbad name: v\r\n\r\n"
        await send_raw(nats.url, publish_with_headers(b"jobs.new", block, b"{"))
        await side.js.publish("jobs.new", large := b"{" + b"x" * (1024 * 1024 - 100))
        async with asyncio.timeout(WITHIN_S):
            odd, cut = await letters.get(), await letters.get()
        assert odd.data == b"{"
        assert large.startswith(cut.data)
        assert (cut.headers or {})["Callboard-Cut"] == str(len(large))
        await side.until_taken()
        headers = found[3].headers or {}
        assert "unknown field" in headers["Callboard-Error"]
        assert (headers["Mine"], headers["Callboard-Stream"], headers["Callboard-Sequence"]) == ("kept", STREAM, "5")
        assert headers["Callboard-Subject"] == "jobs.new"
        assert letters.empty()


async def test_what_has_no_room_comes_again(nats: EmbeddedNats, side: Side, database_url: str) -> None:
    settings = {**INTAKE, "CALLBOARD_MAX_QUEUED_TASKS": "2", "CALLBOARD_BATCH_MAX": "2"}
    async with replica(nats.url, database_url, settings):
        await until_made(side)
        for n in range(4):
            await side.publish({"type": "work", "payload": n, "key": f"k{n}"})
        taken = [await until_known(side.client, f"k{n}") for n in (0, 1)]
        assert (await side.js.stream_info(STREAM)).state.messages == 2
        for task_id in taken:
            await side.client.cancel(task_id)
        await side.until_taken()
        await until_known(side.client, "k2")
        await until_known(side.client, "k3")


async def until_known(client: Client, key: str) -> str:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                return (await client.get(key=key)).task_id
            except TaskNotFoundError:
                continue


async def test_nothing_is_lost_or_doubled_when_owners_are_killed(
    nats: EmbeddedNats, side: Side, database_url: str
) -> None:
    await side.js.add_stream(name=STREAM, subjects=["jobs.>"])
    await asyncio.gather(*(side.publish({"type": "work", "payload": n}) for n in range(3_000)))
    async with AsyncExitStack() as stack:
        for share in (0.2, 0.5):
            running = await stack.enter_async_context(replica(nats.url, database_url, INTAKE))
            await until_known_are(side, int(3_000 * share))
            await freeze_amid_work(side, running)
            await running.kill()
        await stack.enter_async_context(replica(nats.url, database_url, INTAKE))
        async with asyncio.timeout(WITHIN_S):
            while (info := await side.js.consumer_info(STREAM, "callboard")).num_pending or info.num_ack_pending:
                pass
        status = await side.client.status()
        assert sum(status.tasks.by_state.values()) == 3_000


async def freeze_amid_work(side: Side, running: Replica) -> None:
    """Stop it where it has taken messages and not yet acknowledged them, if it is met there in a few tries."""
    for _ in range(20):
        os.kill(running.pid, signal.SIGSTOP)
        if (await side.js.consumer_info(STREAM, "callboard")).num_ack_pending:
            return
        os.kill(running.pid, signal.SIGCONT)
        # It has to get on before it is looked at again.
        await side.client.status()


async def until_known_are(side: Side, count: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while sum((await side.client.status()).tasks.by_state.values()) < count:
            pass
