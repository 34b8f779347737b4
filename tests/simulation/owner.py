"""A replica that owns the pool, as the orchestrator's own does: events, decisions, one commit at a time, effects after.

It can be killed at any moment, a commit under way included; a commit whose answer is lost is repeated to the letter;
without database or bus it is passive. What it decides is watched, see `watch`.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from tests.simulation.book import Book
from tests.simulation.database import AwayError, Database
from tests.simulation.fleet import Fleet
from tests.simulation.watch import Watch
from tests.simulation.world import World
from tests.support.core_rig import POOL

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.changes import WindowAsked
from callboard.orchestrator.core.effects import Batch, Effect
from callboard.orchestrator.core.machine import Machine
from callboard.orchestrator.core.restore import restore
from callboard.orchestrator.core.settings import CoreSettings
from callboard.orchestrator.store.port import Committed, FencedError
from callboard.schemas.agents import Assign, HeartbeatAnswer
from callboard.schemas.errors import KeyConflictError, UnavailableError
from callboard.schemas.tasks import SubmitAnswer, TaskChange
from callboard.schemas.vocabulary import DatabaseHealth

WINDOWS: Final = (1, 8, 20_000)
"""Waiting tasks that memory holds: so few that most are read again and again, or all."""
SETTINGS: Final = CoreSettings(
    least_lane=2,
    far_ms=500,
    heartbeat_interval_ms=1_000,
    offer_repeats_ms=(500, 1_000, 2_000),
    max_assignments=4,
    forget_agents_ms=120_000,
    quarantine_failures=4,
    probe_after_ms=1_000,
    probe_after_most_ms=4_000,
)
RETRY_MS: Final = 200


class Owner:
    """One life of a replica."""

    def __init__(self, world: World, database: Database, fleet: Fleet, book: Book) -> None:
        self.is_alive = True
        self._world, self._database, self._fleet, self._book = world, database, fleet, book
        self._away: set[str] = set()
        self._inbox: deque[ev.Event] = deque()
        self._fresh: dict[str, ev.TaskSubmitted] = {}
        self._is_committing = False
        self._is_awake = False
        self._alarm_ms = 0
        self.last_words: Callable[[], None] | None = None
        """Called while its next commit is under way, to kill it there."""
        self._lease = database.acquire()
        settings = replace(SETTINGS, window=world.rng.choice(WINDOWS))
        self.machine = Machine(POOL, settings, epoch=self._lease.epoch, seed=world.between(0, 2**32))
        restore(self.machine, database.load(self._lease), world.now_ms)
        world.note("WEATHER owner of epoch", self._lease.epoch)
        self._watch = Watch(world, self.machine.pool, database)
        self._wake()

    # What comes in.

    def serve(self, event: Any) -> None:  # noqa: ANN401 - any event that has a ticket
        """A request; its ticket is the way to answer. A dead owner answers nobody."""
        if not self._away:
            if isinstance(event, ev.TaskSubmitted):
                self._fresh[event.task_id] = event
            self.post(event)
        elif self.is_alive and isinstance(event, ev.HeartbeatReceived):
            _tell(event.ticket, self._passive_answer(event))
        elif self.is_alive:
            _tell(event.ticket, UnavailableError(retry_after_ms=RETRY_MS))

    def _passive_answer(self, event: ev.HeartbeatReceived) -> object:
        agent = self.machine.pool.agents.get(event.agent_id)
        if agent is None or agent.incarnation != event.message.incarnation:
            return UnavailableError(retry_after_ms=RETRY_MS)
        return HeartbeatAnswer(
            epoch=self._lease.epoch,
            heartbeat_interval_ms=agent.interval_ms,
            lease_ms=agent.interval_ms * SETTINGS.lease_intervals,
            cancel=[],
            drain=False,
            database=DatabaseHealth.DOWN,
        )

    def post(self, event: ev.Event) -> None:
        """An event, in order."""
        if self.is_alive:
            self._inbox.append(event)
            self._wake()

    # The loop.

    def _wake(self) -> None:
        if not self._is_awake:
            self._is_awake = True
            self._world.after(self._world.between(0, 1), self._turn)

    def _turn(self) -> None:
        self._is_awake = False
        if not self.is_alive or self._away:
            return
        due_ms = self.machine.next_due_ms()
        if due_ms is not None and due_ms <= self._world.now_ms:
            self._handle(ev.TimeAdvanced())
        while self._inbox:
            self._handle(self._inbox.popleft())
        if not self._is_committing and self.machine.has_decisions:
            self._seal()
        self._set_alarm()

    def _set_alarm(self) -> None:
        due_ms = self.machine.next_due_ms()
        if due_ms is not None and not self._world.now_ms < self._alarm_ms <= due_ms:
            self._alarm_ms = due_ms
            self._world.after(max(due_ms - self._world.now_ms, 1), self._turn)

    def _handle(self, event: ev.Event) -> None:
        effects = self.machine.handle(event, self._world.now_ms)
        self._watch.handled(event, effects)
        self._do(effects)

    def _seal(self) -> None:
        batch = self.machine.seal(self._world.now_ms)
        self._watch.sealed(batch)
        if batch.changes:
            self._is_committing = True
            self._world.after(self._world.between(1, 6), lambda: self._write(batch))
        else:
            self._do(batch.effects)
            self._wake()

    # The database.

    def _write(self, batch: Batch) -> None:
        if self.last_words is not None:
            self.last_words()
        if not self.is_alive and self._world.chance(0.5):
            return  # it died before the transaction was handed over
        try:
            committed = self._database.commit(self._lease, batch.number, batch.changes)
        except AwayError:
            self.pause("database")
            self._world.after(RETRY_MS, lambda: self._write(batch))
        except FencedError:
            if self.is_alive:
                self._world.fail("the only owner is fenced")
        else:
            self._world.after(self._world.between(1, 6), lambda: self._settle(batch, committed))

    def _settle(self, batch: Batch, committed: Committed) -> None:
        if not self.is_alive:
            return
        self._is_committing = False
        self._handle(ev.BatchCommitted(number=batch.number, refused=committed.refused))
        for task_id in sorted(committed.refused):
            self._answer_repeat(self._fresh[task_id])
        self._do(effect for effect in batch.effects if getattr(effect, "task_id", None) not in committed.refused)
        self.resume("database")
        self._wake()

    def _answer_repeat(self, event: ev.TaskSubmitted) -> None:
        scope, key = ("client", event.spec.key) if event.retry_of is None else ("retry", event.retry_of)
        holder = self._database.holder(scope, key or "")
        state = holder.document.state
        if scope == "retry":
            _tell(event.ticket, TaskChange(task_id=holder.task_id, state=state, changed=False))
        elif holder.digest != event.digest:
            _tell(event.ticket, KeyConflictError(key=key))
        else:
            answer = SubmitAnswer(task_id=holder.task_id, state=state, created=False, satisfiable=True)
            _tell(event.ticket, answer)

    # Passive, dead.

    def pause(self, why: str) -> None:
        """Database or bus is away."""
        if why not in self._away:
            self._world.note("WEATHER owner passive:", why)
            self._away.add(why)

    def resume(self, why: str) -> None:
        """It is back; before anything else, nobody is judged by a silence that could not be heard."""
        if why in self._away and self.is_alive:
            self._away.remove(why)
            if not self._away:
                self._handle(ev.ObservationResumed())
                self._wake()

    def kill(self) -> None:
        """Without a word; a commit on its way may or may not arrive."""
        self._world.note("WEATHER owner killed, epoch", self._lease.epoch)
        self.is_alive = False

    # Effects.

    def _do(self, effects: Iterable[Effect]) -> None:
        epoch = self._lease.epoch
        for effect in effects:
            match effect:
                case do.Answer(ticket=ticket, message=message):
                    _tell(ticket, message)
                case do.Refuse(ticket=ticket, error=error):
                    _tell(ticket, error)
                case do.LookUp(event=event):
                    self._look_up(event)
                case do.ReadWindow(asked=asked):
                    self._world.after(self._world.between(1, 20), partial(self._read_window, asked))
                case do.SendOffer():
                    self._offer(effect)
                case do.SendCancel(agent_id=agent_id, task_id=task_id, attempt=attempt):
                    self._fleet.cancel(agent_id, epoch, task_id, attempt)
                case do.SendDrain(agent_id=agent_id):
                    self._fleet.drain(agent_id, epoch)
                case do.SendShutdown(agent_id=agent_id, grace_ms=grace_ms):
                    self._fleet.shut_down(agent_id, epoch, grace_ms)
                case _:
                    pass

    def _look_up(self, event: Any) -> None:  # noqa: ANN401 - any event that may be looked up
        def read() -> None:
            try:
                looked = self._database.look_up(event.task_id)
            except AwayError:
                _tell(event.ticket, UnavailableError(retry_after_ms=RETRY_MS))
            else:
                # What was read is old when it arrives.
                self._world.after(self._world.between(0, 10), lambda: self.post(replace(event, looked=looked)))

        self._world.after(self._world.between(1, 4), read)

    def _read_window(self, asked: WindowAsked) -> None:
        try:
            read = self._database.window(asked)
        except AwayError:
            self._world.after(RETRY_MS, partial(self._read_window, asked))
        else:
            self._world.after(self._world.between(0, 20), lambda: self.post(read))

    def _offer(self, effect: do.SendOffer) -> None:
        self._book.offered(effect.task_id, effect.attempt, effect.agent_id)
        task = self.machine.pool.tasks.get(effect.task_id)
        if task is None or self._database.offer(effect.task_id) is None:
            return
        offer = Assign(
            epoch=self._lease.epoch,
            task_id=effect.task_id,
            attempt=effect.attempt,
            type=task.needs.type,
            priority=task.priority,
            metadata={},
        )
        self._fleet.offer(effect.agent_id, offer, self.post)


def _tell(ticket: object, message: object) -> None:
    assert callable(ticket)
    ticket(message)
