"""Questions of agents: a task waits for input, and goes on when it is answered (protocol, sections 3 and 4)."""

from typing import Any

import pytest
from tests.support.core_rig import Rig

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.timers import Clock
from callboard.orchestrator.core.why import explain_task
from callboard.schemas.agents import QueryRecorded, ReportQuery
from callboard.schemas.tasks import Question, TaskChange
from callboard.schemas.times import to_instant
from callboard.schemas.vocabulary import Outcome, TaskState

LEASE_MS = 15_000


def running(rig: Rig, agent_id: str = "a", **fields: Any) -> str:  # noqa: ANN401 - the fields of a specification
    rig.registered(agent_id)
    rig.keep_alive(LEASE_MS + 1_000, agent_id)  # no limit runs out in the first lease of an owner
    task_id = rig.submit(**fields)
    rig.accept(task_id)
    return task_id


def asking(rig: Rig, **fields: Any) -> str:  # noqa: ANN401 - the fields of a specification
    task_id = running(rig, **fields)
    assert rig.question(task_id) == QueryRecorded(recorded=True)
    return task_id


def changed(rig: Rig, task_id: str, *, to: str = "running", anew: bool = True) -> TaskChange:
    assert rig.state(task_id) == to
    return TaskChange(task_id=task_id, state=TaskState(to), changed=anew)


class TestAsking:
    def test_a_task_that_asks_waits_and_shows_what_for(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        document = rig.document(task_id)
        assert (document.state, document.reason, document.agent_id) == (TaskState.WAITING_INPUT, "really?", "a")
        assert document.question == Question(query=1, prompt="really?", asked_at=to_instant(rig.now_ms))
        assert rig.pool_agent("a").holds == {(task_id, 1): True}, "the slot stays taken"

    def test_why_says_what_it_waits_for(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        seen = explain_task(rig.machine.pool, rig.task(task_id))
        assert (seen.state, seen.unblocked_by) == (TaskState.WAITING_INPUT, ["question 1 is answered"])
        rig.answer(task_id)
        assert explain_task(rig.machine.pool, rig.task(task_id)).unblocked_by is None

    def test_an_accept_that_came_late_or_never_changes_nothing(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = rig.submit()
        rig.question(task_id)
        assert rig.state(task_id) == "waiting_input"
        rig.accept(task_id)
        assert rig.state(task_id) == "waiting_input"
        assert not rig.machine.pool.timers.is_set(Clock.OFFER, task_id)

    def test_it_waits_for_nobody_else_meanwhile(self) -> None:
        rig = Rig()
        task_id = asking(rig, concurrency_key="k")
        other = rig.submit(concurrency_key="k")
        rig.registered("b")
        assert rig.state(other) == "queued", "the key stays taken"
        rig.answer(task_id)
        rig.complete(task_id)
        assert rig.state(other) == "assigned"

    def test_a_repeat_is_answered_the_same(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        version = rig.task(task_id).version
        assert rig.question(task_id) == QueryRecorded(recorded=True)
        assert rig.task(task_id).version == version

    def test_the_next_question_takes_the_place_of_one_that_is_open(self) -> None:
        rig = Rig()
        task_id = asking(rig, run_timeout_ms=5_000)
        rig.keep_alive(10_000, "a")
        rig.question(task_id, 2, "or rather?")
        found = rig.document(task_id).question
        assert found is not None
        assert (found.query, found.prompt) == (2, "or rather?")
        assert rig.answer(task_id, query=1) == changed(rig, task_id, to="waiting_input", anew=False)
        rig.answer(task_id, query=2)
        rig.keep_alive(4_900, "a")
        assert rig.state(task_id) == "running", "all of it was waiting"

    def test_a_repeat_after_the_answer_asks_nothing_again(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.answer(task_id)
        assert rig.question(task_id) == QueryRecorded(recorded=True)
        assert rig.state(task_id) == "running"

    def test_only_the_current_attempt_may_ask(self) -> None:
        rig = Rig()
        task_id = running(rig)
        assert rig.error_code(rig.question(task_id, attempt=2)) == "stale_attempt"
        message = ReportQuery(task_id=task_id, attempt=1, incarnation="a-2", query=1, prompt="?")
        ticket = rig.ticket()
        event = ev.QuestionAsked(ticket=ticket, agent_id="a", message=message)
        assert rig.error_code(rig.ask(event, ticket)) == "unknown_incarnation"
        rig.crash("a")
        ticket = rig.ticket()
        message = ReportQuery(task_id=task_id, attempt=1, incarnation="a-1", query=1, prompt="?")
        event = ev.QuestionAsked(ticket=ticket, agent_id="a", message=message)
        assert rig.error_code(rig.ask(event, ticket)) == "stale_attempt"


class TestAnswering:
    def test_an_answer_is_sent_after_the_commit_and_the_task_runs(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.take(do.SendAnswer)
        assert rig.answer(task_id, attempt=1, query=1) == changed(rig, task_id)
        answer = do.SendAnswer(agent_id="a", task_id=task_id, attempt=1, query=1, answer=b'"yes"')
        assert rig.take(do.SendAnswer) == [answer]
        assert rig.document(task_id).question is None
        assert rig.document(task_id).reason is None

    def test_it_is_repeated_until_it_is_acknowledged(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.answer(task_id)
        rig.take(do.SendAnswer)
        rig.keep_alive(10_000, "a")
        assert len(rig.take(do.SendAnswer)) == 3, "after 1, 5 and 9 s"
        rig.acknowledge(task_id)
        rig.keep_alive(10_000, "a")
        assert rig.take(do.SendAnswer) == []

    def test_the_first_answer_counts(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.answer(task_id, b"1", query=1)
        assert rig.answer(task_id, b"2", query=1) == changed(rig, task_id, anew=False)
        [sent] = {effect.answer for effect in rig.take(do.SendAnswer)}
        assert sent == b"1"

    def test_an_answer_to_an_earlier_question_is_none_to_the_next(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.answer(task_id, query=1)
        rig.question(task_id, 2)
        assert rig.answer(task_id, query=1) == changed(rig, task_id, to="waiting_input", anew=False)
        refused = rig.answer(task_id, query=3)
        assert rig.error_code(refused) == "invalid_transition"
        assert str(refused) == f"task {task_id} asks question 2, not 3"
        assert rig.answer(task_id, query=2) == changed(rig, task_id)

    def test_who_asks_again_has_the_answer_to_the_question_before(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.answer(task_id)
        rig.question(task_id, 2)
        rig.take(do.SendAnswer)
        rig.keep_alive(10_000, "a")
        assert rig.take(do.SendAnswer) == []

    @pytest.mark.parametrize("state", ["queued", "deferred", "assigned", "running", "succeeded"])
    def test_what_asks_nothing_cannot_be_answered(self, state: str) -> None:
        rig = Rig()
        if state == "queued":
            task_id = rig.submit()
        elif state == "deferred":
            task_id = rig.submit(delay_ms=60_000)
        else:
            rig.registered()
            task_id = rig.submit()
        if state in {"running", "succeeded"}:
            rig.accept(task_id)
            rig.wait(1_000)  # written with the next flush
        if state == "succeeded":
            rig.complete(task_id)
        assert rig.state(task_id) == state
        refused = rig.answer(task_id)
        assert rig.error_code(refused) == "invalid_transition"
        what = "has ended" if state == "succeeded" else "is answered once it is waiting_input"
        assert str(refused) == f"task {task_id} is {state} and asks nothing: it {what}"

    def test_there_must_be_such_a_task_and_it_must_be_at_that_attempt(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        assert rig.error_code(rig.answer("00000000-0000-7000-8000-999999999999")) == "task_not_found"
        assert rig.error_code(rig.answer(task_id, attempt=2, query=1)) == "stale_attempt"
        rig.crash("a")
        assert rig.error_code(rig.answer(task_id, attempt=1, query=1)) == "stale_attempt"

    def test_a_late_acknowledgement_is_of_no_concern(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.answer(task_id)
        rig.acknowledge(task_id, query=7)
        assert rig.machine.pool.timers.is_set(Clock.ANSWER, task_id)
        rig.tell(ev.AnswerDelivered(agent_id="b", held=(task_id, 1), query=1))
        assert rig.machine.pool.timers.is_set(Clock.ANSWER, task_id)


class TestTime:
    def test_waiting_is_no_part_of_the_run(self) -> None:
        rig = Rig()
        task_id = running(rig, run_timeout_ms=5_000, progress_timeout_ms=4_000, max_attempts=1)
        rig.keep_alive(3_000, "a")
        rig.question(task_id)
        rig.keep_alive(60_000, "a")
        assert rig.state(task_id) == "waiting_input"
        rig.answer(task_id)
        rig.keep_alive(1_900, "a")
        assert rig.state(task_id) == "running"
        rig.keep_alive(200, "a")
        assert (rig.state(task_id), rig.outcomes(task_id)) == ("failed", [Outcome.TIMED_OUT])

    def test_several_questions_add_up(self) -> None:
        rig = Rig()
        task_id = running(rig, run_timeout_ms=5_000, max_attempts=1)
        for query in (1, 2):
            rig.question(task_id, query)
            rig.keep_alive(10_000, "a")
            rig.answer(task_id)
            rig.keep_alive(2_000, "a")
        assert rig.state(task_id) == "running"
        rig.keep_alive(1_100, "a")
        assert rig.state(task_id) == "failed"

    def test_the_progress_limit_begins_anew_with_the_answer(self) -> None:
        rig = Rig()
        task_id = asking(rig, progress_timeout_ms=4_000, max_attempts=1)
        rig.progress(task_id)
        rig.keep_alive(60_000, "a")
        rig.answer(task_id)
        rig.keep_alive(3_900, "a")
        assert rig.state(task_id) == "running"
        rig.keep_alive(200, "a")
        assert rig.state(task_id) == "failed"

    def test_a_deadline_goes_on(self) -> None:
        rig = Rig()
        task_id = asking(rig, ttl_ms=20_000)
        rig.take(do.SendCancel)
        rig.keep_alive(20_100, "a")
        assert (rig.state(task_id), rig.outcomes(task_id)) == ("expired", [Outcome.CANCELLED])
        assert [effect.task_id for effect in rig.take(do.SendCancel)] == [task_id]

    def test_what_is_measured_of_the_run_is_the_agents_own_time(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.keep_alive(60_000, "a")
        rig.answer(task_id)
        rig.wait(700)
        rig.take(do.PublishTask)
        rig.complete(task_id)
        assert [effect.run_ms for effect in rig.take(do.PublishTask)] == [700]


class TestEnds:
    def test_the_agent_may_finish_without_an_answer(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.complete(task_id)
        assert rig.state(task_id) == "succeeded"
        assert rig.error_code(rig.answer(task_id, attempt=1, query=1)) == "invalid_transition"

    def test_silence_loses_it_like_any_other(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.wait(LEASE_MS + 1_000)
        assert (rig.state(task_id), rig.outcomes(task_id)) == ("queued", [Outcome.CRASHED])

    def test_twice_unlisted_is_crashed(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.beat()
        assert rig.state(task_id) == "waiting_input"
        rig.beat()
        assert rig.outcomes(task_id) == [Outcome.CRASHED]

    def test_the_next_attempt_begins_without_a_question(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.answer(task_id)
        rig.crash("a")
        assert (rig.state(task_id), rig.task(task_id).dialogue) == ("assigned", None)
        rig.accept(task_id)
        rig.question(task_id, 1, "and now?")
        found = rig.document(task_id).question
        assert found is not None
        assert found.prompt == "and now?"


class TestTakeOver:
    def test_a_new_owner_knows_the_question(self) -> None:
        rig = Rig()
        task_id = asking(rig, run_timeout_ms=5_000)
        rig.keep_alive(10_000, "a")
        rig.restart()
        assert rig.pool_agent("a").holds == {(task_id, 1): True}
        rig.keep_alive(LEASE_MS + 10_000, "a")
        assert rig.answer(task_id, attempt=1, query=1) == changed(rig, task_id)
        rig.keep_alive(4_900, "a")
        assert rig.state(task_id) == "running", "what its predecessors waited counts, too"

    def test_a_new_owner_sends_the_answer_again(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.answer(task_id)
        rig.take(do.SendAnswer)
        rig.restart()
        assert [effect.answer for effect in rig.take(do.SendAnswer)] == [b'"yes"']
        assert rig.answer(task_id, query=1) == changed(rig, task_id, anew=False)

    def test_what_was_acknowledged_is_not_sent_again(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.answer(task_id)
        rig.acknowledge(task_id)
        rig.wait(1_000)  # written with the next flush
        rig.take(do.SendAnswer)
        rig.restart()
        rig.keep_alive(3_000, "a")
        assert rig.take(do.SendAnswer) == []

    def test_nothing_is_left_of_it_in_the_end(self) -> None:
        rig = Rig()
        task_id = asking(rig)
        rig.answer(task_id)
        rig.complete(task_id)
        rig.restart()
        assert rig.store._dialogues == {}
