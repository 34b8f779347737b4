"""The checker of the fault runs: it passes what is clean, and each rule finds what is planted for it, alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from tests.chaos import history as h
from tests.chaos.checker import RULES, check
from tests.chaos.figures import failovers
from tests.chaos.rules_of_pools import DRAINED_WITHIN_S, REACH_S
from tests.chaos.rules_of_tasks import CLIENTS_RESULT
from tests.chaos.tale import Tale

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def broken_by(tale: Tale) -> set[str]:
    return {violation.rule for violation in check(h.in_order(tale.events))}


# Clean.


def a_success(tale: Tale) -> None:
    tale.whole("t1")
    tale.tell(h.Seen(task_id="t1", state="succeeded"))


def a_retry(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1")
    tale.failed_once("t1", "deferred")
    tale.commit(("t1", {"state": "queued"}))
    tale.assigned("t1", "a2")
    tale.succeeded("t1")


def a_failure(tale: Tale) -> None:
    tale.submitted("t1", max_attempts=2)
    tale.assigned("t1")
    tale.failed_once("t1")
    tale.assigned("t1")
    tale.failed_once("t1", "failed", op="final")


def a_declined_offer(tale: Tale) -> None:
    tale.submitted("t1")
    tale.commit(("t1", {"state": "assigned", "attempt": 1, "agent_id": "a1", "incarnation": "a1-i"}))
    tale.tell(h.OfferAnswered(accepted=False, **tale.ref("t1")))
    tale.given_up("t1", "declined")
    tale.assigned("t1", "a2")
    tale.succeeded("t1")


def a_crash(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1")
    tale.fault(a1=1)
    tale.given_up("t1", "crashed")
    tale.assigned("t1", "a2")
    tale.succeeded("t1")


def a_late_start(tale: Tale) -> None:
    """An offer that was delayed is started after the next attempt: one extra execution, and one fault."""
    tale.submitted("t1")
    tale.commit(("t1", {"state": "assigned", "attempt": 1, "agent_id": "a1", "incarnation": "a1-i"}))
    late = tale.ref("t1")
    tale.fault(a1=1)
    tale.given_up("t1", "undelivered")
    tale.assigned("t1", "a2")
    tale.tell(h.Offered(epoch=1, **late))
    tale.tell(h.Started(**late))
    tale.succeeded("t1")


def a_poison(tale: Tale) -> None:
    tale.submitted("t1", max_attempts=5)
    for number, agent_id in enumerate(("a1", "a2", "a1")):
        tale.assigned("t1", agent_id)
        tale.fault(number, **{agent_id: 1})
        tale.tell(h.Finished(**tale.ref("t1")))
        is_last = number == 2
        tale.given_up("t1", "crashed", "quarantined" if is_last else "queued", op="final" if is_last else "update")


def a_cancellation(tale: Tale) -> None:
    tale.submitted("t1")
    tale.commit(("t1", {"op": "final", "state": "cancelled"}))
    tale.tell(h.Cancelled(task_id="t1"))


def an_order_kept(tale: Tale) -> None:
    tale.submitted("t1", order=(-1, 1, "t1"))
    tale.submitted("t2", order=(-2, 2, "t2"))
    tale.assigned("t2")
    tale.succeeded("t2")
    tale.assigned("t1")
    tale.succeeded("t1")


def keys_kept(tale: Tale) -> None:
    for task_id in ("t1", "t2"):
        tale.submitted(task_id, concurrency_key="k", concurrency_limit=1)
    tale.assigned("t1")
    tale.succeeded("t1")
    tale.assigned("t2", "a2")
    tale.succeeded("t2")


def a_take_over(tale: Tale) -> None:
    tale.submitted("t1")
    tale.epoch, tale.batch = 2, 0
    tale.tell(h.LeaseRow(sequence=tale.of("t1").sequence + 1, tx=99, epoch=2, batch=0, replica="r2"))
    tale.commit()
    tale.assigned("t1")
    tale.succeeded("t1")


def a_finish_and_a_start_in_one_batch(tale: Tale) -> None:
    """The slot is free and given again by one commit, whatever the order of its rows."""
    tale.submitted("t1")
    tale.submitted("t2")
    tale.assigned("t1")
    tale.reporting("t1", "complete")
    assigned = {"state": "assigned", "attempt": 1, "agent_id": "a1", "incarnation": "a1-i"}
    final = tale.end("t1", "succeeded", op="final", state="succeeded", result='["t1",1,"a1","a1-i"]')
    tale.commit(("t2", assigned), ("t1", final))
    tale.succeeded("t2")


def a_retry_of_a_failure(tale: Tale) -> None:
    a_failure(tale)
    tale.tell(h.Retrying(task_id="t1"))
    tale.commit(("t2", {"key": None, "retry_of": "t1"}))
    tale.tell(h.Retried(task_id="t1", retry="t2"))
    tale.assigned("t2")
    tale.succeeded("t2")


def a_task_that_its_client_finished(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1")
    tale.tell(h.Completing(task_id="t1"))
    tale.commit(("t1", tale.end("t1", "cancelled", op="final", state="succeeded", result=CLIENTS_RESULT)))
    tale.tell(h.Completed(task_id="t1", changed=True))
    tale.tell(h.Finished(**tale.ref("t1")))


def a_requirement_met(tale: Tale) -> None:
    tale.change(h.AgentBegan, 0, capabilities=("c",))
    tale.submitted("t1", requires=("c",))
    tale.assigned("t1")
    tale.succeeded("t1")


def a_pause(tale: Tale) -> None:
    """What is paused lets what is not go first."""
    tale.submitted("t1")
    tale.tell(h.Pausing(type="work"))
    tale.tell(h.Paused(type="work"))
    tale.submitted("t2", type="other")
    tale.assigned("t2")
    tale.succeeded("t2")
    tale.tell(h.Unpausing(type="work"))
    tale.tell(h.Unpaused(type="work"))
    tale.assigned("t1")
    tale.succeeded("t1")


def a_progress(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1")
    tale.commit(("t1", {"state": "running", "progress": ("t1", 1, "a1", "a1-i")}))
    tale.succeeded("t1", progress=None)


def an_answer(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1")
    tale.commit(("t1", {"state": "waiting_input"}))
    tale.tell(h.Answering(task_id="t1", attempt=1))
    tale.commit(("t1", {"state": "running"}))
    tale.tell(h.Heard(answer="t1/1", **tale.ref("t1")))
    tale.succeeded("t1")


def a_late_result(tale: Tale) -> None:
    tale.tell(h.Began(late_results="adopt"))
    tale.submitted("t1")
    tale.assigned("t1")
    tale.fault(a1=1)
    ref = tale.reporting("t1", "complete")
    given_up = tale.end("t1", "crashed")["ends"]
    tale.given_up("t1", "crashed")
    again = (*given_up, h.End(attempt=1, agent_id="a1", outcome="succeeded", incarnation="a1-i"))
    who = {"agent_id": "a1", "incarnation": "a1-i", "result": '["t1",1,"a1","a1-i"]'}
    no_bill: dict[str, Any] = {"spent": None, "crashes": None}
    tale.commit(("t1", {"op": "final", "state": "succeeded", "ends": again, **who, **no_bill}))
    tale.tell(h.Recorded(verb="complete", **ref))


CLEAN: Final = (
    a_success,
    a_retry,
    a_failure,
    a_declined_offer,
    a_crash,
    a_late_start,
    a_poison,
    a_cancellation,
    an_order_kept,
    keys_kept,
    a_take_over,
    a_finish_and_a_start_in_one_batch,
    a_retry_of_a_failure,
    a_task_that_its_client_finished,
    a_requirement_met,
    a_pause,
    a_progress,
    an_answer,
    a_late_result,
)


@pytest.mark.parametrize("story", CLEAN)
def test_a_clean_history_passes(story: Callable[[Tale], None]) -> None:
    tale = Tale()
    story(tale)
    assert check(h.in_order(tale.events)) == []


# Planted. Each function is named after what it spoils; `PLANTED` says which rule must find it.


def accepted_and_nowhere(tale: Tale) -> None:
    tale.tell(h.Submitting(key="k"))
    tale.tell(h.Submitted(key="k", task_id="lost"))


def accepted_and_forgotten(tale: Tale) -> None:
    tale.submitted("t1")


def nobody_asked(tale: Tale) -> None:
    tale.whole("t1")
    tale.drop(h.Submitting)


def asked_after_it_was_there(tale: Tale) -> None:
    tale.whole("t1")
    tale.change(h.Submitting, at_ns=tale.now_ns)


def two_tasks_of_one_key(tale: Tale) -> None:
    tale.whole("t1")
    tale.submitted("t2", key="key-t1")
    tale.assigned("t2")
    tale.succeeded("t2")
    tale.change(h.Submitted, 1, key="key-t1")


def two_answers_for_one_key(tale: Tale) -> None:
    tale.whole("t1")
    tale.whole("t2")
    tale.tell(h.Submitted(key="key-t1", task_id="t2"))


def written_after_the_end(tale: Tale) -> None:
    tale.whole("t1")
    tale.commit(("t1", {"version": tale.of("t1").version}))


def told_another_end(tale: Tale) -> None:
    tale.whole("t1")
    tale.tell(h.Seen(task_id="t1", state="failed"))


def the_result_of_an_earlier_attempt(tale: Tale) -> None:
    a_retry(tale)
    tale.change(h.Row, -1, result='["t1",1,"a1","a1-i"]')


def the_result_of_another_agent(tale: Tale) -> None:
    tale.whole("t1")
    tale.change(h.Row, -1, agent_id="a2", incarnation="a2-i", result='["t1",1,"a2","a2-i"]')
    tale.change(h.Reporting, 0, agent_id="a1")


def the_result_of_an_earlier_incarnation(tale: Tale) -> None:
    tale.whole("t1")
    tale.change(h.Reporting, incarnation="a1-before")


def a_number_is_left_out(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1", attempt=2)
    for kind in (h.Offered, h.OfferAnswered, h.Started):
        tale.change(kind, attempt=2)
    tale.succeeded("t1")


def an_attempt_begins_before_the_last_has_ended(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1")
    tale.fault(a1=1)
    tale.commit(("t1", {"state": "queued", "agent_id": None, "incarnation": None}))
    tale.assigned("t1", "a2")
    tale.succeeded("t1")


def failed_without_a_word(tale: Tale) -> None:
    a_failure(tale)
    tale.drop(h.Reporting)


def declined_without_a_word(tale: Tale) -> None:
    a_declined_offer(tale)
    tale.drop(h.OfferAnswered)


def more_attempts_than_allowed(tale: Tale) -> None:
    a_failure(tale)
    for nth in range(len([event for event in tale.events if isinstance(event, h.Row)])):
        tale.change(h.Row, nth, max_attempts=1)


def a_miss_that_costs(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1")
    tale.fault(a1=1)
    tale.given_up("t1", "undelivered", spent=1)
    tale.assigned("t1", "a2", spent=1)
    tale.succeeded("t1", spent=1)


def a_crash_that_is_not_counted(tale: Tale) -> None:
    a_crash(tale)
    for nth in (-1, -2, -3):
        tale.change(h.Row, nth, crashes=0)


def a_poison_that_goes_on(tale: Tale) -> None:
    a_poison(tale)
    tale.change(h.Row, -1, state="failed", max_attempts=3)


def given_up_too_early(tale: Tale) -> None:
    a_failure(tale)
    tale.change(h.Row, -1, max_attempts=3)


def a_move_that_is_none(tale: Tale) -> None:
    tale.submitted("t1", state="deferred")
    tale.assigned("t1")
    tale.succeeded("t1")


def a_version_that_falls(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1", version=5)
    tale.succeeded("t1", version=4)


def recorded_before_the_commit(tale: Tale) -> None:
    tale.whole("t1")
    tale.change(h.Recorded, at_ns=tale.events[-2].at_ns - 1)


def accepted_before_the_commit(tale: Tale) -> None:
    tale.whole("t1")
    tale.change(h.Submitted, at_ns=tale.events[3].at_ns + 1)


def offered_before_the_commit(tale: Tale) -> None:
    tale.whole("t1")
    offered = next(event for event in tale.events if isinstance(event, h.Offered))
    tale.change(h.Offered, at_ns=offered.at_ns - 11_000_000)


def recorded_after_a_cancellation(tale: Tale) -> None:
    """The attempt's own end is in the row, so that the answer is true to it; the task's end is another."""
    tale.submitted("t1")
    tale.assigned("t1")
    ref = tale.reporting("t1", "complete")
    tale.commit(("t1", tale.end("t1", "succeeded", op="final", state="cancelled")))
    tale.tell(h.Recorded(verb="complete", **ref))


def cancelled_and_yet_a_success(tale: Tale) -> None:
    tale.submitted("t1")
    tale.tell(h.Cancelled(task_id="t1"))
    tale.assigned("t1")
    tale.succeeded("t1")


def more_attempts_than_slots(tale: Tale) -> None:
    tale.submitted("t1")
    tale.submitted("t2")
    tale.assigned("t1")
    ref = tale.ref("t1")
    tale.tell(h.Finished(**ref))
    tale.assigned("t2")
    tale.succeeded("t2")
    tale.succeeded("t1")


def more_handlers_than_slots(tale: Tale) -> None:
    """The first handler goes on after its report was recorded."""
    tale.submitted("t1")
    tale.assigned("t1")
    tale.succeeded("t1")
    tale.drop(h.Finished)
    tale.whole("t2")


def more_than_the_key_allows(tale: Tale) -> None:
    for task_id in ("t1", "t2"):
        tale.submitted(task_id, concurrency_key="k", concurrency_limit=1)
    tale.assigned("t1")
    tale.assigned("t2", "a2")
    tale.succeeded("t1")
    tale.succeeded("t2")


def more_than_the_lowest_limit_allows(tale: Tale) -> None:
    tale.submitted("t0", concurrency_key="k", concurrency_limit=1, placement="other")
    for task_id in ("t1", "t2"):
        tale.submitted(task_id, concurrency_key="k", concurrency_limit=2)
    tale.assigned("t1")
    tale.assigned("t2", "a2")
    tale.succeeded("t1")
    tale.succeeded("t2")
    tale.assigned("t0")
    tale.succeeded("t0")


def a_lower_priority_first(tale: Tale) -> None:
    tale.submitted("t1", order=(-1, 1, "t1"))
    tale.submitted("t2", order=(-2, 2, "t2"))
    tale.assigned("t1")
    tale.succeeded("t1")
    tale.assigned("t2")
    tale.succeeded("t2")


def a_later_one_first(tale: Tale) -> None:
    tale.submitted("t1")
    tale.submitted("t2")
    tale.assigned("t2")
    tale.succeeded("t2")
    tale.assigned("t1")
    tale.succeeded("t1")


def an_epoch_that_falls(tale: Tale) -> None:
    tale.whole("t1")
    tale.change(h.LeaseRow, -1, epoch=0)


def a_batch_that_is_left_out(tale: Tale) -> None:
    tale.submitted("t1")
    tale.batch += 1
    tale.assigned("t1")
    tale.succeeded("t1")


def a_write_of_a_fenced_owner(tale: Tale) -> None:
    a_take_over(tale)
    tale.change(h.Row, -1, epoch=1)


def an_offer_of_a_replaced_owner_is_started(tale: Tale) -> None:
    tale.whole("t1")
    tale.whole("t2")
    tale.change(h.Offered, epoch=2)


def a_backlog_that_takes_too_long(tale: Tale) -> None:
    tale.submitted("t1")
    tale.tell(h.Healed())
    tale.now_ns += int((DRAINED_WITHIN_S + 1) * 1e9)
    tale.assigned("t1")
    tale.succeeded("t1")


def nobody_was_promised_it_but_it_stays(tale: Tale) -> None:
    tale.submitted("t1")
    tale.drop(h.Submitted)


def run_again_without_a_fault(tale: Tale) -> None:
    a_crash(tale)
    tale.drop(h.FaultBegan)
    tale.drop(h.FaultEnded)


def run_again_by_the_fault_of_another(tale: Tale) -> None:
    a_crash(tale)
    tale.change(h.FaultBegan, agents={"a2": 1})


def run_again_long_after_the_fault(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1")
    tale.fault(a1=1)
    tale.now_ns += int((REACH_S + 1) * 1e9)
    tale.given_up("t1", "crashed")
    tale.assigned("t1", "a2")
    tale.succeeded("t1")


def two_run_again_by_a_fault_for_one(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1")
    tale.fault(a1=1)
    for outcome in ("crashed", "released"):
        tale.tell(h.Finished(**tale.ref("t1")))
        tale.given_up("t1", outcome)
        tale.assigned("t1", "a1" if outcome == "crashed" else "a2")
    tale.succeeded("t1")


def started_twice(tale: Tale) -> None:
    tale.submitted("t1")
    tale.assigned("t1")
    tale.tell(h.Started(**tale.ref("t1")))
    tale.succeeded("t1")


def a_retry_that_nobody_asked_for(tale: Tale) -> None:
    a_retry_of_a_failure(tale)
    tale.drop(h.Retrying)


def a_retry_that_was_lost(tale: Tale) -> None:
    a_failure(tale)
    tale.tell(h.Retrying(task_id="t1"))
    tale.tell(h.Retried(task_id="t1", retry="t2"))


def a_retry_of_a_success(tale: Tale) -> None:
    tale.whole("t1")
    tale.tell(h.Retrying(task_id="t1"))
    tale.commit(("t2", {"key": None, "retry_of": "t1"}))
    tale.assigned("t2")
    tale.succeeded("t2")


def two_retries_of_one_task(tale: Tale) -> None:
    a_retry_of_a_failure(tale)
    tale.commit(("t3", {"key": None, "retry_of": "t1"}))
    tale.assigned("t3")
    tale.succeeded("t3")


def a_clients_result_that_nobody_gave(tale: Tale) -> None:
    a_task_that_its_client_finished(tale)
    tale.drop(h.Completing)
    tale.drop(h.Completed)


def a_clients_result_that_was_dropped(tale: Tale) -> None:
    tale.whole("t1")
    tale.tell(h.Completed(task_id="t1", changed=True))


def a_success_by_a_client_that_is_none(tale: Tale) -> None:
    tale.submitted("t1")
    tale.tell(h.Completing(task_id="t1"))
    tale.commit(("t1", {"op": "final", "state": "expired"}))
    tale.tell(h.Completed(task_id="t1", changed=False))


def an_agents_result_after_its_clients(tale: Tale) -> None:
    a_task_that_its_client_finished(tale)
    row = tale.of("t1")
    ends = (msgspec.structs.replace(row.ends[0], outcome="succeeded"),)
    tale.change(h.Row, -1, ends=ends)
    ref = tale.ref("t1")
    tale.tell(h.Reporting(verb="complete", **ref))
    tale.change(h.Reporting, at_ns=row.at_ns - 1)
    tale.tell(h.Recorded(verb="complete", **ref))


def a_requirement_that_is_not_met(tale: Tale) -> None:
    a_requirement_met(tale)
    tale.change(h.AgentBegan, 0, capabilities=("d",))


def given_out_in_a_pause(tale: Tale) -> None:
    tale.tell(h.Pausing(type=None))
    tale.tell(h.Paused(type=None))
    tale.whole("t1")


def given_out_in_a_pause_of_its_type(tale: Tale) -> None:
    a_pause(tale)
    tale.change(h.Pausing, type="other")
    tale.change(h.Paused, type="other")
    tale.change(h.Unpausing, type="other")
    tale.change(h.Unpaused, type="other")
    tale.drop(h.Row, 0)
    tale.drop(h.Submitted, 0)


def a_progress_of_nobody(tale: Tale) -> None:
    a_progress(tale)
    tale.change(h.Row, -2, progress=("t1", 1, "a2", "a2-i"))


def a_progress_of_another_task(tale: Tale) -> None:
    a_progress(tale)
    tale.change(h.Row, -2, progress=("t2", 1, "a1", "a1-i"))


def an_answer_that_nobody_gave(tale: Tale) -> None:
    an_answer(tale)
    tale.drop(h.Answering)


def an_answer_to_another_attempt(tale: Tale) -> None:
    an_answer(tale)
    tale.change(h.Heard, answer="t1/2")


def an_answer_heard_twice(tale: Tale) -> None:
    an_answer(tale)
    tale.tell(h.Heard(answer="t1/1", **tale.ref("t1")))


def an_answer_before_its_commit(tale: Tale) -> None:
    an_answer(tale)
    said = next(event for event in tale.events if isinstance(event, h.Answering))
    tale.change(h.Heard, at_ns=said.at_ns + 1)


def a_late_result_that_is_not_wanted(tale: Tale) -> None:
    a_late_result(tale)
    tale.change(h.Began, late_results="refuse")


def a_late_result_of_a_failure(tale: Tale) -> None:
    a_late_result(tale)
    tale.tell(h.Reporting(verb="fail", **tale.ref("t1")))
    tale.change(h.Reporting, -1, at_ns=tale.events[0].at_ns)
    for nth in (-1, -2):
        row = [event for event in tale.events if isinstance(event, h.Row)][nth]
        failed = (msgspec.structs.replace(row.ends[0], outcome="failed"), *row.ends[1:])
        tale.change(h.Row, nth, ends=failed, crashes=0 if nth == -2 else row.crashes)


PLANTED: Final[dict[str, tuple[Callable[[Tale], None], ...]]] = {
    "nothing_is_lost": (accepted_and_nowhere, accepted_and_forgotten, a_retry_that_was_lost),
    "nothing_is_invented": (nobody_asked, asked_after_it_was_there, a_retry_that_nobody_asked_for),
    "a_key_has_one_task": (two_tasks_of_one_key, two_answers_for_one_key),
    "final_is_final": (written_after_the_end, told_another_end),
    "the_current_attempt_has_the_result": (
        the_result_of_an_earlier_attempt,
        the_result_of_another_agent,
        the_result_of_an_earlier_incarnation,
    ),
    "attempts_rise_by_one": (a_number_is_left_out, an_attempt_begins_before_the_last_has_ended),
    "every_end_has_its_cause": (failed_without_a_word, declined_without_a_word),
    "budgets_are_kept": (
        more_attempts_than_allowed,
        a_miss_that_costs,
        a_crash_that_is_not_counted,
        a_poison_that_goes_on,
        given_up_too_early,
    ),
    "moves_are_legal": (a_move_that_is_none, a_version_that_falls),
    "answers_follow_the_commit": (
        recorded_before_the_commit,
        accepted_before_the_commit,
        offered_before_the_commit,
    ),
    "nothing_is_accepted_after_the_end": (
        recorded_after_a_cancellation,
        cancelled_and_yet_a_success,
        an_agents_result_after_its_clients,
    ),
    "slots_are_kept": (more_attempts_than_slots, more_handlers_than_slots),
    "concurrency_keys_are_kept": (more_than_the_key_allows, more_than_the_lowest_limit_allows),
    "priority_holds": (a_lower_priority_first, a_later_one_first),
    "epochs_rise": (an_epoch_that_falls, a_batch_that_is_left_out, a_write_of_a_fenced_owner),
    "agents_follow_the_highest_epoch": (an_offer_of_a_replaced_owner_is_started,),
    "the_backlog_drains": (a_backlog_that_takes_too_long, nobody_was_promised_it_but_it_stays),
    "only_faults_run_anything_twice": (
        run_again_without_a_fault,
        run_again_by_the_fault_of_another,
        run_again_long_after_the_fault,
        two_run_again_by_a_fault_for_one,
        started_twice,
    ),
    "a_retry_is_one_task": (a_retry_of_a_success, two_retries_of_one_task),
    "a_client_may_finish_a_task": (
        a_clients_result_that_nobody_gave,
        a_clients_result_that_was_dropped,
        a_success_by_a_client_that_is_none,
    ),
    "requirements_are_kept": (a_requirement_that_is_not_met,),
    "nothing_is_given_out_in_a_pause": (given_out_in_a_pause, given_out_in_a_pause_of_its_type),
    "progress_is_of_who_ran": (a_progress_of_nobody, a_progress_of_another_task),
    "answers_are_of_their_question": (
        an_answer_that_nobody_gave,
        an_answer_to_another_attempt,
        an_answer_heard_twice,
        an_answer_before_its_commit,
    ),
    "late_results_are_taken_where_they_are_wanted": (a_late_result_that_is_not_wanted, a_late_result_of_a_failure),
}


@pytest.mark.parametrize(("rule", "plant"), [(rule, plant) for rule, plants in PLANTED.items() for plant in plants])
def test_what_is_planted_is_found_by_its_rule_alone(rule: str, plant: Callable[[Tale], None]) -> None:
    tale = Tale()
    plant(tale)
    assert broken_by(tale) == {rule}


def test_every_rule_has_something_planted_for_it() -> None:
    assert set(PLANTED) == {rule.__name__ for rule in RULES}


def test_a_history_is_read_as_it_was_written_and_in_the_order_of_time(tmp_path: Path) -> None:
    tale = Tale()
    a_crash(tale)
    written = h.History(tmp_path / "history.jsonl")
    for event in reversed(tale.events):
        written.write(event)
    written.close()
    assert h.read(written.path) == tale.events


def test_a_fail_over_lasts_from_the_owners_death_to_the_next_ones_first_assignment() -> None:
    tale = Tale()
    tale.submitted("t1")
    died = tale.tell(h.FaultBegan(fault=1, kind="replica killed", target="r1"))
    tale.tell(h.FaultBegan(fault=2, kind="replica killed", target="a standby"))
    tale.epoch, tale.batch = 2, 0
    tale.tell(h.LeaseRow(sequence=tale.of("t1").sequence + 1, tx=99, epoch=2, batch=0, replica="r2"))
    tale.now_ns += 3_000_000_000
    tale.assigned("t1")
    given = tale.of("t1")
    assert failovers(h.in_order(tale.events)) == [(given.at_ns - died.at_ns) / 1e9]
