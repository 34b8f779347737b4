"""Batches: one row for a task however much happened to it, guarded by what the batch before wrote; refused inserts."""

import pytest
from tests.support.core_rig import POOL, Rig, done

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.settings import CoreSettings
from callboard.schemas.agents import Register
from callboard.schemas.tasks import Backoff, Requirements, TaskSpec
from callboard.schemas.vocabulary import OnUnsatisfiable, Outcome, TaskState


def test_a_new_task_whose_agent_is_free_is_inserted_already_assigned() -> None:
    rig = Rig()
    rig.registered()
    task_id = rig.submit()
    (change,) = rig.last_changes().tasks
    assert change.new is not None
    assert (change.new.task_id, change.guard, change.columns.state) == (task_id, None, TaskState.ASSIGNED)


def test_two_commits_in_the_life_of_a_task() -> None:
    rig = Rig()
    rig.registered()
    before = len(rig.batches)
    task_id = rig.submit()
    rig.accept(task_id)
    rig.complete(task_id)
    assert len([batch for batch in rig.batches[before:] if batch.changes]) == 2


def test_running_is_written_with_a_flush_when_nothing_else_comes() -> None:
    rig = Rig()
    rig.registered()
    task_id = rig.submit()
    rig.accept(task_id)
    assert rig.state(task_id) == "assigned"
    assert TaskState.RUNNING not in [effect.event.state for effect in rig.take(do.PublishTask)]
    rig.wait(200)
    assert rig.state(task_id) == "running"
    assert [effect.event.state for effect in rig.take(do.PublishTask)] == [TaskState.RUNNING]


def test_running_is_neither_written_nor_told_with_what_is_written_of_others() -> None:
    rig = Rig()
    rig.registered(slots=3)
    first = rig.submit()
    rig.accept(first)
    second = rig.submit()
    assert (rig.state(first), rig.state(second)) == ("assigned", "assigned")
    assert TaskState.RUNNING not in [effect.event.state for effect in rig.take(do.PublishTask)]
    assert rig.batches[-1].counts[TaskState.ASSIGNED] == len([first, second])
    rig.wait(199)
    rig.accept(second)
    rig.wait(1)
    assert (rig.state(first), rig.state(second)) == ("running", "assigned")
    rig.wait(199)
    assert rig.state(second) == "running"


def test_running_is_told_with_the_end_that_comes_sooner_and_before_it() -> None:
    rig = Rig()
    rig.registered()
    task_id = rig.submit()
    rig.accept(task_id)
    rig.take(do.PublishTask)
    rig.complete(task_id)
    (change,) = rig.last_changes().tasks
    assert change.guard == (TaskState.ASSIGNED, 1)
    told = [(effect.event.state, effect.event.version) for effect in rig.take(do.PublishTask)]
    assert told == [(TaskState.RUNNING, 3), (TaskState.SUCCEEDED, 4)]
    before = len(rig.batches)
    rig.wait(1_000)
    assert not any(batch.changes for batch in rig.batches[before:])


def test_inserted_and_finished_in_one_batch_it_goes_to_the_history_straight() -> None:
    rig = Rig()
    event = rig.submitted(TaskSpec(type="work"))
    rig.tell(event)
    rig.tell(ev.CompletionRequested(ticket=rig.ticket(), task_id=event.task_id, result=b"1"))
    rig.settle()
    (change,) = rig.last_changes().tasks
    assert change.new is not None
    assert change.ending is not None
    assert (change.guard, change.columns.version) == (None, 2)
    assert event.task_id not in rig.machine.pool.tasks


def test_several_attempts_in_one_batch_are_one_row_with_all_their_ends() -> None:
    rig = Rig()
    rig.registered("a")
    rig.registered("b")
    task_id = rig.submit(backoff=Backoff(initial_ms=0))
    rig.accept(task_id)
    rig.wait(1_000)
    rig.tell(rig.refused(task_id))
    rig.tell(ev.TimeAdvanced())
    first = rig.seal()
    rig.tell(rig.refused(task_id))  # decided while the first is being committed
    rig.tell(ev.TimeAdvanced())
    rig.commit(first)
    second = rig.seal()
    rig.commit(second)
    assert [change.guard for change in first.changes.tasks] == [(TaskState.RUNNING, 1)]
    assert [change.guard for change in second.changes.tasks] == [(TaskState.ASSIGNED, 2)]
    assert rig.outcomes(task_id) == [Outcome.FAILED, Outcome.FAILED]
    assert rig.task(task_id).attempt == 3


def test_a_batch_that_changes_nothing_has_the_number_of_the_last_one() -> None:
    rig = Rig()
    task_id = rig.submit()
    assert rig.error_code(rig.finish("task-none")) == "task_not_found"
    assert rig.batches[-1].number == rig.batches[-2].number
    rig.cancel(task_id)
    assert rig.batches[-1].number == rig.batches[-2].number + 1


def test_counts_are_those_that_the_batch_leaves() -> None:
    rig = Rig()
    rig.registered()
    first, _, _ = rig.submit(), rig.submit(), rig.submit(delay_ms=1_000)
    rig.complete(first)
    counts = {state.value: count for state, count in rig.batches[-1].counts.items() if count}
    assert counts == {"assigned": 1, "deferred": 1, "succeeded": 1}


class TestRefusedInserts:
    """The key belongs to another task: the new one never was."""

    def refused_soon(self, spec: TaskSpec) -> tuple[Rig, ev.TaskSubmitted]:
        rig = Rig()
        rig.registered("a", slots=2)
        rig.complete(rig.submit(key="k"))
        return rig, rig.submitted(spec)

    @pytest.mark.parametrize("delay_ms", [None, 1_000])
    def test_everything_is_undone(self, delay_ms: int | None) -> None:
        spec = TaskSpec(type="work", key="k", delay_ms=delay_ms, ttl_ms=5_000, run_timeout_ms=9)
        rig, event = self.refused_soon(spec)
        rig.take(do.SendOffer)
        rig.tell(event)
        committed = rig.commit(rig.seal())
        assert committed.refused == {event.task_id}
        assert event.task_id not in rig.machine.pool.tasks
        assert rig.pool_agent("a").holds == {}
        assert rig.take(do.SendOffer) == []
        assert rig.answers.get(int(str(event.ticket))) is None, "the shell answers with the task that has the key"
        assert sum(rig.machine.pool.counts.values()) == 1

    def test_what_was_decided_since_is_undone_too(self) -> None:
        rig, event = self.refused_soon(TaskSpec(type="work", key="k", ttl_ms=10))
        rig.tell(event)
        batch = rig.seal()
        rig.tell(ev.TimeAdvanced(), after_ms=20_000)
        rig.take(do.PublishTask)
        rig.commit(batch)
        rig.settle()
        assert event.task_id not in [effect.task_id for effect in rig.take(do.PublishTask)]
        assert event.task_id not in rig.machine.pool.tasks
        assert event.task_id not in done(rig.store.documents(POOL, [event.task_id]))
        assert sum(rig.machine.pool.counts.values()) == 1

    def test_a_waiting_one_leaves_the_queue(self) -> None:
        spec = TaskSpec(type="work", key="k", requires=Requirements(capabilities=["rare"]))
        rig, event = self.refused_soon(spec)
        rig.tell(event)
        rig.commit(rig.seal())
        rig.take(do.SendOffer)
        rig.registered("b", capabilities=["rare"])
        assert rig.take(do.SendOffer) == []
        assert rig.pool_agent("b").holds == {}

    def test_its_slot_is_free_for_the_next(self) -> None:
        rig = Rig()
        rig.registered("a", slots=1)
        rig.complete(rig.submit(key="k"))
        rig.tell(rig.submitted(TaskSpec(type="work", key="k")))
        other = rig.submitted(TaskSpec(type="work"))
        rig.tell(other)
        rig.settle()
        assert rig.state(other.task_id) == "assigned"

    def test_two_of_one_key_in_one_batch_are_one_task(self) -> None:
        rig = Rig()
        first, second = rig.submitted(TaskSpec(type="w", key="k")), rig.submitted(TaskSpec(type="w", key="k"))
        rig.tell(first)
        rig.tell(second)
        assert rig.commit(rig.seal()).refused == {second.task_id}
        assert list(rig.machine.pool.tasks) == [first.task_id]


class TestAdmission:
    def test_a_submit_is_answered_after_its_commit_with_the_state_it_has_then(self) -> None:
        rig = Rig()
        rig.registered()
        event = rig.submitted(TaskSpec(type="work"))
        rig.tell(event)
        batch = rig.seal()
        assert rig.answers.get(int(str(event.ticket))) is None
        rig.commit(batch)
        answer = rig.answers[int(str(event.ticket))]
        assert (getattr(answer, "state", None), getattr(answer, "created", None)) == (TaskState.ASSIGNED, True)

    def test_the_queue_has_a_limit(self) -> None:
        rig = Rig(CoreSettings(max_tasks=2))
        rig.submit()
        task_id = rig.submit()
        event = rig.submitted(TaskSpec(type="work"))
        rig.tell(event)
        assert rig.error_code(rig.answers[int(str(event.ticket))]) == "resource_limit"
        rig.cancel(task_id)
        rig.submit()

    def test_what_nobody_could_take_is_rejected_if_asked(self) -> None:
        rig = Rig()
        needs = Requirements(capabilities=["rare"])
        spec = TaskSpec(type="work", requires=needs, on_unsatisfiable=OnUnsatisfiable.REJECT)
        event = rig.submitted(spec)
        rig.tell(event)
        assert rig.error_code(rig.answers[int(str(event.ticket))]) == "task_delegation_failed"
        rig.registered(capabilities=["rare", "usual"])
        rig.drain("a")
        rig.submit(requires=needs, on_unsatisfiable=OnUnsatisfiable.REJECT)

    def test_the_answer_says_whether_anybody_could_take_it(self) -> None:
        rig = Rig()
        event = rig.submitted(TaskSpec(type="work"))
        rig.tell(event)
        rig.settle()
        assert getattr(rig.answers[int(str(event.ticket))], "satisfiable", None) is False

    def test_a_retry_is_answered_as_a_change(self) -> None:
        rig = Rig()
        task_id = rig.submit()
        rig.cancel(task_id)
        event = rig.submitted(TaskSpec(type="work"), retry_of=task_id)
        rig.tell(event)
        rig.settle()
        assert getattr(rig.answers[int(str(event.ticket))], "changed", None) is True
        assert rig.document(event.task_id).retry_of == task_id
        again = rig.submitted(TaskSpec(type="work"), retry_of=task_id)
        rig.tell(again)
        assert rig.commit(rig.seal()).refused == {again.task_id}


def test_events_of_uncommitted_changes_are_not_published() -> None:
    rig = Rig()
    rig.tell(ev.AgentRegistered(ticket=rig.ticket(), agent_id="a", message=Register(incarnation="a-1")))
    rig.tell(rig.submitted(TaskSpec(type="work")))
    batch = rig.seal()
    assert rig.take(do.PublishTask) == []
    rig.commit(batch)
    assert [effect.event.state for effect in rig.take(do.PublishTask)] == [TaskState.QUEUED, TaskState.ASSIGNED]


def test_an_attempt_that_ended_before_its_offer_could_be_sent_is_not_offered() -> None:
    """Else an agent would begin it, only to be told to stop."""
    rig = Rig()
    rig.registered()
    task_id = rig.submit()
    rig.take(do.SendOffer)
    rig.tell(ev.ObservationResumed())
    rig.cancel(task_id)
    assert rig.take(do.SendOffer) == []
