"""Results and failures: fenced by the attempt, answered alike when repeated (protocol, section 3)."""

import pytest
from tests.support.core_rig import Rig

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.schemas.agents import Recorded
from callboard.schemas.errors import StaleAttemptError
from callboard.schemas.tasks import Backoff, TaskError
from callboard.schemas.vocabulary import TaskState


def ready(slots: int = 1) -> Rig:
    rig = Rig()
    rig.registered(slots=slots)
    return rig


def running(rig: Rig, **fields: object) -> str:
    task_id = rig.submit(**fields)
    rig.accept(task_id)
    return task_id


def test_recorded_means_committed() -> None:
    rig = ready()
    task_id = running(rig)
    event = rig.reported(task_id)
    rig.tell(event)
    batch = rig.seal()
    assert rig.answers.get(int(str(event.ticket))) is None
    rig.commit(batch)
    assert rig.answers[int(str(event.ticket))] == Recorded(recorded=True)


def test_a_result_may_come_before_the_accept() -> None:
    rig = ready()
    task_id = rig.submit()
    rig.complete(task_id)
    assert rig.state(task_id) == "succeeded"


@pytest.mark.parametrize("restarted", [False, True])
def test_a_repeated_result_gets_its_first_answer(restarted: bool) -> None:
    rig = ready()
    task_id = running(rig)
    event = rig.reported(task_id)
    first = rig.report(event)
    if restarted:
        rig.restart()
    rig.take(do.LookUp)
    assert rig.report(event) == first == Recorded(recorded=True)
    assert len(rig.take(do.LookUp)) == 1, "it is not in memory any more"


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("later_attempts", [0, 1, 3])
def test_a_repeated_failure_gets_its_first_answer(restarted: bool, later_attempts: int) -> None:
    rig = ready()
    task_id = running(rig, max_attempts=10, backoff=Backoff(initial_ms=50, max_ms=50))
    event = rig.refused(task_id)
    first = rig.report(event)
    assert isinstance(first, Recorded)
    for _ in range(later_attempts):
        rig.keep_alive(1_000, "a")
        rig.fail(task_id)
    if restarted:
        rig.restart()
    assert rig.report(event) == first


def test_a_repeat_while_the_commit_is_open_waits_for_it() -> None:
    rig = ready()
    task_id = running(rig)
    event = rig.reported(task_id)
    rig.tell(event)
    batch = rig.seal()
    again = rig.reported(task_id)
    rig.tell(again)
    assert int(str(again.ticket)) not in rig.answers
    rig.commit(batch)
    rig.settle()
    assert rig.answers[int(str(again.ticket))] == Recorded(recorded=True)


def test_a_result_after_a_failure_of_the_same_attempt_is_stale() -> None:
    rig = ready()
    task_id = running(rig)
    event = rig.reported(task_id)
    rig.fail(task_id)
    answer = rig.report(event)
    assert isinstance(answer, StaleAttemptError)
    assert answer.details["state"] == TaskState.DEFERRED.value


def test_a_failure_after_the_result_is_stale() -> None:
    rig = ready()
    task_id = running(rig)
    event = rig.refused(task_id)
    rig.complete(task_id)
    assert rig.error_code(rig.report(event)) == "stale_attempt"


@pytest.mark.parametrize("how", ["crashed", "declined", "cancelled", "expired"])
def test_an_attempt_that_was_given_up_is_stale(how: str) -> None:
    rig = ready(slots=2)
    rig.wait(15_000)
    rig.beat("a")
    task_id = rig.submit(ttl_ms=5_000) if how == "expired" else rig.submit()
    event = rig.reported(task_id)
    match how:
        case "crashed":
            rig.accept(task_id)
            rig.beat("a")
            rig.beat("a")
        case "declined":
            rig.decline(task_id)
        case "cancelled":
            rig.cancel(task_id)
        case _:
            rig.wait(5_000)
    assert rig.error_code(rig.report(event)) == "stale_attempt"
    assert rig.state(task_id) != "succeeded"


def test_an_earlier_attempt_is_stale_and_the_current_one_is_not() -> None:
    rig = ready()
    task_id = rig.submit(backoff=Backoff(initial_ms=0))
    old = rig.reported(task_id, result=b'"old"')
    rig.fail(task_id)
    rig.wait(0)
    assert rig.error_code(rig.report(old)) == "stale_attempt"
    rig.complete(task_id, b'"new"')
    assert rig.document(task_id).result_value() == "new"


def test_only_the_agent_of_the_attempt_is_heard() -> None:
    rig = ready()
    task_id = running(rig)
    rig.registered("b")
    event = ev.ResultReported(
        ticket=rig.ticket(), agent_id="b", task_id=task_id, attempt=1, incarnation="b-1", result=b"1"
    )
    assert rig.error_code(rig.report(event)) == "stale_attempt"
    assert rig.task(task_id).state is TaskState.RUNNING


def test_strangers_must_register_and_replaced_ones_are_stale() -> None:
    rig = ready()
    task_id = running(rig)
    event = rig.reported(task_id)
    rig.registered(incarnation="a-2")
    assert rig.error_code(rig.report(event)) == "stale_attempt"
    stranger = ev.ResultReported(
        ticket=rig.ticket(), agent_id="x", task_id=task_id, attempt=1, incarnation="x-1", result=b"1"
    )
    assert rig.error_code(rig.report(stranger)) == "unknown_incarnation"


def test_reports_on_tasks_that_never_were_are_stale() -> None:
    rig = ready()
    event = ev.FailureReported(
        ticket=rig.ticket(),
        agent_id="a",
        task_id="task-none",
        attempt=1,
        incarnation="a-1",
        error=TaskError(message="no"),
    )
    assert rig.error_code(rig.report(event)) == "stale_attempt"


def test_an_answered_report_frees_its_slot_though_it_was_stale() -> None:
    rig = ready()
    task_id, waiting = running(rig), rig.submit()
    event = rig.reported(task_id)
    rig.cancel(task_id)
    assert rig.state(waiting) == "queued"
    rig.report(event)
    assert rig.state(waiting) == "assigned"
