"""How attempts end and what that costs: the table of the protocol, section 3, row by row; back-off and budgets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.core_rig import Rig

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.dice import Dice
from callboard.orchestrator.core.retry import backoff_ms
from callboard.schemas.agents import Recorded, ReportProgress
from callboard.schemas.tasks import Backoff, TaskChange, TaskError
from callboard.schemas.times import to_instant
from callboard.schemas.vocabulary import DeferralReason, Outcome, TaskState

LEASE_MS = 15_000
AT_ONCE = Backoff(initial_ms=0)


def running(rig: Rig, **fields: object) -> str:
    task_id = rig.submit(**fields)
    rig.accept(task_id)
    return task_id


def ready(slots: int = 1) -> Rig:
    rig = Rig()
    rig.wait(LEASE_MS)  # the start counts as a take-over: limits of held attempts wait one lease
    rig.registered(slots=slots)
    return rig


class TestTheTable:
    def test_succeeded_is_final(self) -> None:
        rig = ready()
        task_id = running(rig)
        assert rig.complete(task_id, b'{"n":1}') == Recorded(recorded=True)
        document = rig.document(task_id)
        assert (document.state, document.result_value()) == (TaskState.SUCCEEDED, {"n": 1})
        assert rig.outcomes(task_id) == [Outcome.SUCCEEDED]

    def test_failed_costs_an_attempt_and_is_backed_off(self) -> None:
        rig = ready()
        task_id = running(rig)
        answer = rig.fail(task_id)
        task = rig.task(task_id)
        assert isinstance(answer, Recorded)
        assert (answer.recorded, answer.state) == (True, TaskState.DEFERRED)
        assert answer.until is not None
        assert (task.state, task.reason, task.spent) == (TaskState.DEFERRED, DeferralReason.BACKOFF, 1)
        assert rig.outcomes(task_id) == [Outcome.FAILED]

    @pytest.mark.parametrize("limit", ["run_timeout_ms", "progress_timeout_ms"])
    def test_timed_out_costs_an_attempt_and_the_agent_is_told(self, limit: str) -> None:
        rig = ready()
        task_id = running(rig, **{limit: 3_000})
        rig.wait(2_999)
        assert rig.state(task_id) == "running"
        rig.wait(1)
        assert rig.outcomes(task_id) == [Outcome.TIMED_OUT]
        assert rig.task(task_id).spent == 1
        assert [(cancel.agent_id, cancel.attempt) for cancel in rig.take(do.SendCancel)] == [("a", 1)]
        error = rig.document(task_id).attempts
        assert error is not None
        assert error[0].error is not None
        assert error[0].error.type == "timeout"

    def test_crashed_costs_an_attempt_and_is_not_backed_off(self) -> None:
        rig = ready()
        task_id = running(rig)
        rig.wait(LEASE_MS)
        task = rig.task(task_id)
        assert rig.outcomes(task_id) == [Outcome.CRASHED]
        assert (task.state, task.spent, task.crashes, task.crashed_on) == (TaskState.QUEUED, 1, 1, ("a",))

    def test_declined_is_free(self) -> None:
        rig = ready()
        task_id = rig.submit()
        rig.decline(task_id)
        assert rig.outcomes(task_id) == [Outcome.DECLINED]
        assert (rig.task(task_id).state, rig.task(task_id).spent) == (TaskState.QUEUED, 0)

    def test_undelivered_is_free(self) -> None:
        rig = ready()
        task_id = rig.submit()
        rig.undeliverable(task_id)
        assert rig.outcomes(task_id) == [Outcome.UNDELIVERED]
        assert (rig.task(task_id).state, rig.task(task_id).spent) == (TaskState.QUEUED, 0)

    def test_released_is_free(self) -> None:
        rig = ready()
        task_id = running(rig)
        rig.leave("a")
        assert rig.outcomes(task_id) == [Outcome.RELEASED]
        assert (rig.task(task_id).state, rig.task(task_id).spent) == (TaskState.QUEUED, 0)

    def test_cancelled_is_final_whatever_the_agent_does(self) -> None:
        rig = ready()
        task_id = running(rig)
        report = rig.reported(task_id)
        rig.cancel(task_id, "not wanted")
        assert rig.error_code(rig.report(report)) == "stale_attempt"
        document = rig.document(task_id)
        assert (document.state, document.reason) == (TaskState.CANCELLED, "not wanted")
        assert rig.outcomes(task_id) == [Outcome.CANCELLED]

    def test_a_thousand_free_ends_leave_the_budget_alone(self) -> None:
        rig = ready()
        task_id = rig.submit(max_attempts=1)
        for _ in range(50):
            rig.undeliverable(task_id)
            rig.beat("a")
        task = rig.task(task_id)
        assert (task.attempt, task.spent, task.state) == (51, 0, TaskState.ASSIGNED)
        assert len(rig.outcomes(task_id)) == 20, "the last ones are kept"


class TestBudget:
    def test_after_max_attempts_the_task_is_failed_with_the_last_error(self) -> None:
        rig = ready()
        task_id = rig.submit(max_attempts=3, backoff=AT_ONCE)
        for number in range(2):
            rig.fail(task_id, TaskError(message=f"no {number}"))
            rig.wait(0)
        answer = rig.fail(task_id, TaskError(message="no 2"))
        document = rig.document(task_id)
        assert answer == Recorded(recorded=True, state=TaskState.FAILED)
        assert document.state is TaskState.FAILED
        assert document.error == TaskError(message="no 2")
        assert rig.outcomes(task_id) == [Outcome.FAILED] * 3

    def test_what_is_not_retryable_fails_at_once(self) -> None:
        rig = ready()
        task_id = rig.submit(max_attempts=10)
        rig.fail(task_id, TaskError(message="never", retryable=False))
        assert rig.state(task_id) == "failed"

    def test_failures_time_outs_and_crashes_share_one_budget(self) -> None:
        rig = ready()
        task_id = rig.submit(max_attempts=3, backoff=AT_ONCE, run_timeout_ms=100)
        rig.fail(task_id)
        rig.wait(0)
        rig.accept(task_id)
        rig.wait(100)
        rig.beat("a")
        rig.wait(0)
        rig.accept(task_id)
        rig.crash("a")
        assert rig.outcomes(task_id) == [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED]
        assert rig.state(task_id) == "failed"

    def test_three_crashes_on_two_agents_are_quarantined_whatever_is_left(self) -> None:
        rig = ready()
        task_id = running(rig, max_attempts=100)
        rig.crash("a")
        rig.accept(task_id)
        rig.drain("a")
        rig.registered("b")
        rig.crash("a")
        rig.accept(task_id)
        rig.crash("b")
        assert rig.state(task_id) == "quarantined"

    def test_three_crashes_on_one_agent_are_not(self) -> None:
        rig = ready()
        task_id = rig.submit(max_attempts=100)
        for _ in range(5):
            rig.accept(task_id)
            rig.crash("a")
        assert rig.task(task_id).crashes == 5
        assert rig.task(task_id).state is TaskState.ASSIGNED

    def test_poison_comes_before_exhaustion(self) -> None:
        rig = ready()
        task_id = running(rig, max_attempts=3)
        rig.crash("a")
        rig.accept(task_id)
        rig.crash("a")
        rig.leave("a")
        rig.registered("b")
        rig.accept(task_id)
        rig.crash("b")
        assert rig.state(task_id) == "quarantined"


class TestBackOff:
    @given(
        initial=st.integers(0, 10**6),
        factor=st.floats(1, 100),
        most=st.integers(0, 10**7),
        spent=st.integers(1, 1000),
        seed=st.integers(0, 2**64 - 1),
    )
    def test_it_is_below_a_growing_capped_bound(
        self, initial: int, factor: float, most: int, spent: int, seed: int
    ) -> None:
        delay = backoff_ms(Backoff(initial_ms=initial, factor=factor, max_ms=most), spent, Dice(seed))
        assert 0 <= delay <= most
        assert delay <= initial * factor ** min(spent - 1, 64)

    def test_the_jitter_is_full(self) -> None:
        dice = Dice(3)
        delays = [backoff_ms(Backoff(initial_ms=1000, factor=2, max_ms=3000), 3, dice) for _ in range(2_000)]
        assert min(delays) < 100
        assert max(delays) > 2_900
        assert 1_350 < sum(delays) / len(delays) < 1_650

    def test_an_agent_may_ask_for_longer(self) -> None:
        rig = ready()
        task_id = rig.submit(backoff=Backoff(initial_ms=10, max_ms=10))
        rig.fail(task_id, TaskError(message="later", retry_after_ms=5_000))
        assert rig.task(task_id).until_ms == rig.now_ms + 5_000
        rig.keep_alive(4_999, "a")
        assert rig.state(task_id) == "deferred"
        rig.wait(1)
        assert rig.state(task_id) == "assigned"

    def test_a_back_off_of_nothing_is_none(self) -> None:
        rig = ready()
        task_id = rig.submit(backoff=AT_ONCE)
        rig.fail(task_id)
        rig.wait(0)
        assert rig.task(task_id).attempt == 2


class TestDeadlinesDelaysLimits:
    def test_a_deadline_is_for_the_whole_task(self) -> None:
        rig = ready()
        ran, waited = running(rig, ttl_ms=5_000), rig.submit(ttl_ms=5_000)
        rig.wait(4_999)
        assert (rig.state(ran), rig.state(waited)) == ("running", "queued")
        rig.wait(1)
        assert (rig.state(ran), rig.state(waited)) == ("expired", "expired")
        assert rig.outcomes(ran) == [Outcome.CANCELLED]

    def test_a_deadline_in_the_past_expires_at_once(self) -> None:
        rig = ready()
        task_id = rig.submit(ttl_ms=1, delay_ms=0)
        rig.complete(task_id)
        late = rig.submit(deadline=to_instant(rig.now_ms - 1))
        assert rig.state(late) == "expired"
        assert rig.take(do.SendOffer)[-1].task_id == task_id

    def test_a_delayed_task_waits_for_its_time(self) -> None:
        rig = ready()
        task_id = rig.submit(delay_ms=1_000)
        assert (rig.state(task_id), rig.task(task_id).reason) == ("deferred", DeferralReason.NOT_BEFORE)
        rig.wait(999)
        assert rig.state(task_id) == "deferred"
        rig.wait(1)
        assert rig.state(task_id) == "assigned"

    def test_progress_renews_its_clock_and_not_the_run_limit(self) -> None:
        rig = ready()
        task_id = running(rig, progress_timeout_ms=2_000, run_timeout_ms=20_000)
        for _ in range(19):
            rig.wait(1_000)
            rig.beat("a", (task_id, 1))
            rig.progress(task_id)
        assert rig.task(task_id).state is TaskState.RUNNING
        rig.wait(1_000)
        assert rig.outcomes(task_id) == [Outcome.TIMED_OUT]

    def test_progress_is_written_at_most_once_a_second(self) -> None:
        rig = ready()
        task_id = running(rig)
        rig.wait(2_000)
        before = len(rig.batches)
        for percent in range(40):
            rig.progress(task_id, percent)
            rig.wait(50)
        assert len([batch for batch in rig.batches[before:] if batch.changes]) == 2
        progress = rig.document(task_id).progress
        assert progress is not None
        assert progress.percent == 39

    def test_progress_of_another_incarnation_is_ignored(self) -> None:
        rig = ready()
        task_id = running(rig)
        message = ReportProgress(task_id=task_id, attempt=1, incarnation="a-0", percent=1)
        rig.tell(ev.ProgressReported(agent_id="a", message=message, progress=b"{}"))
        assert rig.task(task_id).progress is None


class TestOperatorsEnd:
    @pytest.mark.parametrize("state", ["queued", "deferred", "assigned", "running", "waiting_input"])
    def test_a_client_finishes_whatever_is_not_final(self, state: str) -> None:
        rig = Rig()
        held = state in {"assigned", "running", "waiting_input"}
        if held:
            rig.registered()
        task_id = rig.submit(delay_ms=5_000) if state == "deferred" else rig.submit()
        if state == "running":
            rig.accept(task_id)
        elif state == "waiting_input":
            rig.question(task_id)
        assert rig.task(task_id).state == state
        rig.finish(task_id, b'"by hand"')
        assert (rig.state(task_id), rig.document(task_id).result_value()) == ("succeeded", "by hand")
        assert len(rig.take(do.SendCancel)) == held

    def test_a_finished_one_has_no_error_of_an_earlier_attempt(self) -> None:
        rig = ready()
        task_id = rig.submit()
        rig.fail(task_id)
        rig.finish(task_id)
        assert (rig.state(task_id), rig.document(task_id).error) == ("succeeded", None)

    def test_doing_it_again_changes_nothing(self) -> None:
        rig = Rig()
        task_id, other = rig.submit(), rig.submit()
        assert rig.cancel(task_id) == TaskChange(task_id=task_id, state=TaskState.CANCELLED, changed=True)
        assert rig.cancel(task_id) == TaskChange(task_id=task_id, state=TaskState.CANCELLED, changed=False)
        assert rig.error_code(rig.finish(task_id)) == "invalid_transition"
        rig.finish(other)
        assert rig.error_code(rig.cancel(other)) == "invalid_transition"
        assert rig.error_code(rig.cancel("task-none")) == "task_not_found"

    def test_the_first_to_end_it_wins_before_its_commit_too(self) -> None:
        rig = Rig()
        task_id, tickets = rig.submit(), [rig.ticket(), rig.ticket(), rig.ticket()]
        rig.tell(ev.CancelRequested(ticket=tickets[0], task_id=task_id))
        rig.tell(ev.CompletionRequested(ticket=tickets[1], task_id=task_id, result=b"1"))
        rig.tell(ev.CancelRequested(ticket=tickets[2], task_id=task_id))
        rig.settle()
        answers = [rig.answers[ticket] for ticket in tickets]
        assert answers[0] == TaskChange(task_id=task_id, state=TaskState.CANCELLED, changed=True)
        assert rig.error_code(answers[1]) == "invalid_transition"
        assert answers[2] == TaskChange(task_id=task_id, state=TaskState.CANCELLED, changed=False)
        assert rig.state(task_id) == "cancelled"
