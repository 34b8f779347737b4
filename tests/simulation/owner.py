"""A replica that owns the pool, as the orchestrator's own does (`callboard.orchestrator.owner`).

Events are decided, one commit is open at a time, effects come after it and only while the lease is trusted: by the
product's own `Trust`, on the replica's clock. Without trust, database or bus the owner is passive. What it decides is
watched, see `watch`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from tests.simulation.database import LEASE_MS, AwayError
from tests.simulation.hand import RETRY_MS, Hand
from tests.simulation.press import Press
from tests.simulation.watch import Watch
from tests.support.core_rig import POOL

from callboard.agents.session import events as av
from callboard.orchestrator.announcements import told_by
from callboard.orchestrator.clock import PoolClock
from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.changes import Snapshot, WindowAsked
from callboard.orchestrator.core.effects import Announcement, Batch, Effect
from callboard.orchestrator.core.machine import Machine
from callboard.orchestrator.core.restore import restore
from callboard.orchestrator.core.settings import CoreSettings
from callboard.orchestrator.settling import settle
from callboard.orchestrator.store.port import Committed, Lease, OfferContent
from callboard.orchestrator.trust import Trust
from callboard.schemas.agents import Assign, HeartbeatAnswer
from callboard.schemas.errors import KeyConflictError, OutcomeUnknownError, UnavailableError
from callboard.schemas.events import Change
from callboard.schemas.tasks import AttemptRef, SubmitAnswer
from callboard.schemas.vocabulary import DatabaseHealth

if TYPE_CHECKING:
    from tests.simulation.bus import Message
    from tests.simulation.replica import Replica

SETTINGS: Final = CoreSettings(
    least_lane=2,
    far_ms=500,
    heartbeat_interval_ms=1_000,
    offer_repeats_ms=(500, 1_000, 2_000),
    batch_tasks=4,
    forget_agents_ms=8_000,
    quarantine_failures=4,
    probe_after_ms=1_000,
    probe_after_most_ms=4_000,
)
TURN_MS: Final = 500
"""A turn comes at least so often."""
STALL_S: Final = 1.5


class Ticket:
    """A request in the machine's hands: answered once, by whom it was put to."""

    __slots__ = ("_answer", "_owner", "is_open")

    def __init__(self, owner: "Owner", answer: Callable[[object, str], None]) -> None:
        self._owner, self._answer, self.is_open = owner, answer, True
        owner.tickets[self] = None

    def tell(self, message: object) -> None:
        """Answer, unless that was done."""
        if self.is_open:
            self.is_open = False
            del self._owner.tickets[self]
            self._answer(message, self._owner.replica.name)


class Owner:
    """One lease's time."""

    def __init__(self, replica: "Replica", lease: Lease, began_s: float, snapshot: Snapshot) -> None:
        around = replica.around
        self.replica, self.lease = replica, lease
        self.is_active = True
        self.is_over = False
        self.tickets: dict[Ticket, None] = {}
        self.trust = Trust(lease_ms=LEASE_MS, began_s=began_s, steady=replica.clock.s)
        self._clock = PoolClock(lease.now_ms, steady=replica.clock.s)
        self.press = Press(replica, lease, self.trust)
        self.hand = Hand(
            replica, lease, self.trust, self._clock, self.press.outgoing, on_change=self._wake, on_lost=self.lose
        )
        self._world, self._database, self._fleet, self._book = around.world, around.database, around.fleet, around.book
        self._network = around.network
        settings = replace(SETTINGS, window=around.plan.window, adopt_late_results=around.plan.adopts_late)
        self.machine = Machine(POOL, settings, epoch=lease.epoch, seed=self._world.between(0, 2**32))
        restore(self.machine, snapshot, self._clock.now_ms())
        self._watch = Watch(self._world, self.machine.pool, self._database, lease.epoch)
        self._inbox: deque[ev.Event] = deque()
        self._effects: deque[Effect | Announcement] = deque()
        self._fresh: dict[str, ev.TaskSubmitted] = {}
        self._is_leaving = False
        self._is_awake = False
        self._turned_s = replica.clock.s()
        self._alarm_ms = 0

    def begin(self) -> None:
        """Listen, and decide."""
        self._listen()
        self.press.work()
        self._wake()

    # What comes in.

    def receive(self, message: "Message") -> None:
        """A request."""
        if self._is_leaving:
            return
        if message.answer is None:
            if self.is_active:
                self.post(message.event_of(None))
            return
        event: Any = message.event_of(Ticket(self, message.answer))
        if isinstance(event, ev.HeartbeatReceived):
            # Looked at before anything is known of a lost lease, as whoever wakes does.
            if self.is_active:
                self.post(event)
            else:
                event.ticket.tell(self._passive_answer(event))  # type: ignore[attr-defined] # made above
        elif not self.is_active or not self.trust.holds or self.hand.is_in_doubt:
            event.ticket.tell(UnavailableError(retry_after_ms=RETRY_MS))
        else:
            if isinstance(event, ev.TaskSubmitted):
                self._fresh[event.task_id] = event
            self.post(event)

    def _passive_answer(self, event: ev.HeartbeatReceived) -> object:
        agent = self.machine.pool.agents.get(event.agent_id)
        if agent is None or agent.incarnation != event.message.incarnation:
            return UnavailableError(retry_after_ms=RETRY_MS)
        return HeartbeatAnswer(
            epoch=self.lease.epoch,
            heartbeat_interval_ms=agent.interval_ms,
            lease_ms=agent.interval_ms * SETTINGS.lease_intervals,
            cancel=[],
            drain=False,
            database=DatabaseHealth.DOWN,
        )

    def post(self, event: ev.Event) -> None:
        """An event, in order."""
        if not self.is_over:
            self._inbox.append(event)
            self._wake()

    def _listen(self) -> None:
        """Ask ourselves over the bus."""
        if self.is_over:
            return
        if self._network.carries(self.replica.name):
            self.trust.heard()
        self.replica.after(TURN_MS, self._listen)

    # The loop.

    def _wake(self) -> None:
        if not self._is_awake:
            self._is_awake = True
            self._world.after(self._world.between(0, 1), lambda: self.replica.run(self._turn))

    def _turn(self) -> None:
        self._is_awake = False
        if self.is_over:
            return
        self._note_activity()
        self._note_stall()
        now_ms = self._clock.now_ms()
        if self.is_active:
            while self._inbox:
                self._handle(self._inbox.popleft(), now_ms)
            due_ms = self.machine.next_due_ms()
            if due_ms is not None and due_ms <= now_ms:
                self._handle(ev.TimeAdvanced(), now_ms)
        if not self.hand.is_busy:
            self._write(now_ms)
        if self._effects:
            self._world.after(0, lambda: self.replica.run(self._do_effects))
        if not self.is_over:
            self._set_alarm()

    def _note_activity(self) -> None:
        if self.hand.is_in_doubt:
            self._refuse_all()
        active = self.trust.holds and self.trust.is_heard and not self.hand.is_database_down
        if active and not self.is_active:
            self.is_active = True
            self._world.note("", self.replica.holder, "is active again")
            # Before any timer: nobody may be judged by a silence that could not be heard.
            self._handle(ev.ObservationResumed(), self._clock.now_ms())
        elif self.is_active and not active:
            self.is_active = False
            self._world.note("", self.replica.holder, "is passive")
            self._world.tally["passive"] += 1
            self._refuse_all()

    def _note_stall(self) -> None:
        turned_s, self._turned_s = self._turned_s, self.replica.clock.s()
        if self.is_active and self._turned_s - turned_s > STALL_S:
            self._world.tally["stall"] += 1
            self._handle(ev.ObservationResumed(), self._clock.now_ms())

    def _refuse_all(self) -> None:
        for ticket in list(self.tickets):
            ticket.tell(OutcomeUnknownError(retry_after_ms=RETRY_MS))

    def _set_alarm(self) -> None:
        delay_ms = TURN_MS
        due_ms = self.machine.next_due_ms()
        if self.is_active and due_ms is not None:
            delay_ms = min(delay_ms, max(due_ms - self._clock.now_ms(), 1))
        at_ms = self._world.now_ms + self.replica.clock.delay_ms(delay_ms)
        if not self._world.now_ms < self._alarm_ms <= at_ms:
            self._alarm_ms = at_ms
            self.replica.after(delay_ms, self._turn)

    def _handle(self, event: ev.Event, now_ms: int) -> None:
        effects = self.machine.handle(event, now_ms)
        self._watch.handled(event, effects)
        self._effects += effects

    # The database.

    def _write(self, now_ms: int) -> None:
        if self.is_active and self.machine.has_decisions:
            batch = self.machine.seal(now_ms)
            self._watch.sealed(batch, now_ms)
            if batch.is_written:
                told, events = told_by(batch)
                self.hand.commit(batch, events, partial(self._settle, told))
                return
            self._effects += batch.effects
        if self._is_leaving and not self._effects and not self._inbox:
            self._let_go()
        elif self.trust.is_heard and (not self.is_active or self.trust.is_old):
            self.hand.renew()

    def _settle(self, told: list[Change], batch: Batch, committed: Committed) -> None:
        left = settle(batch, told, committed)
        self.press.take(batch.number, left.told)
        self._handle(ev.BatchCommitted(number=batch.number, refused=committed.refused), self._clock.now_ms())
        for task_id in sorted(committed.refused):
            self._answer_repeat(self._fresh[task_id])
        self._effects += left.effects

    def _answer_repeat(self, event: ev.TaskSubmitted) -> None:
        holder = self._database.holder("client", event.spec.key or "")
        if holder.digest != event.digest:
            _tell(event.ticket, KeyConflictError(key=event.spec.key))
        else:
            state = holder.document.state
            answer = SubmitAnswer(task_id=holder.task_id, state=state, created=False, satisfiable=True)
            _tell(event.ticket, answer)

    # The end.

    def lose(self, reason: str) -> None:
        """Let go at once: the pool is not ours."""
        if not self.is_over:
            self._world.note("WEATHER", self.replica.holder, "lets go:", reason)
            self._world.tally[f"lost: {reason}"] += 1
            self._end()

    def hand_over(self) -> None:
        """Take nothing new, finish what is decided, let go."""
        self._is_leaving = True
        self._wake()

    def _let_go(self) -> None:
        self._world.tally["handed over"] += 1
        self._database.release(self.lease, self.press.outgoing.to_forget)
        self._end()

    def _end(self) -> None:
        self.is_over = self.hand.is_over = self.press.is_over = True
        self._refuse_all()
        self.replica.lost(handed_over=self._is_leaving)

    # Effects.

    def _do_effects(self) -> None:
        while self._effects and self.trust.holds and not self.is_over:
            if not self.replica.passes("sending", partial(self._perform, self._effects.popleft())):
                return

    def _perform(self, effect: Effect | Announcement) -> None:
        epoch, sender = self.lease.epoch, self.replica.name
        match effect:
            case do.Answer(ticket=ticket, message=message, task_id=task_id):
                self._fresh.pop(task_id or "", None)
                _tell(ticket, message)
            case do.Refuse(ticket=ticket, error=error):
                _tell(ticket, error)
            case do.LookUp(event=event):
                self._look_up(event)
            case do.ReadWindow(asked=asked):
                self._read_window(asked)
            case do.SendOffer():
                self._offer(effect)
            case do.SendAnswer():
                self._answer(effect)
            case do.SendCancel(agent_id=agent_id, task_id=task_id, attempt=attempt):
                self._fleet.cancel(agent_id, epoch, task_id, attempt, sender=sender)
            case do.SendDrain(agent_id=agent_id):
                self._fleet.drain(agent_id, epoch, sender=sender)
            case do.SendShutdown(agent_id=agent_id, grace_ms=grace_ms):
                self._fleet.shut_down(agent_id, epoch, grace_ms, sender=sender)
            case _:
                pass

    def _answer(self, effect: do.SendAnswer) -> None:
        held = (effect.task_id, effect.attempt)
        ref = AttemptRef(task_id=effect.task_id, attempt=effect.attempt)
        reply = f"{self.lease.epoch}/{effect.task_id}/{effect.attempt}/{effect.query}"
        self._fleet.answer(
            effect.agent_id,
            av.AnswerArrived(reply, self.lease.epoch, ref, effect.query, effect.answer),
            lambda: self._hear_answer(ev.AnswerDelivered(agent_id=effect.agent_id, held=held, query=effect.query)),
            sender=self.replica.name,
        )

    def _look_up(self, event: Any) -> None:  # noqa: ANN401 - any event that may be looked up
        def read() -> None:
            try:
                looked = self._database.look_up(event.task_id)
            except AwayError:
                self.replica.run(lambda: _tell(event.ticket, UnavailableError(retry_after_ms=RETRY_MS)))
            else:
                # What was read is old when it arrives.
                self._later(10, lambda: self.post(msgspec.structs.replace(event, looked=looked)))

        self._database.ask(read)

    def _later(self, longest_ms: int, what: Callable[[], None]) -> None:
        self._world.after(self._world.between(0, longest_ms), lambda: self.replica.run(what))

    def _read_window(self, asked: WindowAsked) -> None:
        def read() -> None:
            try:
                found = self._database.window(asked)
            except AwayError:
                self.replica.after(RETRY_MS, lambda: self._read_window(asked))
            else:
                self._later(20, lambda: self.post(found))

        self._database.ask(read)

    def _offer(self, effect: do.SendOffer) -> None:
        self._book.offered(effect.task_id, effect.attempt, effect.agent_id)
        if effect.task_id in self._fresh:
            self._send_offer(effect)
            return

        def read() -> None:
            try:
                content = self._database.offer(effect.task_id)
            except AwayError:
                return
            self._later(3, lambda: self._offer_read(effect, content))

        self._database.ask(read)

    def _offer_read(self, effect: do.SendOffer, content: OfferContent | None) -> None:
        if content is not None and self.trust.holds and not self.is_over:
            self._send_offer(effect)

    def _send_offer(self, effect: do.SendOffer) -> None:
        task = self.machine.pool.tasks.get(effect.task_id)
        if task is None:
            return
        offer = Assign(
            epoch=self.lease.epoch,
            task_id=effect.task_id,
            attempt=effect.attempt,
            type=task.needs.type,
            priority=task.priority,
            metadata={},
        )
        self._fleet.offer(effect.agent_id, offer, self._hear_answer, sender=self.replica.name)

    def _hear_answer(self, event: ev.Event) -> None:
        if self._network.hears(self.replica.name):
            self.replica.run(lambda: self.post(event))


def _tell(ticket: object, message: object) -> None:
    if ticket is not None:
        assert isinstance(ticket, Ticket)
        ticket.tell(message)
