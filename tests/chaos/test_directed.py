"""The faults that matter most, one at a time, on real processes; each run's history is checked whole."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import pytest
from tests.chaos import history as h
from tests.chaos.figures import failovers
from tests.chaos.rig import WITHIN_S, Rig, tick
from tests.chaos.under_load import Run

from callboard.bus.ask import ask
from callboard.bus.connection import Bus, BusOptions
from callboard.bus.embedded import EmbeddedNats
from callboard.schemas.agents import Complete, Recorded
from callboard.schemas.errors import StaleAttemptError, UnavailableError
from callboard.schemas.subjects import Subjects
from callboard.schemas.tasks import Requirements
from callboard.schemas.vocabulary import AgentState, DatabaseHealth, TaskPriority, TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from callboard.orchestrator.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio

FAIL_OVER_S = 5.0
BACK_S = 10.0
OUTAGE_S = float(os.environ.get("CALLBOARD_TEST_OUTAGE_S", "5"))


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
    async with Rig(tmp_path, [nats], postgres_server, database) as rig:
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
    """`make outage SECONDS=600` is this test with an outage of ten minutes."""
    run.begin_load()
    await run.more()
    running = await _begin_work(run, OUTAGE_S)
    back_ns = await _an_outage(run, run.faults.database_cut_off(), OUTAGE_S)
    history = await run.finish()
    for agents in run.rig.agents:
        assert b"lease_lost" not in agents.log.read_bytes()
    _assert_recorded_after(history, running, back_ns)


async def test_without_a_free_connection_new_work_is_refused_and_running_work_goes_on(run: Run) -> None:
    run.begin_load()
    await run.more()
    running = await _begin_work(run, 5.0)
    back_ns = await _an_outage(run, run.faults.connections_used_up(), 5.0)
    _assert_recorded_after(await run.finish(), running, back_ns)


async def _begin_work(run: Run, span_s: float) -> list[str]:
    """Tasks that run, and end one after the other in the time to come, the last before its end."""
    lengths_ms = [int(span_s * 1000 * part) for part in (0.4, 0.55, 0.7, 0.85)]
    begun = [await run.clients.submit("work", {"ms": ms}, priority=TaskPriority.CRITICAL) for ms in lengths_ms]
    async with asyncio.timeout(WITHIN_S):
        for task_id in begun:
            while (await run.rig.client.get(task_id)).state is not TaskState.RUNNING:
                await tick()
    return begun


def _assert_recorded_after(history: list[h.AnyEvent], tasks: list[str], back_ns: int) -> None:
    """Nobody's lease ran out: each has succeeded in its first attempt, during the outage, and was recorded after it."""
    ended = {event.task_id: event.at_ns for event in history if isinstance(event, h.Finished)}
    recorded = {event.task_id: event.at_ns for event in history if isinstance(event, h.Recorded)}
    for task_id in tasks:
        assert [event.attempt for event in history if isinstance(event, h.Started) and event.task_id == task_id] == [1]
        assert ended[task_id] < back_ns < recorded[task_id]
        assert (recorded[task_id] - back_ns) / 1e9 < BACK_S


async def _an_outage(run: Run, fault: AbstractAsyncContextManager[None], lasts_s: float) -> int:
    """The database is away for so long, and everybody is told so; when it was back, in ns."""
    async with fault:
        await _until_database(run, DatabaseHealth.DOWN)
        # What the clients had sent before is answered within their patience; more of them would only be a load.
        run.end_load()
        until_s = time.monotonic() + lasts_s
        answered_s: list[float] = []
        while (began_s := time.monotonic()) < until_s:
            async with asyncio.timeout(1.0):
                status = await run.rig.client.status(timeout_s=1.0)
            assert status.health.database is DatabaseHealth.DOWN
            assert status.health.degraded
            assert status.agents.by_state == {AgentState.ONLINE: len(run.rig.everyone)}
            assert await _is_refused_within_a_second(run)
            answered_s.append(time.monotonic() - began_s)
            await tick()
        back_s, back_ns = time.monotonic(), time.time_ns()
    run.begin_load()
    await run.clients.submit("work", {"ms": 1}, timeout_s=BACK_S)
    await _until_database(run, DatabaseHealth.OK)
    normal_s = time.monotonic() - back_s
    sys.stdout.write(
        f"\nan outage of {lasts_s:.0f} s: {len(answered_s)} times asked and refused,"
        f" both within {max(answered_s):.3f} s; normal {normal_s:.1f} s after the return\n"
    )
    assert normal_s < BACK_S
    return back_ns


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
    async with run.faults.nats_killed(run.rig.nats[0]):
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
    async with run.faults.agents_stopped(paused), await Bus.connect(BusOptions(servers=(run.rig.nats_url,))) as bus:
        async with asyncio.timeout(WITHIN_S):
            while (await run.rig.client.get(task_id)).state is not TaskState.QUEUED:
                await tick()
        with pytest.raises(StaleAttemptError):
            await ask(bus, Subjects().from_agent(agent_id, "complete"), late, Recorded)
    assert await run.clients.wait(task_id) == TaskState.SUCCEEDED
    assert (await run.rig.client.get(task_id)).attempt == 2
    await run.finish()
