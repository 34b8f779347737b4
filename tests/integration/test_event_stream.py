"""Events in a JetStream stream: whoever was away catches up, and nothing is missing whatever was killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.support.replica import environment, replica

from callboard.bus.client import Client
from callboard.bus.connection import Bus, BusOptions
from callboard.bus.embedded import EmbeddedNats
from callboard.bus.jetstream import ApiAnswer, StreamInfo, call, ensure_stream, stream_of
from callboard.orchestrator.carriers import StreamCarrier, stream_wanted
from callboard.orchestrator.config import EventSettings
from callboard.orchestrator.telemetry import Telemetry
from callboard.schemas.errors import ConfigurationError, OrchestratorError
from callboard.schemas.events import EventMessage, TaskChanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

WITHIN_S = 60.0
STREAM = "callboard-events"
KEPT = {"CALLBOARD_EVENTS__STREAM": STREAM, "CALLBOARD_EVENTS__MAX_MESSAGES": "100000"}
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    async with EmbeddedNats(tmp_path / "nats", token=None) as server:
        yield server


async def printed(nats: EmbeddedNats, database_url: str, *arguments: str) -> tuple[int, list[str], str]:
    """The status and the output of `callboard events`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "callboard.cli", "events", "--nats-url", nats.url, *arguments,
        env=environment(nats.url, database_url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode().splitlines(), err.decode()


async def test_who_was_away_catches_up(nats: EmbeddedNats, database_url: str) -> None:
    async with replica(nats.url, database_url, KEPT), Client.connect(nats.url) as client:
        tasks = [(await client.submit("work", n)).task_id for n in range(3)]
        await client.cancel(tasks[1], reason="enough")
        status, lines, _ = await until_printed(nats, database_url, 4, "--since", "1h", "--type", "task", "--json")
        events = [json.loads(line) for line in lines]
        assert status == 0
        assert [event["id"] for event in events] == [*(f"{task_id}-1" for task_id in tasks), f"{tasks[1]}-2"]
        _, lines, _ = await printed(nats, database_url, "--since", "1h", "--type", "callboard.task.cancelled")
        [line] = lines
        assert line.split()[1:] == ["task.cancelled", tasks[1], "type=work", "reason=enough"]
        for kind in ("pool", "pool.owned", "callboard.pool.owned"):
            _, [line], _ = await printed(nats, database_url, "--since", "1h", "--type", kind)
            assert line.split()[1:] == ["pool.owned", "default"]
        _, lines, _ = await printed(nats, database_url, "--since", "2100-01-01T00:00:00Z")
        assert lines == []
        async with await Bus.connect(BusOptions(servers=(nats.url,))) as bus:
            config = (await call(bus, f"STREAM.INFO.{STREAM}", None, StreamInfo)).config
        assert (config["max_msgs"], config["max_age"]) == (100_000, 7 * 86_400 * 10**9)


async def until_printed(
    nats: EmbeddedNats, database_url: str, count: int, *arguments: str
) -> tuple[int, list[str], str]:
    """The output once it has so many lines: what is committed may be told a moment later."""
    async with asyncio.timeout(WITHIN_S):
        while len((found := await printed(nats, database_url, *arguments))[1]) < count:
            pass
    return found


async def test_without_a_stream_the_command_says_so(nats: EmbeddedNats, database_url: str) -> None:
    status, lines, error = await printed(nats, database_url, "--since", "1h")
    assert (status, lines) == (2, [])
    assert error == "callboard: no JetStream stream keeps the events of pool default: set events.stream\n"
    status, _, error = await printed(nats, database_url, "--since", "yesterday")
    assert status == 2
    assert "--since 'yesterday': write a duration" in error


async def test_a_stream_that_cannot_be_had_ends_the_start_with_its_reason(
    nats: EmbeddedNats, database_url: str
) -> None:
    async with await Bus.connect(BusOptions(servers=(nats.url,))) as bus:
        await ensure_stream(bus, "other", {"subjects": ["callboard.v1.default.event.task.>"]})
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "callboard.cli", "serve",
            env={**environment(nats.url, database_url, KEPT), "CALLBOARD_ENABLE_DATABASE_PERSISTENCE": "false"},
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        async with asyncio.timeout(WITHIN_S):
            _, error = await process.communicate()
        assert process.returncode == 2
        assert b"the stream callboard-events: subjects overlap with an existing stream" in error


async def test_a_stream_is_changed_to_what_is_wanted_and_no_further(nats: EmbeddedNats) -> None:
    async with await Bus.connect(BusOptions(servers=(nats.url,))) as bus:
        await ensure_stream(bus, "s", {"subjects": ["a.>"], "max_msgs": 5, "description": "mine"})
        await ensure_stream(bus, "s", {"subjects": ["a.>"], "max_msgs": 7})
        config = (await call(bus, "STREAM.INFO.s", None, StreamInfo)).config
        assert (config["max_msgs"], config["description"]) == (7, "mine")
        assert await stream_of(bus, "a.*.b") == "s"
        assert await stream_of(bus, "b.>") is None
        with pytest.raises(ConfigurationError, match="the stream t: subjects overlap"):
            await ensure_stream(bus, "t", {"subjects": ["a.b"]})


async def test_what_a_stream_will_never_take_keeps_nothing_else_from_it(nats: EmbeddedNats) -> None:
    class Kept(ApiAnswer):
        state: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])

    def event(name: str, size: int) -> EventMessage:
        return EventMessage(subject=f"callboard.v1.default.event.{name}", id=name, body=b"x" * size)

    async with await Bus.connect(BusOptions(servers=(nats.url,))) as bus:
        settings = EventSettings(stream="small")
        await ensure_stream(bus, "small", stream_wanted(settings, "callboard"), made_with={"max_msg_size": 1_000})
        carrier = StreamCarrier(bus, settings, "callboard", Telemetry())
        sizes = {"one": 10, "two": 5_000, "three": bus.max_payload, "four": 10}
        await carrier.publish([event(name, size) for name, size in sizes.items()])
        info = await call(bus, "STREAM.INFO.small", None, Kept)
        assert info.state["messages"] == 2


async def test_a_stream_that_was_removed_is_made_anew(nats: EmbeddedNats, database_url: str) -> None:
    async with replica(nats.url, database_url, KEPT), Client.connect(nats.url) as client:
        await client.submit("work", 1)
        async with await Bus.connect(BusOptions(servers=(nats.url,))) as bus:
            await call(bus, f"STREAM.DELETE.{STREAM}", None, ApiAnswer)
        task_id = (await client.submit("work", 2)).task_id
        async with asyncio.timeout(WITHIN_S):
            while f"{task_id}-1" not in await ids_kept(client):
                pass


async def ids_kept(client: Client) -> list[str]:
    try:
        return [heard.event.id async for heard in client.events(start=LONG_AGO, follow=False)]
    except OrchestratorError:
        return []


async def test_nothing_is_missing_though_owners_are_killed_and_nats_restarts(
    nats: EmbeddedNats, database_url: str
) -> None:
    accepted: list[str] = []

    async def load(client: Client, numbers: range) -> None:
        for n in numbers:
            answer = await client.submit("work", n, key=f"k{n}", timeout_s=WITHIN_S)
            accepted.append(answer.task_id)
            if n % 2:
                await client.cancel(answer.task_id, timeout_s=WITHIN_S)

    async with asyncio.timeout(2 * WITHIN_S), AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client.connect(nats.url))
        for turn in range(3):
            running = await stack.enter_async_context(replica(nats.url, database_url, KEPT))
            starts = range(turn * 900, turn * 900 + 900, 30)
            loading = asyncio.gather(*(load(client, range(start, start + 30)) for start in starts))
            if turn < 2:
                while len(accepted) < turn * 900 + 300:
                    await client.status(timeout_s=WITHIN_S)
                if turn == 0:
                    await nats.kill()
                    await nats.start()
                await running.kill()
                await stack.enter_async_context(replica(nats.url, database_url, KEPT))
            await loading
        versions: dict[str, int] = {}
        for task_id in accepted:
            versions[task_id] = (await client.get(task_id)).version
        seen = await all_kept(client, sum(versions.values()))
    for task_id, version in versions.items():
        assert seen[task_id] == list(range(1, version + 1)), task_id


async def all_kept(client: Client, count: int) -> dict[str, list[int]]:
    """The versions that the stream has of each task, in its order, once there are so many events."""
    seen: dict[str, list[int]] = defaultdict(list)
    kept = 0
    async for heard in client.events(topic="task", start=LONG_AGO):
        data = msgspec.json.decode(heard.body, type=TaskChanged).data
        kept += data.version not in seen[data.task_id]
        seen[data.task_id].append(data.version)
        if kept == count:
            break
    return seen
