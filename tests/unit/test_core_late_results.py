"""Late success: the result of an attempt that was given up, where the pool takes it, and never twice."""

import pytest
from tests.support.core_rig import Rig, given_up

from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.settings import CoreSettings
from callboard.schemas.agents import Recorded
from callboard.schemas.tasks import Backoff, TaskError
from callboard.schemas.vocabulary import Outcome

ADOPT = CoreSettings(adopt_late_results=True)
RECORDED = Recorded(recorded=True)


@pytest.mark.parametrize("taken_over", [False, True])
def test_it_is_taken_while_the_task_waits(*, taken_over: bool) -> None:
    rig = Rig(ADOPT)
    task_id, report = given_up(rig)
    if taken_over:
        rig.restart()
    assert rig.report(report) == RECORDED
    document = rig.document(task_id)
    assert (document.state, document.result_value(), document.agent_id) == ("succeeded", "late", "a")
    assert (document.attempt, document.reason, document.error) == (1, "late result", None)
    assert rig.outcomes(task_id) == [Outcome.TIMED_OUT, Outcome.SUCCEEDED]
    assert rig.report(report) == RECORDED, "asked again, the same answer"
    assert not rig.pool_agent("a").holds


def test_by_default_it_is_stale() -> None:
    rig = Rig()
    task_id, report = given_up(rig)
    assert rig.error_code(rig.report(report)) == "stale_attempt"
    assert rig.state(task_id) == "queued"


def test_nobody_else_may_have_the_task() -> None:
    rig = Rig(ADOPT)
    task_id, report = given_up(rig)
    rig.resume("a")
    assert rig.state(task_id) == "assigned"
    assert rig.error_code(rig.report(report)) == "stale_attempt"
    rig.complete(task_id, b'"second"')
    assert rig.document(task_id).result_value() == "second"


def test_only_the_latest_attempt_is_heard() -> None:
    rig = Rig(ADOPT)
    task_id, report = given_up(rig)
    rig.resume("a")
    rig.decline(task_id)
    rig.drain("a")
    assert (rig.state(task_id), rig.task(task_id).attempt) == ("queued", 2)
    assert rig.error_code(rig.report(report)) == "stale_attempt"


def test_only_its_own_incarnation_is_heard() -> None:
    rig = Rig(ADOPT)
    task_id, report = given_up(rig)
    rig.crash("a")
    assert rig.error_code(rig.report(report)) == "stale_attempt"
    assert rig.state(task_id) == "queued"


def test_what_the_agent_itself_ended_stays_ended() -> None:
    rig = Rig(ADOPT)
    rig.registered()
    task_id = rig.submit(backoff=Backoff(initial_ms=60_000, factor=1, max_ms=60_000))
    report = rig.reported(task_id)
    rig.fail(task_id, TaskError(message="no"))
    assert rig.error_code(rig.report(report)) == "stale_attempt"
    other = rig.submit()
    report = rig.reported(other)
    rig.decline(other)
    assert rig.error_code(rig.report(report)) == "stale_attempt"


@pytest.mark.parametrize("how", ["cancel", "finish"])
def test_a_final_state_is_final(how: str) -> None:
    rig = Rig(ADOPT)
    task_id, report = given_up(rig)
    getattr(rig, how)(task_id)
    before = rig.document(task_id)
    assert rig.error_code(rig.report(report)) == "stale_attempt"
    assert rig.document(task_id) == before


def test_a_final_state_is_final_before_its_commit_too() -> None:
    rig = Rig(ADOPT)
    task_id, report = given_up(rig)
    rig.tell(ev.CancelRequested(ticket=rig.ticket(), task_id=task_id))
    assert rig.error_code(rig.report(report)) == "stale_attempt"
    assert rig.state(task_id) == "cancelled"


def test_it_shows_that_a_sick_agent_is_well() -> None:
    rig = Rig(CoreSettings(adopt_late_results=True, quarantine_failures=1))
    _, report = given_up(rig)
    assert rig.pool_agent("a").quarantines == 1
    rig.report(report)
    assert rig.pool_agent("a").quarantines == 0


def test_the_task_may_wait_in_the_database_only() -> None:
    rig = Rig(CoreSettings(adopt_late_results=True, window=1, least_lane=2, far_ms=100))
    task_id, report = given_up(rig, backoff_ms=60_000)
    rig.restart()
    assert task_id not in rig.machine.pool.tasks
    assert rig.report(report) == RECORDED
    assert rig.state(task_id) == "succeeded"


def test_an_agent_that_is_back_is_not_told_to_stop_what_may_still_succeed() -> None:
    rig = Rig(ADOPT)
    rig.registered("a")
    rig.keep_alive(16_000, "a")
    task_id = rig.submit()
    rig.accept(task_id)
    rig.drain("a")
    held, report = rig.task(task_id).held, rig.reported(task_id, result=b'"late"')
    rig.wait(60_000)
    assert (rig.state(task_id), rig.outcomes(task_id)) == ("queued", [Outcome.CRASHED])
    assert rig.beat("a", held).cancel == []
    assert rig.report(report) == RECORDED
    assert rig.state(task_id) == "succeeded"


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("taken_over", [False, True])
def test_what_waits_for_an_answer_is_stopped_when_it_is_listed(*, answered: bool, taken_over: bool) -> None:
    """Nobody answers a question of an attempt that is over: its handler would keep its slot, and its task nobody."""
    rig = Rig(ADOPT)
    rig.registered("a")
    rig.keep_alive(16_000, "a")
    task_id = rig.submit()
    rig.accept(task_id)
    held = rig.task(task_id).held
    rig.question(task_id)
    if answered:
        rig.answer(task_id)  # and its agent has not heard it
    rig.wait(60_000)
    assert rig.outcomes(task_id) == [Outcome.CRASHED]
    if taken_over:
        rig.restart()
    [told] = rig.beat("a", held).cancel
    assert (told.task_id, told.attempt) == held


def test_it_is_told_once_somebody_else_has_the_task() -> None:
    rig = Rig(ADOPT)
    rig.registered("a")
    rig.keep_alive(16_000, "a")
    task_id = rig.submit()
    rig.accept(task_id)
    held = rig.task(task_id).held
    rig.wait(60_000)
    rig.registered("b")
    assert rig.task(task_id).agent_id == "b"
    [told] = rig.beat("a", held).cancel
    assert (told.task_id, told.attempt) == held


def test_what_has_a_limit_is_stopped_when_it_is_listed() -> None:
    rig = Rig(ADOPT)
    task_id, report = given_up(rig)
    held = (task_id, report.attempt)
    [told] = rig.beat("a", held).cancel
    assert (told.task_id, told.attempt) == held
