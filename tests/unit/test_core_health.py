"""Sick agents: quarantined after failures in a row, probed after a doubling back-off, released by a success."""

from __future__ import annotations

from tests.support.core_rig import Rig

from callboard.orchestrator.core.settings import CoreSettings
from callboard.orchestrator.core.why import explain_task
from callboard.schemas.tasks import TaskError
from callboard.schemas.vocabulary import AgentState, TaskState

SETTINGS = CoreSettings(quarantine_failures=3, probe_after_ms=10_000, probe_after_most_ms=15_000)
PASSING = TaskError(message="no")
FINAL = TaskError(message="no", retryable=False)


def failing(rig: Rig, count: int, error: TaskError = PASSING) -> None:
    """So many tasks that fail on the only agent, each once."""
    for _ in range(count):
        task_id = rig.submit(max_attempts=1)
        rig.accept(task_id)
        rig.fail(task_id, error)


def sick() -> Rig:
    rig = Rig(SETTINGS)
    rig.registered("a", slots=5)
    failing(rig, 3)
    return rig


def state(rig: Rig) -> AgentState:
    return rig.pool_agent("a").state


def test_after_so_many_failures_in_a_row_it_gets_nothing_new() -> None:
    rig = Rig(SETTINGS)
    rig.registered("a", slots=5)
    failing(rig, 2)
    assert state(rig) is AgentState.ONLINE
    failing(rig, 1)
    assert state(rig) is AgentState.QUARANTINED
    waiting = rig.task(rig.submit())
    assert waiting.state is TaskState.QUEUED
    assert explain_task(rig.machine.pool, waiting).excluded == {"quarantined": 1}


def test_a_success_begins_the_count_anew_and_final_failures_do_not_count() -> None:
    rig = Rig(SETTINGS)
    rig.registered("a", slots=5)
    failing(rig, 2)
    task_id = rig.submit()
    rig.accept(task_id)
    rig.complete(task_id)
    failing(rig, 2)
    failing(rig, 9, FINAL)
    assert state(rig) is AgentState.ONLINE


def test_it_is_probed_with_one_task_and_a_success_ends_it() -> None:
    rig = sick()
    ids = [rig.submit() for _ in range(3)]
    rig.keep_alive(10_000, "a")
    assert [rig.task(task_id).state for task_id in ids] == [TaskState.ASSIGNED, TaskState.QUEUED, TaskState.QUEUED]
    rig.accept(ids[0])
    rig.complete(ids[0])
    assert state(rig) is AgentState.ONLINE
    assert [rig.task(task_id).state for task_id in ids[1:]] == [TaskState.ASSIGNED, TaskState.ASSIGNED]


def test_a_failed_probe_begins_the_next_quarantine_with_a_longer_back_off_up_to_the_limit() -> None:
    rig = sick()
    for pause_ms in (10_000, 15_000, 15_000):
        task_id = rig.submit(max_attempts=1)
        rig.keep_alive(pause_ms - 100, "a")
        assert rig.task(task_id).state is TaskState.QUEUED
        rig.keep_alive(200, "a")
        assert rig.task(task_id).state is TaskState.ASSIGNED
        rig.accept(task_id)
        rig.fail(task_id, PASSING)
        assert state(rig) is AgentState.QUARANTINED


def test_resume_ends_it_and_says_so() -> None:
    rig = sick()
    assert getattr(rig.resume("a"), "changed", None) is True
    assert state(rig) is AgentState.ONLINE
    assert getattr(rig.resume("a"), "changed", None) is False
    assert rig.task(rig.submit()).state is TaskState.ASSIGNED


def test_a_new_incarnation_is_probed_at_once() -> None:
    rig = sick()
    first, second = rig.submit(), rig.submit()
    rig.registered("a", incarnation="00000000-0000-4000-8000-00000000000b", slots=5)
    assert (rig.task(first).state, rig.task(second).state) == (TaskState.ASSIGNED, TaskState.QUEUED)


def test_it_outlives_the_owner() -> None:
    rig = sick()
    rig.restart()
    assert state(rig) is AgentState.QUARANTINED
    task_id = rig.submit()
    assert rig.task(task_id).state is TaskState.QUEUED
    rig.keep_alive(10_100, "a")
    assert rig.task(task_id).state is TaskState.ASSIGNED


def test_declines_and_releases_say_nothing() -> None:
    rig = Rig(SETTINGS)
    for number in range(9):
        rig.registered("a", incarnation=f"00000000-0000-4000-8000-{number:012d}")
        declined = rig.submit()
        rig.decline(declined, retry_after_ms=1)
        rig.cancel(declined)
        rig.keep_alive(10, "a")
        released = rig.submit()
        rig.accept(released)
        rig.leave("a")
        rig.cancel(released)
    rig.registered("a", incarnation="00000000-0000-4000-8000-00000000000f")
    assert state(rig) is AgentState.ONLINE


def test_zero_means_never() -> None:
    rig = Rig(CoreSettings(quarantine_failures=0))
    rig.registered("a")
    failing(rig, 50)
    assert state(rig) is AgentState.ONLINE
