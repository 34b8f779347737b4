"""The session itself: one event in, effects out. The rules stand in the package's docstring."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from callboard.agents.session import effects as do
from callboard.agents.session import events as ev
from callboard.agents.session.delays import Delays
from callboard.agents.session.ledger import Held, Ledger
from callboard.agents.session.offers import ACCEPTED, CANCELLED, Offers
from callboard.agents.session.presence import Presence
from callboard.agents.session.questions import Questions
from callboard.agents.session.states import HANDLED, AttemptCause, AttemptState, Intent, Phase, PhaseCause
from callboard.schemas.errors import ErrorBody, IncarnationReplacedError, UnknownIncarnationError
from callboard.schemas.tasks import AttemptRef

LAST_WORDS_MS: Final = 1_000
"""How long handlers that were told to end, and reports, may take before the session leaves without them."""
LEAVE_TIMEOUT_MS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """What the session must know of its agent.

    Attributes:
        slots: how many handlers may be alive at once.
        types: the task types that have a handler; `None` takes any type.
        seed: of the jitter.
    """

    slots: int
    types: frozenset[str] | None
    seed: int


class Session:
    """One incarnation of an agent, from its start to its end."""

    def __init__(self, config: SessionConfig) -> None:
        delays = Delays(config.seed)
        self._presence = Presence(delays)
        self._ledger = Ledger(config.slots, delays)
        self._questions = Questions(delays)
        self._offers = Offers(config.types, self._presence, self._ledger)
        self._intent = Intent.SERVE
        self._stop_at_ms: int | None = None
        self._leave_at_ms: int | None = None
        self._now_ms = 0
        self._effects: list[do.Effect] = []

    @property
    def phase(self) -> Phase:
        """Where the session stands with the orchestrator."""
        return self._presence.phase

    @property
    def intent(self) -> Intent:
        """What our own process wants."""
        return self._intent

    @property
    def running(self) -> tuple[AttemptRef, ...]:
        """Every accepted attempt whose report is not answered."""
        return self._ledger.listed

    @property
    def handlers(self) -> int:
        """How many handlers are alive."""
        return self._ledger.handlers

    def handle(self, event: ev.Event, now_ms: int) -> list[do.Effect]:
        """What to do about `event`, in this order. `now_ms` is a monotonic clock's and never goes back."""
        self._now_ms = now_ms
        self._effects = []
        if self.phase is not Phase.GONE:
            self._METHODS[type(event)](self, event)
            self._advance()
        return self._effects

    def next_due_ms(self) -> int | None:
        """When to send `TimeAdvanced`, if nothing else happens before; `None` for never."""
        if self.phase is Phase.GONE:
            return None
        times = [self._presence.next_due_ms()]
        if self._may_report:
            times.append(self._ledger.next_due_ms())
            times.append(self._questions.next_due_ms())
        if self._intent is Intent.FINISH:
            times.append(self._stop_at_ms)
        if self.phase is not Phase.LEAVING:
            times.append(self._leave_at_ms)
        return min((time for time in times if time is not None), default=None)

    # What the clock brings, after every event.

    def _advance(self) -> None:
        if self.phase is Phase.GONE:
            return
        if self._presence.lease_ended(self._now_ms):
            self._do(self._presence.move(PhaseCause.LEASE_ENDED, f"no answer for {self._presence.lease_ms} ms"))
        if self._intent is Intent.FINISH and _reached(self._stop_at_ms, self._now_ms):
            self._stop_handlers()
        self._depart_if_done()
        request = self._presence.request(self._now_ms, running=lambda: self._ledger.listed, draining=self._draining)
        if request is not None:
            self._do(request)
        if self._may_report:
            self._do(*self._ledger.due_reports(self._now_ms))
            self._do(*self._ledger.due_progress(self._now_ms))
            self._do(*self._questions.due(self._now_ms))

    def _depart_if_done(self) -> None:
        if self.phase is Phase.LEAVING or self._intent is Intent.SERVE:
            return
        if self._ledger.has_work and not _reached(self._leave_at_ms, self._now_ms):
            return
        if self._presence.connected and self._presence.may_be_known:
            self._do(self._presence.move(PhaseCause.DEPARTED, "finished"), do.SendLeave("stopped", LEAVE_TIMEOUT_MS))
        else:
            self._exit(PhaseCause.LEFT, do.Exit(do.ExitCause.LEFT), "finished, and nobody to say it to")

    @property
    def _may_report(self) -> bool:
        return self.phase is Phase.SIGNED_IN and self._presence.connected

    @property
    def _draining(self) -> bool:
        return self._intent is not Intent.SERVE

    # The bus.

    def _on_connected(self, _event: ev.Started | ev.Reconnected) -> None:
        self._presence.connect(self._now_ms)
        self._hurry()

    def _hurry(self) -> None:
        self._ledger.hurry(self._now_ms)
        self._questions.hurry(self._now_ms)

    def _on_disconnected(self, _event: ev.Disconnected) -> None:
        self._presence.disconnect()

    # Registration and heartbeats.

    def _on_registered(self, event: ev.Registered) -> None:
        if not self._presence.is_current(event.call) or not self._presence.accept(event.answer, self._now_ms):
            return
        self._do(self._presence.move(PhaseCause.REGISTERED, f"registered, epoch {event.answer.epoch}"))
        self._cancel_all(event.answer.cancel)
        self._hurry()

    def _on_heartbeat_answered(self, event: ev.HeartbeatAnswered) -> None:
        if self._presence.is_current(event.call) and self._presence.accept(event.answer, self._now_ms):
            self._cancel_all(event.answer.cancel)

    def _on_unanswered(self, event: ev.RegisterUnanswered | ev.HeartbeatUnanswered) -> None:
        if self._presence.is_current(event.call):
            self._presence.fail(self._now_ms)

    def _on_register_refused(self, event: ev.RegisterRefused) -> None:
        if not self._presence.is_current(event.call):
            return
        if event.error.retryable:
            self._presence.fail(self._now_ms, event.error)
        else:
            self._remove(event.error)

    def _on_heartbeat_refused(self, event: ev.HeartbeatRefused) -> None:
        if not self._presence.is_current(event.call):
            return
        if event.error.code == IncarnationReplacedError.code:
            self._remove(event.error)
        elif event.error.code == UnknownIncarnationError.code and self.phase is Phase.SIGNED_IN:
            self._do(self._presence.forget(self._now_ms))
        else:
            self._presence.fail(self._now_ms, event.error)

    def _sign_in_again(self) -> None:
        if self.phase is Phase.SIGNED_IN:
            self._do(self._presence.forget(self._now_ms))

    def _remove(self, error: ErrorBody) -> None:
        replaced = error.code == IncarnationReplacedError.code
        cause = do.ExitCause.REPLACED if replaced else do.ExitCause.REFUSED
        self._exit(PhaseCause.REMOVED, do.Exit(cause, error), error.message)

    # Offers.

    def _on_offer(self, event: ev.OfferArrived) -> None:
        offer = event.offer
        if not self._presence.meet(offer.epoch, self._now_ms):
            return
        ref = AttemptRef(task_id=offer.task_id, attempt=offer.attempt)
        answer, begins = self._offers.answer(ref, offer.type, draining=self._draining, now_ms=self._now_ms)
        self._do(do.AnswerOffer(event.reply, answer))
        if begins:
            self._do(do.StartHandler(ref, offer))

    # Handlers and reports.

    def _on_handler_ended(self, event: ev.HandlerSucceeded | ev.HandlerFailed | ev.HandlerStopped) -> None:
        held = self._ledger.get(event.ref)
        if held is None or held.state not in HANDLED:
            return
        self._questions.close(event.ref)
        match event:
            case ev.HandlerSucceeded(result=result):
                self._ledger.finish(held, AttemptCause.SUCCEEDED, result, self._now_ms)
            case ev.HandlerFailed(error=error):
                self._ledger.finish(held, AttemptCause.FAILED, error, self._now_ms)
            case ev.HandlerStopped():
                self._ledger.finish(held, AttemptCause.STOPPED, None, self._now_ms)

    def _on_progress(self, event: ev.ProgressMade) -> None:
        if held := self._ledger.get(event.ref):
            self._ledger.note_progress(held, event.progress)

    def _on_asked(self, event: ev.QuestionAsked) -> None:
        held = self._ledger.get(event.ref)
        if held is not None and held.state is AttemptState.RUNNING:
            self._questions.ask(event, self._now_ms)

    def _on_query_recorded(self, event: ev.QueryRecorded) -> None:
        if self._questions.is_current(event.ref, event.call):
            self._questions.recorded(event.ref)

    def _on_query_unanswered(self, event: ev.QueryUnanswered) -> None:
        if self._questions.is_current(event.ref, event.call):
            self._questions.put_off(event.ref, self._now_ms)

    def _on_query_refused(self, event: ev.QueryRefused) -> None:
        if not self._questions.is_current(event.ref, event.call):
            return
        if event.error.code == UnknownIncarnationError.code:
            self._questions.put_off(event.ref, self._now_ms)
            self._sign_in_again()
        elif event.error.retryable:
            self._questions.put_off(event.ref, self._now_ms, event.error)
        else:
            self._answer(event.ref, self._questions.close(event.ref), event.error)

    def _on_answer(self, event: ev.AnswerArrived) -> None:
        # Whatever it is to: nobody else can use it, and it is sent until somebody says so.
        if self._obeys(event):
            self._answer(event.ref, self._questions.close(event.ref, event.query), event.answer)

    def _answer(self, ref: AttemptRef, query: int | None, answer: bytes | ErrorBody) -> None:
        if query is not None:
            self._do(do.GiveAnswer(ref, query, answer))

    def _on_recorded(self, event: ev.ReportRecorded) -> None:
        # Whichever call it answers: recorded is recorded.
        held = self._ledger.get(event.ref)
        if held is not None and held.state is AttemptState.REPORTING:
            self._ledger.move(held, AttemptCause.SETTLED)
            self._offers.remember(event.ref, ACCEPTED, now_ms=self._now_ms)

    def _on_report_refused(self, event: ev.ReportRefused) -> None:
        held = self._current(event)
        if held is None:
            return
        if event.error.code == IncarnationReplacedError.code:
            self._remove(event.error)
        elif event.error.code == UnknownIncarnationError.code:
            self._ledger.put_off(held, self._now_ms)
            self._sign_in_again()
        elif event.error.retryable:
            self._ledger.put_off(held, self._now_ms, event.error)
        else:
            self._ledger.refuse(held, event.error, self._now_ms)
            if held.state is AttemptState.ENDED:
                self._offers.remember(event.ref, CANCELLED, now_ms=self._now_ms)

    def _on_report_unanswered(self, event: ev.ReportUnanswered) -> None:
        if held := self._current(event):
            self._ledger.put_off(held, self._now_ms)

    def _current(self, event: ev.ReportRefused | ev.ReportUnanswered) -> Held | None:
        held = self._ledger.get(event.ref)
        return held if held is not None and held.call == event.call else None

    # Orders: the orchestrator's, and our own process's.

    def _obeys(self, event: ev.CancelArrived | ev.DrainArrived | ev.ShutdownArrived | ev.AnswerArrived) -> bool:
        """Whether the order comes of the pool's owner; if so it is acknowledged."""
        if not self._presence.meet(event.epoch, self._now_ms):
            return False
        self._do(do.Acknowledge(event.reply))
        return True

    def _on_cancel(self, event: ev.CancelArrived) -> None:
        if self._obeys(event):
            self._cancel_all([event.ref])

    def _cancel_all(self, refs: list[AttemptRef]) -> None:
        for ref in refs:
            self._offers.remember(ref, CANCELLED, now_ms=self._now_ms)
            held = self._ledger.get(ref)
            if held is None:
                continue
            if held.state is AttemptState.RUNNING:
                self._do(do.CancelHandler(ref))
            self._questions.close(ref)
            self._ledger.move(held, AttemptCause.CANCELLED)

    def _on_drain(self, event: ev.DrainArrived) -> None:
        if self._obeys(event):
            self._presence.operator_drains = True

    def _on_shutdown(self, event: ev.ShutdownArrived) -> None:
        if self._obeys(event):
            self._end_within(event.grace_ms)

    def _on_drain_requested(self, _event: ev.DrainRequested) -> None:
        self._raise_intent(Intent.FINISH)

    def _on_stop_requested(self, event: ev.StopRequested) -> None:
        self._end_within(event.grace_ms)

    def _on_abandon(self, _event: ev.AbandonRequested) -> None:
        self._exit(PhaseCause.REMOVED, do.Exit(do.ExitCause.ABANDONED), "abandoned")

    def _end_within(self, grace_ms: int) -> None:
        leave_at_ms = self._now_ms + max(grace_ms, LAST_WORDS_MS)
        if self._leave_at_ms is None or leave_at_ms < self._leave_at_ms:
            self._leave_at_ms = leave_at_ms
            self._stop_at_ms = leave_at_ms - LAST_WORDS_MS
        self._raise_intent(Intent.FINISH)

    def _raise_intent(self, intent: Intent) -> None:
        if intent > self._intent:
            if self._intent is Intent.SERVE and (unfinished := len(self._ledger.listed)):
                self._do(do.AnnounceEnding(unfinished))
            self._intent = intent
            self._presence.hurry(self._now_ms)

    def _stop_handlers(self) -> None:
        self._raise_intent(Intent.STOP)
        for held in self._ledger:
            if held.state is AttemptState.RUNNING:
                self._do(do.CancelHandler(held.ref))
            self._questions.close(held.ref)
            self._ledger.move(held, AttemptCause.STOP)

    def _on_leave_ended(self, _event: ev.LeaveEnded) -> None:
        if self.phase is Phase.LEAVING:
            self._exit(PhaseCause.LEFT, do.Exit(do.ExitCause.LEFT), "left")

    def _exit(self, cause: PhaseCause, exit_: do.Exit, why: str) -> None:
        self._do(*(do.CancelHandler(held.ref) for held in self._ledger if held.state is AttemptState.RUNNING))
        self._do(self._presence.move(cause, why), exit_)

    def _do(self, *wanted: do.Effect) -> None:
        self._effects.extend(wanted)

    _METHODS: ClassVar[dict[type[ev.Event], Callable[[Any, Any], None]]] = {
        ev.Started: _on_connected,
        ev.Reconnected: _on_connected,
        ev.Disconnected: _on_disconnected,
        ev.Registered: _on_registered,
        ev.RegisterRefused: _on_register_refused,
        ev.RegisterUnanswered: _on_unanswered,
        ev.HeartbeatAnswered: _on_heartbeat_answered,
        ev.HeartbeatRefused: _on_heartbeat_refused,
        ev.HeartbeatUnanswered: _on_unanswered,
        ev.OfferArrived: _on_offer,
        ev.HandlerSucceeded: _on_handler_ended,
        ev.HandlerFailed: _on_handler_ended,
        ev.HandlerStopped: _on_handler_ended,
        ev.ProgressMade: _on_progress,
        ev.QuestionAsked: _on_asked,
        ev.QueryRecorded: _on_query_recorded,
        ev.QueryRefused: _on_query_refused,
        ev.QueryUnanswered: _on_query_unanswered,
        ev.AnswerArrived: _on_answer,
        ev.ReportRecorded: _on_recorded,
        ev.ReportRefused: _on_report_refused,
        ev.ReportUnanswered: _on_report_unanswered,
        ev.CancelArrived: _on_cancel,
        ev.DrainArrived: _on_drain,
        ev.ShutdownArrived: _on_shutdown,
        ev.DrainRequested: _on_drain_requested,
        ev.StopRequested: _on_stop_requested,
        ev.AbandonRequested: _on_abandon,
        ev.LeaveEnded: _on_leave_ended,
        ev.TimeAdvanced: lambda _session, _event: None,
    }
    """Every event has its method; what time brings happens after each of them."""


def _reached(time_ms: int | None, now_ms: int) -> bool:
    return time_ms is not None and now_ms >= time_ms
