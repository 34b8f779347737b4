"""Offers: repeated, accepted, declined, undeliverable, late (protocol, section 3, assign)."""

from datetime import UTC, datetime

import pytest
from tests.support.core_rig import Rig

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.schemas.agents import AssignAnswer
from callboard.schemas.names import MAX_DURATION_MS
from callboard.schemas.tasks import TaskError, TaskSpec
from callboard.schemas.vocabulary import AgentState, Outcome, TaskState


def ready(slots: int = 1) -> Rig:
    rig = Rig()
    rig.registered(slots=slots)
    return rig


def beat_each_second(rig: Rig, duration_ms: int) -> list[tuple[int, int]]:
    """When offers were sent, in ms from now, and of which attempt."""
    began_ms, sent = rig.now_ms, list[tuple[int, int]]()
    for _ in range(duration_ms // 100):
        rig.wait(100)
        sent += [(rig.now_ms - began_ms, offer.attempt) for offer in rig.take(do.SendOffer)]
        if (rig.now_ms - began_ms) % 1_000 == 0:
            rig.beat("a")
    return sent


def test_an_offer_is_sent_after_its_commit_and_not_before() -> None:
    rig = ready()
    rig.tell(rig.submitted(TaskSpec(type="work")))
    batch = rig.seal()
    assert rig.take(do.SendOffer) == []
    rig.commit(batch)
    assert len(rig.take(do.SendOffer)) == 1


def test_an_unanswered_offer_is_repeated_after_1_2_and_4_seconds_and_then_given_up() -> None:
    rig = ready()
    task_id = rig.submit()
    rig.take(do.SendOffer)
    assert beat_each_second(rig, 10_900) == [(1_000, 1), (3_000, 1), (7_000, 1)]
    rig.wait(100)
    assert rig.outcomes(task_id) == [Outcome.UNDELIVERED]
    assert rig.pool_agent("a").state is AgentState.SUSPECT
    assert rig.state(task_id) == "queued"
    rig.beat("a")
    assert rig.task(task_id).attempt == 2, "the next heartbeat shows that it lives"


def test_who_is_suspect_of_an_unanswered_offer_is_announced() -> None:
    rig = ready()
    task_id = rig.submit()
    rig.take(do.PublishAgent)
    rig.undeliverable(task_id)
    assert [effect.event.state for effect in rig.take(do.PublishAgent)] == [AgentState.SUSPECT]


def test_who_replaces_a_process_is_not_suspect_of_its_offers() -> None:
    rig = ready()
    rig.submit()
    rig.take(do.PublishAgent)
    rig.registered(incarnation="a-2")
    [told] = rig.take(do.PublishAgent)
    assert (told.event.state, told.event.incarnation) == (AgentState.ONLINE, "a-2")
    rig.registered(incarnation="a-2")
    assert rig.take(do.PublishAgent) == [], "the same process again is no news"


def test_a_repeat_waits_for_the_commit_of_the_first() -> None:
    rig = ready()
    rig.tell(rig.submitted(TaskSpec(type="work")))
    batch = rig.seal()
    rig.tell(ev.TimeAdvanced(), after_ms=1_000)
    rig.tell(ev.TimeAdvanced(), after_ms=1_000)
    assert rig.take(do.SendOffer) == []
    rig.commit(batch)
    assert len(rig.take(do.SendOffer)) == 1


def test_no_responders_is_undelivered_at_once() -> None:
    rig = ready()
    task_id = rig.submit()
    rig.registered("b")
    rig.undeliverable(task_id)
    assert (rig.task(task_id).agent_id, rig.task(task_id).attempt) == ("b", 2)
    assert rig.pool_agent("a").state is AgentState.SUSPECT


@pytest.mark.parametrize("accepted", [True, False])
def test_a_late_answer_is_ignored(accepted: bool) -> None:
    rig = ready()
    task_id = rig.submit()
    late = ev.OfferAnswered(agent_id="a", held=(task_id, 1), answer=AssignAnswer(accepted=accepted))
    rig.undeliverable(task_id)
    rig.beat("a")
    rig.tell(late)
    task = rig.task(task_id)
    assert (task.state, task.attempt) == (TaskState.ASSIGNED, 2)
    rig.accept(task_id)
    rig.answer_offer(task_id, AssignAnswer(accepted=False))
    rig.undeliverable(task_id)
    assert task.state is TaskState.RUNNING, "what was accepted is neither declined nor undelivered"
    rig.complete(task_id)
    rig.tell(late)
    assert rig.state(task_id) == "succeeded"


def test_nobody_answers_for_another() -> None:
    rig = ready()
    rig.registered("b")
    task_id = rig.submit()
    other = "b" if rig.task(task_id).agent_id == "a" else "a"
    rig.tell(ev.OfferAnswered(agent_id=other, held=(task_id, 1), answer=AssignAnswer(accepted=True)))
    assert rig.task(task_id).state is TaskState.ASSIGNED


@pytest.mark.parametrize(("asked_ms", "skipped_ms"), [(None, 1_000), (300, 300), (4_000, 4_000)])
def test_who_declines_is_skipped_for_as_long_as_it_says(asked_ms: int | None, skipped_ms: int) -> None:
    rig = ready(slots=2)
    task_id = rig.submit()
    rig.decline(task_id, "busy", asked_ms)
    rig.wait(skipped_ms - 1)
    assert rig.state(task_id) == "queued"
    rig.wait(1)
    assert rig.task(task_id).attempt == 2


def test_the_unsupported_type_is_skipped_as_long_as_the_incarnation_lives() -> None:
    rig = ready()
    task_id = rig.submit(type="odd")
    rig.decline(task_id, "unsupported")
    other = rig.submit(type="even")
    assert rig.state(other) == "assigned", "for other types there is no skip"
    rig.complete(other)
    rig.keep_alive(60_000, "a")
    assert rig.state(task_id) == "queued"
    rig.registered(incarnation="a-2")
    assert rig.state(task_id) == "assigned"


def test_an_offer_says_how_much_time_is_left() -> None:
    rig = Rig()
    rig.submit(ttl_ms=10_000, run_timeout_ms=700)
    rig.wait(4_000)
    rig.registered()
    (offer,) = rig.take(do.SendOffer)
    assert (offer.remaining_ms, offer.run_timeout_ms) == (6_000, 700)


def test_an_offer_that_fits_into_no_message_waits_and_holds_up_nobody() -> None:
    rig = Rig()
    rig.registered()
    large, other = rig.submit(), rig.submit()
    error = TaskError(type="payload_too_large", message="too large", retry_after_ms=30_000)
    rig.tell(ev.OfferUnsendable(agent_id="a", held=(large, 1), error=error))
    rig.settle()
    assert (rig.state(large), rig.state(other)) == ("deferred", "assigned")
    assert rig.outcomes(large) == [Outcome.UNDELIVERED]
    assert rig.task(large).spent == 0, "it is nobody's fault"
    assert rig.pool_agent("a").state == "online"
    rig.complete(other)
    rig.keep_alive(40_000, "a")
    assert (rig.state(large), rig.task(large).attempt) == ("assigned", 2)


def test_an_offer_says_whether_its_agent_takes_batches() -> None:
    rig = Rig()
    rig.registered("a", batches=True)
    first = rig.submit()
    [offer] = rig.take(do.SendOffer)
    assert offer.batches
    rig.restart()
    [again] = rig.take(do.SendOffer)
    assert not again.batches, "a new owner does not know yet"
    rig.beat("a", batches=True)
    rig.undeliverable(first)
    rig.beat("a", batches=True)
    [third] = rig.take(do.SendOffer)
    assert third.batches


def test_a_deadline_may_be_farther_away_than_an_offer_can_say() -> None:
    rig = ready()
    rig.submit(deadline=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    [offer] = rig.take(do.SendOffer)
    assert offer.remaining_ms == MAX_DURATION_MS
