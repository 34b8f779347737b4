"""Pausing a pool or a type: nothing new is assigned, what runs goes on, and it outlives the owner."""

from __future__ import annotations

from tests.support.core_rig import Rig

from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.why import explain_task
from callboard.schemas.pools import PoolChange, PoolState
from callboard.schemas.vocabulary import TaskState

QUEUED, ASSIGNED = TaskState.QUEUED, TaskState.ASSIGNED


def pause(rig: Rig, task_type: str | None = None, *, paused: bool = True) -> PoolChange:
    ticket = rig.ticket()
    answer = rig.ask(ev.PoolPauseRequested(ticket=ticket, type=task_type, paused=paused), ticket)
    assert isinstance(answer, PoolChange)
    return answer


def resume(rig: Rig, task_type: str | None = None) -> PoolChange:
    return pause(rig, task_type, paused=False)


def test_a_paused_pool_assigns_nothing_and_goes_on_in_order_when_it_is_resumed() -> None:
    rig = Rig()
    rig.registered("a", slots=1)
    running = rig.submit()
    rig.accept(running)
    pause(rig)
    first, second = rig.submit(), rig.submit()
    rig.complete(running)
    assert [rig.task(task_id).state for task_id in (first, second)] == [QUEUED, QUEUED]
    resume(rig)
    assert [rig.task(task_id).state for task_id in (first, second)] == [ASSIGNED, QUEUED]


def test_a_paused_type_keeps_no_other_waiting() -> None:
    rig = Rig()
    rig.registered("a", slots=9)
    pause(rig, "slow")
    slow, fast = rig.submit(type="slow"), rig.submit(type="fast")
    assert (rig.task(slow).state, rig.task(fast).state) == (QUEUED, ASSIGNED)
    resume(rig, "slow")
    assert rig.task(slow).state is ASSIGNED


def test_the_pauses_of_the_pool_and_of_a_type_are_apart() -> None:
    rig = Rig()
    rig.registered("a", slots=9)
    pause(rig)
    pause(rig, "slow")
    slow, fast = rig.submit(type="slow"), rig.submit(type="fast")
    resume(rig)
    assert (rig.task(slow).state, rig.task(fast).state) == (QUEUED, ASSIGNED)


def test_doing_it_again_changes_nothing_and_writes_nothing() -> None:
    rig = Rig()
    assert pause(rig) == PoolChange(pool="default", state=PoolState.PAUSED, changed=True)
    assert rig.last_changes().pauses == ("",)
    batches = len(rig.batches)
    assert pause(rig) == PoolChange(pool="default", state=PoolState.PAUSED, changed=False)
    assert not any(batch.changes for batch in rig.batches[batches:])
    assert resume(rig, "t") == PoolChange(pool="default", state=PoolState.ACTIVE, changed=False, type="t")
    assert resume(rig) == PoolChange(pool="default", state=PoolState.ACTIVE, changed=True)
    assert rig.last_changes().resumes == ("",)


def test_a_pause_outlives_the_owner_and_so_does_its_end() -> None:
    rig = Rig()
    pause(rig, "slow")
    pause(rig)
    resume(rig)
    rig.restart()
    rig.registered("a", slots=9)
    slow, fast = rig.submit(type="slow"), rig.submit(type="fast")
    assert (rig.task(slow).state, rig.task(fast).state) == (QUEUED, ASSIGNED)


def test_why_says_that_it_is_paused_and_what_ends_it() -> None:
    rig = Rig()
    rig.registered("a")
    pause(rig, "slow")
    task = rig.task(rig.submit(type="slow"))
    seen = explain_task(rig.machine.pool, task)
    assert (seen.excluded, seen.candidates, seen.unblocked_by) == ({"paused": 1}, 1, ["type slow is resumed"])
    pause(rig)
    assert explain_task(rig.machine.pool, task).unblocked_by == ["the pool is resumed"]
