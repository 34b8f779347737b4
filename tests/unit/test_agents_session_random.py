"""Anything may happen to a session, in any order: the invariants hold after every step.

The model beside it knows only what went over the wire and which handlers were started; it judges, it does not predict.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from tests.support.session_rig import Rig, heartbeat_answer, offer, ref, register_answer

from callboard.agents.session import Phase
from callboard.agents.session import effects as do
from callboard.agents.session import events as ev
from callboard.schemas.errors import (
    IncarnationReplacedError,
    InvalidRequestError,
    PayloadTooLargeError,
    StaleAttemptError,
    UnavailableError,
    UnknownIncarnationError,
)
from callboard.schemas.tasks import AttemptRef, Progress, TaskError

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 400
REPEATED_WITHIN_MS = 20_000
MAY_PASS = (UnavailableError, UnknownIncarnationError)
FOR_GOOD = (StaleAttemptError, InvalidRequestError, PayloadTooLargeError)


class Model:
    """What an onlooker knows."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.slots = rng.randint(1, 4)
        self.rig = Rig(slots=self.slots, types=None, seed=rng.randrange(2**64))
        self.alive: set[AttemptRef] = set()
        self.started: set[AttemptRef] = set()
        self.told_to_end: set[AttemptRef] = set()
        self.accepted: set[AttemptRef] = set()
        self.unwanted: set[AttemptRef] = set()
        self.recorded: set[AttemptRef] = set()
        self.answers: dict[AttemptRef, bool] = {}
        self.offered_ms: dict[AttemptRef, int] = {}
        self.calls: list[do.SendRegister | do.SendHeartbeat] = []
        self.reports: list[do.SendComplete | do.SendFail] = []
        self.open_report: dict[AttemptRef, int] = {}
        self.epoch = 1
        self.seq = 0
        self.numbers = 0
        self.leaving = False
        self.exited = False
        self.connected = False

    def tell(self, event: ev.Event, *, after_ms: int = 0) -> None:
        for effect in self.rig.tell(event, after_ms=after_ms):
            assert not self.exited, f"{effect} after Exit"
            self.see(effect)
        session = self.rig.session
        assert session.handlers <= self.slots
        assert len(session.running) <= 2 * self.slots
        # Listed is exactly what was accepted, is not answered, and is still wanted.
        if not self.exited:
            assert len(self.alive) == session.handlers
            assert set(session.running) == self.accepted - self.recorded - self.unwanted
            due_ms = session.next_due_ms()
            assert due_ms is None or due_ms > self.rig.now_ms, "asks for a time that has been"

    def see(self, effect: do.Effect) -> None:
        match effect:
            case do.StartHandler(ref=which):
                assert which not in self.started, "ran twice"
                assert which not in self.unwanted, "ran after a cancel"
                self.started.add(which)
                self.alive.add(which)
            case do.CancelHandler(ref=which):
                assert which in self.alive
                assert which not in self.told_to_end, "told twice"
                self.told_to_end.add(which)
            case do.SendComplete(ref=which, call=call) | do.SendFail(ref=which, call=call):
                assert self.connected
                assert self.rig.session.phase is Phase.SIGNED_IN
                assert which not in self.alive
                assert which in self.accepted - self.recorded - self.unwanted
                self.reports.append(effect)
                self.open_report[which] = call
            case do.SendProgress(ref=which):
                assert which in self.alive - self.unwanted
            case do.SendRegister(running=running) | do.SendHeartbeat(running=running):
                assert self.connected
                assert set(running) == self.accepted - self.recorded - self.unwanted
                if isinstance(effect, do.SendHeartbeat):
                    assert effect.seq == self.seq + 1
                    self.seq = effect.seq
                self.calls.append(effect)
            case do.SendLeave():
                assert not self.leaving
                self.leaving = True
            case do.Exit():
                self.exited = True
            case _:
                pass

    # What may happen.

    def offer(self) -> None:
        # Offers are repeated within seconds; the memory of them is bounded to more than that.
        known = [which for which, at_ms in self.offered_ms.items() if self.rig.now_ms - at_ms < REPEATED_WITHIN_MS]
        if known and self.rng.random() < 0.3:
            which = self.rng.choice(known)
        else:
            self.numbers += 1
            which = ref(self.numbers)
        epoch = self.epoch - (self.rng.random() < 0.1)
        before = set(self.started)
        event = ev.OfferArrived("r", offer(which, epoch=epoch))
        # Accepted is what is answered so; the model must know before the invariants are checked.
        effects = self.rig.session.handle(event, self.rig.now_ms)
        for effect in effects:
            if isinstance(effect, do.AnswerOffer):
                accepted = effect.answer.accepted
                if which in self.answers and which not in self.unwanted:
                    assert accepted == self.answers[which], "another answer to the same offer"
                if which in self.unwanted:
                    assert not accepted
                self.answers[which] = accepted
                self.offered_ms.setdefault(which, self.rig.now_ms)
                if accepted and which not in before:
                    self.accepted.add(which)
        for effect in effects:
            self.see(effect)
        self.tell(ev.TimeAdvanced())

    def handler_ends(self) -> None:
        if not self.alive:
            return
        which = self.rng.choice(sorted(self.alive, key=str))
        self.alive.discard(which)
        ends: list[ev.Event] = [ev.HandlerSucceeded(which, b"1"), ev.HandlerFailed(which, TaskError(message="no"))]
        if which in self.told_to_end:
            ends.append(ev.HandlerStopped(which))
        self.tell(self.rng.choice(ends))

    def progress(self) -> None:
        if self.started:
            self.tell(ev.ProgressMade(self.rng.choice(sorted(self.started, key=str)), Progress(percent=1)))

    def call_ends(self) -> None:
        if not self.calls:
            return
        call = self.calls.pop(self.rng.randrange(len(self.calls)))
        cancel = tuple(which for which in call.running if self.rng.random() < 0.1)
        drain = self.rng.random() < 0.1
        epoch = self.epoch - (self.rng.random() < 0.1)
        # An answer to a call that was given up is ignored, and so is one of an older owner: then nothing is cancelled.
        presence = self.rig.session._presence
        heeded = presence.is_current(call.call) and (
            epoch >= presence.epoch or (isinstance(call, do.SendRegister) and presence.phase is Phase.LEASE_LOST)
        )
        kind = self.rng.random()
        if isinstance(call, do.SendRegister):
            if kind < 0.7:
                self.unwanted |= set(cancel) if heeded else set()
                self.tell(ev.Registered(call.call, register_answer(epoch=epoch, cancel=cancel, drain=drain)))
            else:
                refused = ev.RegisterRefused(call.call, UnavailableError().body())
                self.tell(ev.RegisterUnanswered(call.call) if kind < 0.9 else refused)
        elif kind < 0.7:
            self.unwanted |= set(cancel) if heeded else set()
            self.tell(ev.HeartbeatAnswered(call.call, heartbeat_answer(epoch=epoch, cancel=cancel, drain=drain)))
        elif kind < 0.9:
            self.tell(ev.HeartbeatUnanswered(call.call))
        else:
            self.tell(ev.HeartbeatRefused(call.call, self.rng.choice(MAY_PASS)().body()))

    def replaced(self) -> None:
        for call in self.calls:
            if isinstance(call, do.SendHeartbeat):
                self.tell(ev.HeartbeatRefused(call.call, IncarnationReplacedError().body()))
                return

    def report_ends(self) -> None:
        if not self.reports:
            return
        report = self.reports.pop(self.rng.randrange(len(self.reports)))
        kind = self.rng.random()
        held = self.rig.session._ledger.get(report.ref)
        current = held is not None and held.call == report.call
        if kind < 0.5:
            if report.ref not in self.unwanted:
                self.recorded.add(report.ref)
            self.tell(ev.ReportRecorded(report.ref))
        elif kind < 0.7:
            self.tell(ev.ReportUnanswered(report.ref, report.call))
        elif kind < 0.85:
            self.tell(ev.ReportRefused(report.ref, report.call, self.rng.choice(MAY_PASS)().body()))
        else:
            error = self.rng.choice(FOR_GOOD)
            becomes_failure = isinstance(report, do.SendComplete) and error is not StaleAttemptError
            if current and not becomes_failure:
                self.unwanted.add(report.ref)
            self.tell(ev.ReportRefused(report.ref, report.call, error().body()))

    def cancel(self) -> None:
        known = [*self.answers, ref(self.numbers + 1)]
        which = self.rng.choice(known)
        if self.epoch >= self.rig.session._presence.epoch and not self.exited:
            self.unwanted.add(which)
        self.answers.setdefault(which, False)
        self.tell(ev.CancelArrived("r", self.epoch, which))

    def time(self) -> None:
        due_ms = self.rig.session.next_due_ms()
        longest = max(1, (due_ms or self.rig.now_ms) - self.rig.now_ms)
        self.tell(ev.TimeAdvanced(), after_ms=self.rng.choice([1, longest, longest, 50, 700]))

    def connection(self) -> None:
        self.connected = not self.connected
        self.calls.clear()
        change: ev.Event = ev.Reconnected() if self.connected else ev.Disconnected()
        self.tell(change)

    def owner_changes(self) -> None:
        self.epoch += 1

    def drain(self) -> None:
        self.tell(ev.DrainArrived("r", self.epoch))

    def end(self) -> None:
        wishes: list[ev.Event] = [ev.DrainRequested(), ev.StopRequested(), ev.ShutdownArrived("r", self.epoch, 2_000)]
        self.tell(self.rng.choice(wishes))

    def leave_ends(self) -> None:
        if self.leaving:
            self.tell(ev.LeaveEnded())


@pytest.mark.parametrize("seed", range(150))
def test_whatever_happens_the_invariants_hold(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - a replayable run
    model = Model(rng)
    model.connected = True
    model.tell(ev.Started())
    weighted: list[tuple[Callable[[], None], float]] = [
        (model.offer, 10),
        (model.handler_ends, 8),
        (model.progress, 2),
        (model.call_ends, 10),
        (model.report_ends, 8),
        (model.cancel, 1),
        (model.time, 12),
        (model.connection, 0.5),
        (model.owner_changes, 0.2),
        (model.drain, 0.2),
        (model.replaced, 0.1),
        (model.end, 0.1),
        (model.leave_ends, 1),
    ]
    actions, weights = zip(*weighted, strict=True)
    for _ in range(STEPS):
        rng.choices(actions, weights)[0]()


@pytest.mark.parametrize("seed", range(20))
def test_a_drain_always_comes_to_its_end(seed: int) -> None:
    """Whatever happened before: once the orchestrator answers all, a draining session records all and leaves."""
    rng = random.Random(seed)  # noqa: S311 - a replayable run
    model = Model(rng)
    model.connected = True
    model.tell(ev.Started())
    for _ in range(STEPS):
        rng.choice([model.offer, model.handler_ends, model.call_ends, model.report_ends, model.time])()
    model.tell(ev.DrainRequested())
    for _ in range(STEPS):
        if model.exited:
            break
        while model.alive:
            model.handler_ends()
        for call in model.calls[:]:
            model.calls.remove(call)
            if isinstance(call, do.SendRegister):
                model.tell(ev.Registered(call.call, register_answer(epoch=model.epoch)))
            else:
                model.tell(ev.HeartbeatAnswered(call.call, heartbeat_answer(epoch=model.epoch)))
        for report in model.reports[:]:
            model.reports.remove(report)
            if report.ref not in model.unwanted:
                model.recorded.add(report.ref)
            model.tell(ev.ReportRecorded(report.ref))
        model.leave_ends()
        if not model.exited:
            model.time()
    assert model.exited
    assert model.accepted <= model.recorded | model.unwanted
