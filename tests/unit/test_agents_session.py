"""The rules of an agent's session, one story each."""

from enum import StrEnum
from itertools import pairwise

import pytest
from tests.support.session_rig import (
    INTERVAL_MS,
    LEASE_MS,
    Rig,
    heartbeat_answer,
    offer,
    ref,
    register_answer,
)

from callboard.agents.session import (
    ATTEMPTS,
    PHASES,
    AttemptCause,
    AttemptState,
    Phase,
    PhaseCause,
)
from callboard.agents.session import effects as do
from callboard.agents.session import events as ev
from callboard.agents.session.presence import REGISTER_TIMEOUT_MS
from callboard.agents.session.recent import LIMIT, Recent
from callboard.agents.session.states import moved
from callboard.schemas.agents import AssignAnswer
from callboard.schemas.errors import (
    IncarnationReplacedError,
    InvalidRequestError,
    OrchestratorError,
    PayloadTooLargeError,
    ResourceLimitError,
    StaleAttemptError,
    UnavailableError,
    UnknownIncarnationError,
)
from callboard.schemas.tasks import AttemptRef, Progress, TaskError

ONE, TWO, THREE = ref(1), ref(2), ref(3)


# Tables


@pytest.mark.parametrize(("table", "states"), [(PHASES, Phase), (ATTEMPTS, AttemptState)])
def test_every_state_is_present_and_reachable(table: dict[str, dict[str, str]], states: type[StrEnum]) -> None:
    assert set(table) == set(states)
    reached = {next(iter(table))} | {after for row in table.values() for after in row.values()}
    assert reached == set(states)


def test_final_states_have_no_way_out() -> None:
    assert not PHASES[Phase.GONE]
    assert not ATTEMPTS[AttemptState.ENDED]


def test_a_transition_that_is_not_in_the_table_tells_its_story() -> None:
    with pytest.raises(RuntimeError, match=r"session: no way from gone by registered"):
        moved(PHASES, Phase.GONE, PhaseCause.REGISTERED, "session")
    with pytest.raises(RuntimeError, match=r"x: no way from ended by succeeded"):
        moved(ATTEMPTS, AttemptState.ENDED, AttemptCause.SUCCEEDED, "x")


# Registration and heartbeats


def test_it_registers_at_once_and_then_beats_within_a_fifth_of_the_dictated_interval() -> None:
    rig = Rig()
    rig.tell(ev.Started())
    register = rig.only(do.SendRegister)
    assert register.running == ()
    rig.tell(ev.Registered(register.call, register_answer()))
    assert rig.session.phase is Phase.SIGNED_IN
    gaps = []
    for seq in range(1, 50):
        before = rig.now_ms
        beat = rig.beat()
        assert beat.seq == seq
        gaps.append(rig.now_ms - before)
        rig.tell(ev.HeartbeatAnswered(beat.call, heartbeat_answer()))
    assert all(0.8 * INTERVAL_MS <= gap <= 1.2 * INTERVAL_MS for gap in gaps)
    assert len(set(gaps)) > 30, "jitter"


def test_an_interval_of_nothing_does_not_make_it_spin() -> None:
    rig = Rig()
    rig.tell(ev.Started())
    rig.tell(ev.Registered(rig.only(do.SendRegister).call, register_answer(interval_ms=0)))
    before = rig.now_ms
    rig.beat()
    assert rig.now_ms - before >= 16


def test_a_refused_registration_is_repeated_with_back_off_when_it_may_pass() -> None:
    rig = Rig()
    rig.tell(ev.Started())
    limit = ResourceLimitError(retry_after_ms=9_000).body()
    rig.tell(ev.RegisterRefused(rig.only(do.SendRegister).call, limit))
    before = rig.now_ms
    rig.wait()
    assert rig.now_ms - before >= 9_000
    gaps = []
    for _ in range(12):
        rig.tell(ev.RegisterUnanswered(rig.only(do.SendRegister).call))
        before = rig.now_ms
        rig.wait()
        gaps.append(rig.now_ms - before)
    assert max(gaps) <= 7_500
    assert gaps[0] < 1_300 < min(gaps[-4:])


def test_a_registration_refused_for_good_ends_it() -> None:
    rig = Rig()
    rig.tell(ev.Started())
    rig.tell(ev.RegisterRefused(rig.only(do.SendRegister).call, InvalidRequestError("bad name").body()))
    assert rig.only(do.Exit) == do.Exit(do.ExitCause.REFUSED, InvalidRequestError("bad name").body())
    assert rig.session.next_due_ms() is None
    assert rig.tell(ev.Reconnected()) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_first_register_is_repeated_well_within_the_shortest_lease(seed: int) -> None:
    """Its answer may be what was lost: the orchestrator counts a lease, of a length not known here yet."""
    rig = Rig(seed=seed)
    rig.tell(ev.Started())
    sent_ms = [rig.now_ms]
    for _ in range(6):
        register = rig.only(do.SendRegister)
        rig.tell(ev.RegisterUnanswered(register.call), after_ms=register.timeout_ms)
        while not rig.all(do.SendRegister):
            rig.wait()
        sent_ms.append(rig.now_ms)
    pauses_ms = [later - earlier for earlier, later in pairwise(sent_ms)]
    assert sent_ms[2] - sent_ms[0] < LEASE_MS
    # Where nobody answers for long, it may be for want of time: less is asked.
    assert pauses_ms[-1] >= REGISTER_TIMEOUT_MS


def test_an_unknown_incarnation_registers_with_what_it_holds_and_repeats() -> None:
    rig = Rig().registered().holding(ONE, TWO)
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    call = rig.only(do.SendComplete).call
    rig.tell(ev.ReportRefused(ONE, call, UnknownIncarnationError().body()))
    rig.wait()
    register = rig.only(do.SendRegister)
    assert set(register.running) == {ONE, TWO}
    rig.tell(ev.Registered(register.call, register_answer()))
    assert rig.only(do.SendComplete).ref == ONE


def test_being_unknown_again_and_again_does_not_make_it_spin() -> None:
    rig = Rig().registered().holding(ONE)
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    began = rig.now_ms
    for _ in range(20):
        rig.tell(ev.ReportRefused(ONE, rig.only(do.SendComplete).call, UnknownIncarnationError().body()))
        if not rig.all(do.SendRegister):
            rig.wait()
        rig.tell(ev.Registered(rig.only(do.SendRegister).call, register_answer()))
    assert rig.now_ms - began > 1_500


def test_a_replaced_incarnation_stops_and_says_nothing_more() -> None:
    rig = Rig().registered().holding(ONE, TWO)
    rig.tell(ev.HandlerSucceeded(TWO, b"1"))
    beat = rig.beat()
    rig.tell(ev.HeartbeatRefused(beat.call, IncarnationReplacedError().body()))
    assert rig.only(do.CancelHandler).ref == ONE
    assert rig.only(do.Exit).cause is do.ExitCause.REPLACED
    assert not rig.all(do.SendLeave)
    assert rig.tell(ev.HandlerSucceeded(ONE, b"1")) == []


def test_an_answer_to_a_call_that_was_given_up_changes_nothing() -> None:
    rig = Rig()
    rig.tell(ev.Started())
    old = rig.only(do.SendRegister).call
    rig.tell(ev.Disconnected())
    rig.tell(ev.Reconnected())
    new = rig.only(do.SendRegister).call
    rig.tell(ev.Registered(old, register_answer()))
    rig.tell(ev.RegisterRefused(old, InvalidRequestError().body()))
    rig.tell(ev.RegisterUnanswered(old))
    assert rig.effects == []
    rig.tell(ev.Registered(new, register_answer()))
    assert rig.session.phase == Phase.SIGNED_IN


def test_a_heartbeat_goes_out_at_once_when_the_bus_is_back() -> None:
    rig = Rig().registered()
    rig.tell(ev.Disconnected(), after_ms=10)
    rig.tell(ev.Reconnected(), after_ms=10)
    rig.only(do.SendHeartbeat)


# Lease and epochs


def test_without_an_answer_for_a_lease_it_finishes_holds_the_result_and_takes_nothing() -> None:
    rig = Rig().registered().holding(ONE)
    answered = rig.now_ms
    rig.beat()
    while rig.session.phase is Phase.SIGNED_IN:
        for beat in rig.all(do.SendHeartbeat):
            rig.tell(ev.HeartbeatUnanswered(beat.call))
        rig.wait()
    assert rig.session.phase is Phase.LEASE_LOST
    assert rig.now_ms - answered == LEASE_MS
    assert rig.offered(TWO) == AssignAnswer(accepted=False, reason="lease_lost")
    assert not rig.all(do.CancelHandler)
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    assert not rig.all(do.SendComplete), "held"
    register = None
    while register is None:
        rig.wait()
        for beat in rig.all(do.SendHeartbeat):
            rig.tell(ev.HeartbeatUnanswered(beat.call))
        register = next(iter(rig.all(do.SendRegister)), None)
    assert register.running == (ONE,)
    rig.tell(ev.Registered(register.call, register_answer()))
    assert rig.only(do.SendComplete) == do.SendComplete(ONE, 1, b"1", 5_000)


def test_lower_epochs_are_not_even_answered() -> None:
    rig = Rig().registered(epoch=5)
    assert rig.tell(ev.OfferArrived("r", offer(ONE, epoch=4))) == []
    assert rig.tell(ev.CancelArrived("r", 4, ONE)) == []
    assert rig.tell(ev.DrainArrived("r", 4)) == []
    assert rig.tell(ev.ShutdownArrived("r", 4, 0)) == []
    assert rig.offered(ONE, epoch=6).accepted
    assert rig.tell(ev.OfferArrived("r", offer(TWO, epoch=5))) == []


def test_an_old_owners_heartbeat_answer_does_not_renew_the_lease() -> None:
    rig = Rig().registered(epoch=5)
    while rig.session.phase is Phase.SIGNED_IN:
        for beat in rig.all(do.SendHeartbeat):
            rig.tell(ev.HeartbeatAnswered(beat.call, heartbeat_answer(epoch=4)))
        rig.wait()
    assert rig.session.phase is Phase.LEASE_LOST


def test_an_epoch_that_starts_anew_is_taken_once_the_lease_is_lost() -> None:
    rig = Rig().registered(epoch=5).lose_lease()
    rig.tell(ev.Reconnected())
    rig.tell(ev.Registered(rig.only(do.SendRegister).call, register_answer(epoch=1)))
    assert rig.session.phase is Phase.SIGNED_IN
    assert rig.offered(ONE, epoch=1).accepted


def test_the_lease_counts_from_the_sending_of_what_was_answered() -> None:
    rig = Rig().registered()
    beat = rig.beat()
    sent_ms = rig.now_ms
    rig.tell(ev.HeartbeatAnswered(beat.call, heartbeat_answer()), after_ms=700)
    rig.lose_lease()
    assert rig.now_ms - sent_ms == LEASE_MS


def test_an_unanswered_heartbeat_is_repeated_long_before_its_interval() -> None:
    rig = Rig().registered()
    rig.tell(ev.HeartbeatUnanswered(rig.beat().call))
    before = rig.now_ms
    rig.beat()
    assert rig.now_ms - before <= INTERVAL_MS / 3


def test_a_heartbeat_answered_after_the_lease_is_lost_shows_that_somebody_is_there() -> None:
    rig = Rig().registered()
    beat = rig.beat()
    while rig.session.phase is Phase.SIGNED_IN:
        rig.wait()
    rig.tell(ev.HeartbeatAnswered(beat.call, heartbeat_answer()))
    rig.only(do.SendRegister)


def test_who_asks_an_owner_that_fell_silent_asks_its_successor_within_one_lease_of_it() -> None:
    for seed in range(200):
        rig = Rig(seed=seed).registered().holding(ONE)
        rig.beat()
        while rig.session.phase is not Phase.LEASE_LOST:  # each request is heard by the silent one alone
            pending = rig.all(do.SendHeartbeat)
            if pending:
                rig.tell(ev.HeartbeatUnanswered(pending[0].call), after_ms=pending[0].timeout_ms)
            else:
                rig.wait()
        while not rig.all(do.SendRegister):
            rig.wait()
        register = rig.only(do.SendRegister)
        taken_over_ms = rig.now_ms + 1
        rig.tell(ev.RegisterUnanswered(register.call), after_ms=register.timeout_ms)
        while not rig.all(do.SendRegister):
            rig.wait()
        assert rig.now_ms < taken_over_ms + LEASE_MS


@pytest.mark.parametrize("order", ["assign", "cancel"])
def test_an_order_of_a_new_owner_ends_the_wait_for_the_answer_of_the_old_one(order: str) -> None:
    rig = Rig().registered()
    beat = rig.beat()
    if order == "assign":
        rig.tell(ev.OfferArrived("reply", offer(ONE, epoch=2)))
    else:
        rig.tell(ev.CancelArrived("reply", 2, ONE))
    assert rig.only(do.SendHeartbeat).seq == beat.seq + 1


def test_an_order_of_the_same_owner_leaves_its_answer_to_come() -> None:
    rig = Rig().registered()
    rig.beat()
    rig.tell(ev.CancelArrived("reply", 1, ONE))
    assert rig.all(do.SendHeartbeat) == []


# Offers


def test_the_same_offer_gets_the_same_answer_and_runs_once() -> None:
    rig = Rig(slots=1).registered()
    assert rig.offered(ONE).accepted
    rig.only(do.StartHandler)
    busy = rig.offered(TWO)
    assert busy == AssignAnswer(accepted=False, reason="busy")
    assert rig.offered(ONE).accepted
    assert not rig.all(do.StartHandler)
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    assert rig.offered(ONE).accepted
    assert not rig.all(do.StartHandler)
    rig.tell(ev.ReportRecorded(ONE))
    assert rig.offered(ONE).accepted
    assert not rig.all(do.StartHandler)
    assert rig.offered(TWO) == busy, "though there is a slot by now"
    assert rig.offered(ref(2, attempt=2)).accepted, "another attempt is another offer"


def test_reasons_to_decline() -> None:
    rig = Rig().registered()
    assert rig.offered(ONE, task_type="write") == AssignAnswer(accepted=False, reason="unsupported")
    rig.tell(ev.DrainArrived("r", 1))
    assert rig.only(do.Acknowledge).reply == "r"
    assert rig.offered(TWO) == AssignAnswer(accepted=False, reason="draining")
    beat = rig.only(do.SendHeartbeat)
    assert not beat.draining, "that is the operator's wish, not ours"
    rig.tell(ev.HeartbeatAnswered(beat.call, heartbeat_answer(drain=False)))
    assert rig.offered(THREE).accepted, "resumed"


def test_an_agent_for_any_type_supports_all() -> None:
    assert Rig(types=None).registered().offered(ONE, task_type="whatever").accepted


def test_an_offer_may_overtake_the_answer_to_the_registration() -> None:
    rig = Rig()
    rig.tell(ev.Started())
    assert rig.offered(ONE).accepted


def test_an_offer_may_overtake_the_answer_to_the_report_before_it() -> None:
    rig = Rig(slots=1).registered().holding(ONE)
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    assert rig.offered(TWO).accepted
    rig.tell(ev.HandlerSucceeded(TWO, b"1"))
    assert rig.offered(THREE).reason == "busy", "but what is held stays bounded"


# Reports


@pytest.mark.parametrize("error", [UnavailableError(retry_after_ms=4_000), None])
def test_reports_are_repeated_until_recorded(error: OrchestratorError | None) -> None:
    rig = Rig().registered().holding(ONE)
    rig.tell(ev.HandlerFailed(ONE, TaskError(message="no")))
    for _ in range(5):
        call = rig.only(do.SendFail).call
        rig.tell(ev.ReportRefused(ONE, call, error.body()) if error else ev.ReportUnanswered(ONE, call))
        before = rig.now_ms
        while not rig.all(do.SendFail):
            for beat in rig.all(do.SendHeartbeat):
                assert beat.running == (ONE,)
                rig.tell(ev.HeartbeatAnswered(beat.call, heartbeat_answer()))
            rig.wait()
        if error is not None:
            assert rig.now_ms - before >= 4_000
    rig.tell(ev.ReportRecorded(ONE))
    assert rig.session.running == ()


@pytest.mark.parametrize("error", [InvalidRequestError("too deep"), PayloadTooLargeError("too large")])
def test_a_refused_result_becomes_a_failure(error: OrchestratorError) -> None:
    rig = Rig().registered().holding(ONE)
    rig.tell(ev.HandlerSucceeded(ONE, b"[]"))
    rig.tell(ev.ReportRefused(ONE, rig.only(do.SendComplete).call, error.body()))
    fail = rig.only(do.SendFail)
    assert fail.error == TaskError(type="result_refused", message=error.message, retryable=False)
    rig.tell(ev.ReportRefused(ONE, fail.call, error.body()))
    assert rig.session.running == (), "refused twice: dropped, and the orchestrator notices"


def test_a_report_is_not_sent_twice_while_its_answer_may_come() -> None:
    rig = Rig().registered().holding(ONE)
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    rig.only(do.SendComplete)
    rig.beat()
    assert not rig.all(do.SendComplete)


def test_a_stale_attempt_is_dropped_and_declined_from_then_on() -> None:
    rig = Rig().registered().holding(ONE)
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    rig.tell(ev.ReportRefused(ONE, rig.only(do.SendComplete).call, StaleAttemptError().body()))
    assert rig.session.running == ()
    assert rig.offered(ONE) == AssignAnswer(accepted=False, reason="cancelled")


def test_progress_is_thinned_out_and_the_latest_wins() -> None:
    rig = Rig().registered().holding(ONE)
    for percent in range(10):
        rig.tell(ev.ProgressMade(ONE, Progress(percent=percent)))
        assert len(rig.all(do.SendProgress)) == (percent == 0)
    while not rig.all(do.SendProgress):
        rig.wait()
    assert rig.only(do.SendProgress).progress == Progress(percent=9)
    rig.tell(ev.ProgressMade(ONE, Progress(percent=10)))
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    assert not rig.all(do.SendProgress), "the report says it all"


# Cancel


def test_after_a_cancel_nothing_more_is_said_of_the_attempt() -> None:
    rig = Rig(slots=1).registered().holding(ONE)
    rig.tell(ev.CancelArrived("r", 1, ONE))
    rig.only(do.Acknowledge)
    assert rig.only(do.CancelHandler).ref == ONE
    assert rig.session.running == ()
    busy = rig.offered(TWO)
    assert (busy.reason, busy.retry_after_ms) == ("busy", 100), "its handler still has the slot, not for long"
    rig.tell(ev.CancelArrived("r", 1, ONE))
    assert not rig.all(do.CancelHandler)
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    assert not rig.all(do.SendComplete)
    assert rig.offered(ONE) == AssignAnswer(accepted=False, reason="cancelled")
    assert rig.offered(THREE).accepted


def test_a_handler_that_does_not_end_when_told_to_is_asked_after_less_and_less_often() -> None:
    rig = Rig(slots=1).registered().holding(ONE)
    rig.tell(ev.CancelArrived("r", 1, ONE))
    pauses = [rig.offered(AttemptRef(task_id=TWO.task_id, attempt=n)).retry_after_ms for n in range(10, 18)]
    assert pauses == [100, 200, 400, 800, 1600, 3200, 5000, 5000]
    rig.tell(ev.HandlerStopped(ONE))
    assert rig.offered(THREE).accepted


def test_a_cancel_may_overtake_its_offer() -> None:
    rig = Rig().registered()
    rig.tell(ev.CancelArrived("r", 1, ONE))
    rig.only(do.Acknowledge)
    assert rig.offered(ONE) == AssignAnswer(accepted=False, reason="cancelled")
    rig.tell(ev.TimeAdvanced(), after_ms=LEASE_MS - 1)
    assert rig.offered(ONE) == AssignAnswer(accepted=False, reason="cancelled")


@pytest.mark.parametrize("how", ["register", "heartbeat"])
def test_what_is_listed_and_not_wanted_comes_back_to_be_cancelled(how: str) -> None:
    rig = Rig().registered().holding(ONE, TWO)
    rig.tell(ev.HandlerSucceeded(TWO, b"1"))
    late = rig.only(do.SendComplete)
    if how == "heartbeat":
        beat = rig.beat()
        rig.tell(ev.HeartbeatAnswered(beat.call, heartbeat_answer(cancel=(ONE, TWO))))
    else:
        rig.tell(ev.ReportRefused(TWO, late.call, UnknownIncarnationError().body()))
        if not rig.all(do.SendRegister):
            rig.wait()
        rig.tell(ev.Registered(rig.only(do.SendRegister).call, register_answer(cancel=(ONE, TWO))))
    assert rig.only(do.CancelHandler).ref == ONE
    assert not rig.all(do.SendComplete)
    assert rig.session.running == ()
    rig.tell(ev.ReportRecorded(TWO))
    rig.tell(ev.ReportUnanswered(TWO, late.call))
    assert rig.effects == []


# The end


def test_a_drain_finishes_has_everything_recorded_and_leaves() -> None:
    rig = Rig().registered().holding(ONE)
    rig.tell(ev.DrainRequested())
    assert rig.only(do.SendHeartbeat).draining
    assert rig.offered(TWO) == AssignAnswer(accepted=False, reason="draining")
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    rig.only(do.SendComplete)
    assert not rig.all(do.SendLeave)
    rig.tell(ev.ReportRecorded(ONE))
    rig.only(do.SendLeave)
    assert rig.offered(THREE).reason == "draining"
    rig.tell(ev.LeaveEnded())
    assert rig.only(do.Exit) == do.Exit(do.ExitCause.LEFT)
    assert rig.session.next_due_ms() is None


def test_who_is_to_end_and_still_works_says_so_once() -> None:
    rig = Rig().registered().holding(ONE, TWO)
    rig.tell(ev.DrainRequested())
    assert rig.only(do.AnnounceEnding) == do.AnnounceEnding(unfinished=2)
    rig.tell(ev.StopRequested())
    assert not rig.all(do.AnnounceEnding)


def test_who_only_winds_down_what_was_cancelled_has_nothing_to_finish() -> None:
    rig = Rig().registered().holding(ONE)
    rig.tell(ev.CancelArrived("r", 1, ONE))
    rig.tell(ev.DrainRequested())
    assert not rig.all(do.AnnounceEnding)


def test_who_is_to_end_and_has_nothing_to_do_just_goes() -> None:
    rig = Rig().registered()
    rig.tell(ev.DrainRequested())
    assert not rig.all(do.AnnounceEnding)
    rig.only(do.SendLeave)


def test_a_drain_before_anybody_knew_us_just_ends() -> None:
    rig = Rig()
    rig.tell(ev.DrainRequested())
    assert rig.only(do.Exit).cause is do.ExitCause.LEFT


def test_a_shutdown_lets_handlers_finish_within_its_grace() -> None:
    rig = Rig().registered().holding(ONE, TWO)
    rig.tell(ev.ShutdownArrived("r", 1, 10_000))
    rig.only(do.Acknowledge)
    assert not rig.all(do.CancelHandler)
    began = rig.now_ms
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    rig.tell(ev.ReportRecorded(ONE))
    while not rig.all(do.CancelHandler):
        for beat in rig.all(do.SendHeartbeat):
            assert beat.draining
            rig.tell(ev.HeartbeatAnswered(beat.call, heartbeat_answer()))
        rig.wait()
    assert rig.now_ms - began == 9_000
    assert rig.only(do.CancelHandler).ref == TWO
    assert rig.session.running == (TWO,), "released by leave, not crashed by being unlisted"
    rig.tell(ev.HandlerStopped(TWO))
    rig.only(do.SendLeave)


def test_a_stop_still_reports_what_ends_in_time_and_does_not_wait_for_more() -> None:
    rig = Rig().registered().holding(ONE, TWO)
    rig.tell(ev.StopRequested())
    assert {cancel.ref for cancel in rig.all(do.CancelHandler)} == {ONE, TWO}
    began = rig.now_ms
    rig.tell(ev.HandlerSucceeded(ONE, b"1"))
    rig.only(do.SendComplete)
    while not rig.all(do.SendLeave):
        rig.wait()
    assert rig.now_ms - began == 1_000
    rig.tell(ev.LeaveEnded())
    assert rig.only(do.Exit).cause is do.ExitCause.LEFT


def test_a_handler_that_fails_of_being_stopped_is_given_back_not_failed() -> None:
    rig = Rig().registered().holding(ONE)
    rig.tell(ev.StopRequested())
    rig.tell(ev.HandlerFailed(ONE, TaskError(message="interrupted")))
    assert not rig.all(do.SendFail)
    rig.only(do.SendLeave)


def test_a_second_wish_to_end_can_only_be_more_urgent() -> None:
    rig = Rig().registered().holding(ONE)
    rig.tell(ev.StopRequested(grace_ms=60_000))
    rig.tell(ev.ShutdownArrived("r", 1, 90_000))
    rig.tell(ev.DrainRequested())
    rig.tell(ev.StopRequested())
    assert rig.only(do.CancelHandler).ref == ONE


# Memory


def test_the_memory_of_answers_is_bounded_in_time_and_number() -> None:
    recent = Recent()
    answer = AssignAnswer(accepted=True)
    for number in range(LIMIT + 100):
        recent.remember(ref(number), answer, now_ms=0, keep_ms=1_000)
    assert len(recent) == LIMIT
    assert recent.answer(ref(99), now_ms=0) is None
    assert recent.answer(ref(100), now_ms=999) == answer
    assert recent.answer(ref(100), now_ms=1_000) is None
    recent.remember(ref(0), answer, now_ms=1_000, keep_ms=1_000)
    assert len(recent) == 1
