"""The faults that matter most, one at a time, on real processes; each run's history is checked whole."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import pytest
from tests.chaos import history as h
from tests.chaos.checker import check
from tests.chaos.clients import Clients
from tests.chaos.faults import Faults
from tests.chaos.figures import failovers
from tests.chaos.rig import WITHIN_S, Rig, tick

from callboard.bus.ask import ask
from callboard.bus.connection import Bus, BusOptions
from callboard.bus.embedded import EmbeddedNats
from callboard.schemas.agents import Complete, Recorded
from callboard.schemas.errors import StaleAttemptError, UnavailableError
from callboard.schemas.subjects import Subjects
from callboard.schemas.tasks import Requirements
from callboard.schemas.vocabulary import AgentState, DatabaseHealth, TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from callboard.orchestrator.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio

SEED = 20260
RATE = 30.0
FAIL_OVER_S = 5.0
BACK_S = 10.0


class Run:
    """A rig under load, whose history is checked at the end."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.faults = Faults(rig)
        self.clients = Clients(rig.client, rig.history, Random(SEED))  # noqa: S311 - a load, no secret
        self._load: asyncio.Task[None] | None = None

    def begin_load(self) -> None:
        self._load = asyncio.create_task(self.clients.keep_submitting(RATE))

    async def close(self) -> None:
        """Nobody submits any more, whatever became of the test."""
        if self._load is not None:
            self._load.cancel()
        await self.clients.abandon()

    async def more(self, count: int = 20) -> None:
        """Wait until so many more tasks have succeeded."""
        before = await self.succeeded()
        async with asyncio.timeout(WITHIN_S):
            while await self.succeeded() < before + count:
                await tick()

    async def succeeded(self) -> int:
        status = await self.rig.client.status(timeout_s=WITHIN_S)
        return status.tasks.by_state.get(TaskState.SUCCEEDED, 0)

    async def finish(self) -> list[h.AnyEvent]:
        """End the load, wait until all is done, and check; the history."""
        if self._load is not None:
            self._load.cancel()
        await self.clients.finish()
        self.rig.history.write(h.Healed())
        async with asyncio.timeout(WITHIN_S):
            while await self.rig.live_tasks():
                await tick()
        await self.rig.export()
        history = h.read(self.rig.history.path)
        assert check(history) == []
        return history


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    """For this test alone: nobody else is on its subjects, and it may be killed."""
    async with EmbeddedNats(tmp_path / "nats", token=None, jetstream=False) as server:
        yield server


@pytest.fixture
async def run(
    tmp_path: Path, nats: EmbeddedNats, postgres_server: EmbeddedPostgres, database_url: str
) -> AsyncIterator[Run]:
    database = urlsplit(database_url).path.removeprefix("/")
    async with Rig(tmp_path, nats, postgres_server, database) as rig:
        started = Run(rig)
        yield started
        await started.close()


async def test_without_a_fault_nothing_is_run_twice(run: Run) -> None:
    run.begin_load()
    await run.more(50)
    await run.finish()
    assert run.clients.errors == {}


async def test_after_kill_9_of_the_owner_another_dispatches_within_five_seconds(run: Run) -> None:
    run.begin_load()
    await run.more()
    async with run.faults.replica_killed(await run.rig.owner()):
        await run.more()
    [took_s] = failovers(await run.finish())
    assert took_s < FAIL_OVER_S
    assert run.clients.errors == {}


async def test_an_owner_that_was_stopped_changes_nothing_when_it_wakes(run: Run) -> None:
    run.begin_load()
    await run.more()
    owner = await run.rig.owner()
    async with run.faults.replica_stopped(owner):
        await run.more()
    woken_ns = time.time_ns()
    await run.more()
    assert await run.rig.owner() is not owner
    history = await run.finish()
    [took_s] = failovers(history)
    assert took_s < FAIL_OVER_S
    assert run.clients.errors == {}
    leases = [event for event in history if isinstance(event, h.LeaseRow) and event.at_ns > woken_ns]
    assert leases
    assert owner.replica not in {lease.replica for lease in leases}


async def test_a_commit_whose_answer_was_cut_off_is_neither_lost_nor_done_twice(run: Run) -> None:
    run.begin_load()
    await run.more()
    owner = await run.rig.owner()
    for _ in range(5):
        async with run.faults.cut_after_commit(owner), asyncio.timeout(WITHIN_S):
            await owner.database.cut.wait()
        await run.more(5)
    assert await run.rig.owner() is owner
    await run.finish()
    assert run.clients.errors == {}


async def test_while_the_database_is_away_running_work_goes_on_and_new_work_is_refused(run: Run) -> None:
    await run.clients.submit("work", {"ms": 1})
    running = [await run.clients.submit("work", {"ms": 2000}) for _ in range(4)]
    run.begin_load()
    await run.more()
    async with run.faults.database_cut_off():
        cut_s = time.monotonic()
        await _until_database(run, DatabaseHealth.DOWN)
        refused: list[bool] = []
        while time.monotonic() < cut_s + 5.0:
            async with asyncio.timeout(1.0):
                status = await run.rig.client.status(timeout_s=1.0)
            assert status.health.database is DatabaseHealth.DOWN
            assert status.health.degraded
            assert status.agents.by_state == {AgentState.ONLINE: len(run.rig.everyone)}
            refused.append(await _is_refused_within_a_second(run))
        assert refused
        assert all(refused)
    back_s = time.monotonic()
    await run.clients.submit("work", {"ms": 1}, timeout_s=BACK_S)
    await _until_database(run, DatabaseHealth.OK)
    assert time.monotonic() - back_s < BACK_S
    history = await run.finish()
    for agents in run.rig.agents:
        assert b"lease_lost" not in agents.log.read_bytes()
    # Nobody's lease ran out: what was running has succeeded in its first attempt.
    for task_id in running:
        assert [event.attempt for event in history if isinstance(event, h.Started) and event.task_id == task_id] == [1]


async def _is_refused_within_a_second(run: Run) -> bool:
    """Ask for one task, once."""
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await run.clients.submit("work", {"ms": 1}, timeout_s=0.9)
    return time.monotonic() - began < 1.0


async def _until_database(run: Run, wanted: DatabaseHealth) -> None:
    async with asyncio.timeout(WITHIN_S):
        while (await run.rig.client.status(timeout_s=WITHIN_S)).health.database is not wanted:
            await tick()


async def test_a_restart_of_nats_under_load_expires_nobody(run: Run) -> None:
    run.begin_load()
    await run.more()
    async with run.faults.nats_killed():
        pass
    await run.more(60)
    history = await run.finish()
    crashed = [end for event in history if isinstance(event, h.Row) for end in event.ends if end.outcome == "crashed"]
    assert crashed == []
    assert run.clients.errors == {}


async def test_a_result_of_an_agent_that_was_stopped_for_longer_than_its_lease_is_refused(run: Run) -> None:
    """The late report is sent in the stopped agent's name: whether it would send it itself is a matter of timing."""
    paused = run.rig.agents[0]
    agent_id = paused.names[0]
    task_id = await run.clients.submit("work", {"ms": 3000}, requires=Requirements(agent_id=agent_id))
    async with asyncio.timeout(WITHIN_S):
        while (task := await run.rig.client.get(task_id)).state is not TaskState.RUNNING:
            await tick()
    late = Complete(task_id=task_id, attempt=1, incarnation=str(task.incarnation), result=msgspec.Raw(b"1"))
    async with run.faults.agents_stopped(paused), await Bus.connect(BusOptions(servers=(run.rig.nats.url,))) as bus:
        async with asyncio.timeout(WITHIN_S):
            while (await run.rig.client.get(task_id)).state is not TaskState.QUEUED:
                await tick()
        with pytest.raises(StaleAttemptError):
            await ask(bus, Subjects().from_agent(agent_id, "complete"), late, Recorded)
    assert await run.clients.wait(task_id) == TaskState.SUCCEEDED
    assert (await run.rig.client.get(task_id)).attempt == 2
    await run.finish()
