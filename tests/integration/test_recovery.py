"""What is accepted goes on: over kill -9 of the orchestrator, restarts of NATS and Postgres, and a fail-over."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import pytest
from tests.support.replica import WITHIN_S, replica

from callboard.agents import Agent, TaskContext
from callboard.bus.client import Client
from callboard.bus.connection import Bus, BusMessage, BusOptions
from callboard.bus.embedded import EmbeddedNats
from callboard.orchestrator.store.embedded import EmbeddedPostgres
from callboard.schemas.errors import DatabaseOperationError
from callboard.schemas.events import OwnerChanged
from callboard.schemas.subjects import Subjects
from callboard.schemas.tasks import TaskSpec
from callboard.schemas.vocabulary import DatabaseHealth, Outcome, TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

LEASE_MS = 900
"""Of an agent, by the test settings: three heartbeats."""


class Gate:
    """An agent whose runs the test sees and lets go."""

    def __init__(self) -> None:
        self.agent = Agent("gate", slots=20)
        self.runs: list[str] = []
        self.started = asyncio.Event()
        self._open: dict[str, asyncio.Event] = {}
        self.agent.task("work")(self._work)

    async def _work(self, ctx: TaskContext) -> str:
        self.runs.append(ctx.task_id)
        self.started.set()
        await self._open.setdefault(ctx.task_id, asyncio.Event()).wait()
        return f"done {ctx.payload}"

    def open(self, task_id: str) -> None:
        self._open.setdefault(task_id, asyncio.Event()).set()

    async def until_running(self, count: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while len(self.runs) < count:
                self.started.clear()
                await self.started.wait()


@asynccontextmanager
async def gate(nats_url: str) -> AsyncIterator[Gate]:
    at = Gate()
    await at.agent.start(nats_url)
    try:
        yield at
    finally:
        await at.agent.stop()


async def test_kill_9_of_the_orchestrator_loses_nothing_and_runs_nothing_twice(
    nats_server: EmbeddedNats, database_url: str
) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client.connect(nats_server.url))
        first = await stack.enter_async_context(replica(nats_server.url, database_url))
        at = await stack.enter_async_context(gate(nats_server.url))
        running = (await client.submit("work", 1)).task_id
        await at.until_running(1)
        waiting = (await client.submit("other", 2)).task_id
        await first.kill()
        at.open(running)  # it ends while there is no orchestrator: the agent keeps the result
        await stack.enter_async_context(replica(nats_server.url, database_url))
        task = await client.wait(running, timeout_s=WITHIN_S)
        assert (task.state, task.result_value(), task.attempt) == (TaskState.SUCCEEDED, "done 1", 1)
        assert at.runs == [running]
        assert (await client.get(waiting)).state is TaskState.QUEUED
        more = (await client.submit("work", 3)).task_id
        at.open(more)
        assert (await client.wait(more, timeout_s=WITHIN_S)).result_value() == "done 3"


async def test_a_task_that_was_accepted_under_wider_limits_is_still_run(
    nats_server: EmbeddedNats, database_url: str
) -> None:
    async with Client.connect(nats_server.url) as client:
        async with replica(nats_server.url, database_url) as first:
            task_id = (await client.submit("work", 1, max_attempts=1000)).task_id
            assert await first.stop() == 0
        database = await asyncpg.connect(database_url)
        spec = (await database.fetchval("SELECT spec FROM task")).replace(b"1000", b"1001")
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(spec, type=TaskSpec)
        await database.execute("UPDATE task SET spec = $1", spec)
        await database.close()
        async with replica(nats_server.url, database_url), gate(nats_server.url) as at:
            at.open(task_id)
            task = await client.wait(task_id, timeout_s=WITHIN_S)
            assert (task.state, task.max_attempts) == (TaskState.SUCCEEDED, 1001)


async def test_what_a_dead_agent_held_when_the_orchestrator_died_is_run_by_another(
    nats_server: EmbeddedNats, database_url: str
) -> None:
    async with Client.connect(nats_server.url) as client:
        async with replica(nats_server.url, database_url) as first, sleeper(nats_server.url) as lost:
            task_id = (await client.submit("work", 1)).task_id
            await until_state(client, task_id, TaskState.RUNNING)
            await first.kill()
            lost.kill()  # its lease has to run out under the next owner
        async with replica(nats_server.url, database_url), gate(nats_server.url) as at:
            at.open(task_id)
            task = await client.wait(task_id, timeout_s=WITHIN_S)
            assert (task.state, task.agent_id, task.attempt) == (TaskState.SUCCEEDED, "gate", 2)
            assert [attempt.outcome for attempt in task.attempts or ()] == [Outcome.CRASHED, Outcome.SUCCEEDED]


@asynccontextmanager
async def sleeper(nats_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """An agent process that runs any task for ever."""
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "callboard.cli", "agent", "exec", "--agent-id", "sleeper", "--nats-url", nats_url,
        "--", *command,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until_state(client: Client, task_id: str, wanted: TaskState) -> None:
    """Watch the task until it is so."""
    async with asyncio.timeout(WITHIN_S), aclosing(client.watch(task_id)) as changes:
        async for task in changes:
            if task.state is wanted:
                return


async def test_a_restart_of_nats_is_ridden_over(tmp_path: Path, database_url: str) -> None:
    async with EmbeddedNats(tmp_path / "nats", token="t") as nats:  # noqa: S106, SIM117 - one server for this test only
        async with (
            replica(nats.url, database_url) as serving,
            Client.connect(nats.url) as client,
            gate(nats.url) as at,
        ):
            task_id = (await client.submit("work", 1)).task_id
            await at.until_running(1)
            await nats.kill()
            at.open(task_id)
            await nats.start()
            task = await client.wait(task_id, timeout_s=WITHIN_S)
            assert (task.state, task.attempt) == (TaskState.SUCCEEDED, 1)
            assert at.runs == [task_id]
            status = await client.status(timeout_s=WITHIN_S)
            assert status.owner.epoch == 1 or status.owner.replica.endswith(f"-{serving.pid}")


async def test_a_restart_of_postgres_is_ridden_over(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    async with (
        EmbeddedPostgres(tmp_path / "postgres") as postgres,
        replica(nats_server.url, postgres.dsn) as serving,
        Client.connect(nats_server.url) as client,
        gate(nats_server.url) as at,
    ):
        task_id = (await client.submit("work", 1)).task_id
        await at.until_running(1)
        await postgres.kill()
        assert await until_database(client, DatabaseHealth.DOWN) == DatabaseHealth.DOWN
        at.open(task_id)
        await until_uptime(client, (await client.status()).uptime_ms + 3 * LEASE_MS)
        await postgres.start()
        task = await client.wait(task_id, timeout_s=WITHIN_S)
        assert (task.state, task.attempt) == (TaskState.SUCCEEDED, 1)
        assert at.runs == [task_id]
        assert await until_database(client, DatabaseHealth.OK) == DatabaseHealth.OK
        assert serving.process.returncode is None


async def test_a_replica_can_be_stopped_while_its_database_is_away(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    async with (
        EmbeddedPostgres(tmp_path / "postgres") as postgres,
        replica(nats_server.url, postgres.dsn) as serving,
        Client.connect(nats_server.url) as client,
    ):
        await postgres.kill()
        with pytest.raises(DatabaseOperationError):
            await client.submit("work", 1, timeout_s=1)
        assert await serving.stop() == 0


async def until_uptime(client: Client, uptime_ms: int) -> None:
    """Ask `status` until so much time has passed for the orchestrator; the requests themselves are the pace."""
    async with asyncio.timeout(WITHIN_S):
        while (await client.status()).uptime_ms < uptime_ms:
            pass


async def until_database(client: Client, wanted: DatabaseHealth) -> DatabaseHealth:
    """Ask `status`, which waits for nothing, until it says so; the requests themselves are the pace."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            health = (await client.status()).health.database
            if health is wanted:
                return health


async def test_another_replica_takes_over_within_five_seconds_of_a_crash(
    nats_server: EmbeddedNats, database_url: str
) -> None:
    async with (
        replica(nats_server.url, database_url) as first,
        replica(nats_server.url, database_url),
        Client.connect(nats_server.url) as client,
        await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus,
        gate(nats_server.url) as at,
    ):
        before = (await client.status()).owner
        assert before.replica.endswith(f"-{first.pid}")
        task_id = (await client.submit("work", 1)).task_id
        await at.until_running(1)
        announced: asyncio.Queue[BusMessage] = asyncio.Queue()
        await bus.subscribe(Subjects().owner_event, announced.put_nowait)
        await bus.flush()
        await first.kill()
        async with asyncio.timeout(5):
            after = msgspec.json.decode((await announced.get()).data, type=OwnerChanged).data
        assert after.epoch > before.epoch
        assert (await client.status(timeout_s=WITHIN_S)).owner.epoch == after.epoch
        at.open(task_id)
        assert (await client.wait(task_id, timeout_s=WITHIN_S)).state is TaskState.SUCCEEDED
        assert at.runs == [task_id]


async def test_a_stopped_replica_hands_over_and_exits_cleanly(nats_server: EmbeddedNats, database_url: str) -> None:
    async with (
        replica(nats_server.url, database_url) as first,
        replica(nats_server.url, database_url),
        Client.connect(nats_server.url) as client,
    ):
        task_id = (await client.submit("work", 1)).task_id
        assert await first.stop() == 0
        assert (await client.get(task_id)).state is TaskState.QUEUED


async def test_a_question_and_its_answer_outlive_the_orchestrator(nats_server: EmbeddedNats, database_url: str) -> None:
    agent = Agent("asker", slots=1)
    answers: list[object] = []

    @agent.task("choose")
    async def choose(ctx: TaskContext) -> object:
        answers.append(await ctx.ask("a or b?", ["a", "b"]))
        return answers

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client.connect(nats_server.url))
        first = await stack.enter_async_context(replica(nats_server.url, database_url))
        await agent.start(nats_server.url)
        stack.push_async_callback(agent.stop)
        task_id = (await client.submit("choose")).task_id
        await until_state(client, task_id, TaskState.WAITING_INPUT)
        await first.kill()
        second = await stack.enter_async_context(replica(nats_server.url, database_url))
        question = (await client.get(task_id)).question
        assert question is not None
        assert (question.query, question.prompt) == (1, "a or b?")
        change = await client.answer(task_id, "b")
        assert (change.state, change.changed) == (TaskState.RUNNING, True)
        await second.kill()  # whether or not the answer was sent
        await stack.enter_async_context(replica(nats_server.url, database_url))
        task = await client.wait(task_id, timeout_s=WITHIN_S)
        assert (task.state, task.result_value(), task.attempt) == (TaskState.SUCCEEDED, ["b"], 1)
