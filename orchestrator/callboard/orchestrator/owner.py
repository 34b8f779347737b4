"""The owner of one pool: events in, decisions by the core, commits, effects. The shell has no cleverness.

Rules:

- One database operation is open at a time: a commit, or a renewal of the lease. While it runs, events are handled and
  so the next batch is decided.
- A batch's effects are done after its commit, in order, and only while the lease is trusted.
- Without trust, database or bus the owner is passive: it keeps its memory, answers heartbeats and `status`, refuses
  what is new, and judges nobody by a silence that it could not have heard.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import structlog

from callboard.bus.connection import Bus
from callboard.orchestrator.announcements import told_by
from callboard.orchestrator.beside import Beside
from callboard.orchestrator.clock import PoolClock, steady_s
from callboard.orchestrator.core.effects import Batch
from callboard.orchestrator.core.events import BatchCommitted, Event, ObservationResumed, TimeAdvanced
from callboard.orchestrator.core.machine import Machine
from callboard.orchestrator.core.restore import restore
from callboard.orchestrator.core.settings import CoreSettings
from callboard.orchestrator.direct_effects import DirectEffects
from callboard.orchestrator.effects import Effects
from callboard.orchestrator.hearing import Hearing
from callboard.orchestrator.offers import AgentLink
from callboard.orchestrator.publisher import Carrier, Publisher
from callboard.orchestrator.reads import RETRY_AFTER_MS, Reads
from callboard.orchestrator.repeats import answer_repeats
from callboard.orchestrator.settling import settle
from callboard.orchestrator.store.port import Committed, Lease, Store
from callboard.orchestrator.telemetry import Telemetry
from callboard.orchestrator.tickets import Answerable, Fresh, Ticket, TicketBook
from callboard.orchestrator.trust import Trust
from callboard.orchestrator.writer import Writer
from callboard.schemas.errors import (
    InternalError,
    OutcomeUnknownError,
    ResourceLimitError,
    UnavailableError,
)
from callboard.schemas.events import Change
from callboard.schemas.subjects import Subjects
from callboard.schemas.vocabulary import AgentState, TaskState

log = structlog.get_logger("callboard.orchestrator")

MAX_INBOX: Final = 20_000
"""Requests taken and not yet decided; beyond, they are refused at once."""
MAX_UNWRITTEN_BYTES: Final = 32 * 1024 * 1024
MAX_UNWRITTEN: Final = 5_000
"""Tasks changed while a commit is in doubt; beyond, no event is taken until it ends."""
MAX_EVENTS: Final = 500
"""Events handled in one turn, before messages are received and sent again."""
STALL_S: Final = 1.5
"""A pause between two turns that is longer than we ever mean to make."""
FAREWELL_S: Final = 0.2
"""How long the next owner waits while those who wait for a task are told how it stands."""
STOP_S: Final = 5.0
"""How long a stopping owner tries to finish what is decided; without a database it may never come to that."""


class PoolOwner:
    """One pool, for as long as its lease is ours. `run` returns when it is not, or after `stop`."""

    def __init__(
        self,
        *,
        bus: Bus,
        store: Store,
        lease: Lease,
        began_s: float,
        subjects: Subjects,
        settings: CoreSettings,
        carrier: Carrier,
        telemetry: Telemetry,
        lease_ms: int,
        max_waiters: int,
        on_agent: Callable[[str, AgentState], None],
        on_stop_process: Callable[[str, int], None],
        seed: int,
    ) -> None:
        self.lease = lease
        self.subjects = subjects
        self.telemetry = telemetry
        self.clock = PoolClock(lease.now_ms)
        self.machine = Machine(lease.pool, settings, epoch=lease.epoch, seed=seed)
        self.store = store
        self.tickets = TicketBook()
        self.counts: dict[TaskState, int] = {}
        self.passive_since_ms: int | None = None
        self.decided_last = asyncio.Event()
        """Set once nothing more is decided here: who still asks must ask elsewhere, though `run` may not end yet."""
        self.link = AgentLink(bus, subjects, epoch=lease.epoch, post=self.post)
        self._beside = Beside(lease.pool)
        self.direct = DirectEffects(
            telemetry=telemetry,
            link=self.link,
            on_agent=on_agent,
            on_stop_process=on_stop_process,
        )
        self._trust = Trust(lease_ms=lease_ms, began_s=began_s)
        self._effects = Effects(
            self.direct,
            Reads(store, lease.pool),
            pool=lease.pool,
            spawn=self.spawn,
            post=self.post,
            may_act=lambda: self._trust.holds and self._lost is None,
            most_waiters=max_waiters,
        )
        self.waiters = self._effects.waiters
        self._hearing = Hearing(bus, self._trust, self._look_again)
        self.publisher = Publisher(
            carrier,
            store,
            lease,
            subjects,
            telemetry=telemetry,
            now_ms=self.clock.now_ms,
            may_publish=lambda: self._trust.holds,
            on_idle=self._look_whether_finished,
        )
        self._writer = Writer(
            store,
            lease,
            lease_ms=lease_ms,
            trust=self._trust,
            clock=self.clock,
            telemetry=telemetry,
            publisher=self.publisher,
            on_change=self._look_again,
            on_lost=self.lose,
        )
        self._batch_tasks = settings.batch_tasks
        self._inbox: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._turned_s = steady_s()
        self._stopping = False
        self._lost: str | None = None

    # -- what requests use -------------------------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Whether the owner decides; else it is passive."""
        return self.passive_since_ms is None

    @property
    def is_leaving(self) -> bool:
        """Whether the owner finishes what is decided, or has let go."""
        return self._stopping or self._lost is not None

    @property
    def is_database_down(self) -> bool:
        """Whether the last word of the database was none, or it has said nothing for so long that trust ran out."""
        return self._writer.is_database_down or (not self._trust.holds and self._trust.is_heard)

    def request(self, request: Answerable, event_of: Callable[[Ticket], Event], fresh: Fresh | None = None) -> None:
        """Put a request to the machine; its answer comes with the effects. `fresh` is a submission's content.

        Raises:
            UnavailableError: nothing can be decided now, and nothing was.
            ResourceLimitError: too many requests wait already.
        """
        self.require_open()
        ticket = self.tickets.open(request)
        ticket.fresh = fresh
        self.post(event_of(ticket))

    def require_open(self) -> None:
        """Refuse what could not be put to the machine now.

        Raises:
            UnavailableError, ResourceLimitError: as `request`.
        """
        self.require_active()
        if len(self._inbox) >= MAX_INBOX:
            raise ResourceLimitError("too many requests at once", retry_after_ms=RETRY_AFTER_MS, limit=MAX_INBOX)

    def require_active(self) -> None:
        """Refuse what could not be accepted now.

        Raises:
            UnavailableError: the database is away, or the pool may be changing owner.
        """
        # Whoever was stopped and wakes gets messages before its first turn: being active says nothing then.
        if not self.is_active or not self._trust.holds or self._writer.is_in_doubt:
            raise UnavailableError(retry_after_ms=RETRY_AFTER_MS)

    def post(self, event: Event) -> None:
        """Hand an event to the machine, in order."""
        self._inbox.append(event)
        self._wake.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the loop; it ends with the owner at the latest."""
        self._beside.spawn(work)

    # -- life --------------------------------------------------------------------------------------------------------

    @property
    def lost(self) -> str | None:
        """Why the pool is not ours any more, once it is not."""
        return self._lost

    async def load(self) -> None:
        """Make the pool's committed state our memory, and keep the lease however long that takes.

        When the lease is lost, or `lose` is called, it ends before it is done: see `lost`.

        Raises:
            StoreUnavailableError: see the store.
        """
        loading = asyncio.create_task(self._load())
        try:
            while self._lost is None and not loading.done():
                if not self._writer.is_busy and self._trust.is_old:
                    self._writer.renew()
                self._wake.clear()
                woken = asyncio.create_task(self._wake.wait())
                patience_s = self._trust.renew_s / 2
                await asyncio.wait([loading, woken], timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
            if self._lost is None:
                await loading
        except BaseException:
            self.lose("could not load")
            raise
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            if self._lost is not None:
                await self._writer.stop()

    async def _load(self) -> None:
        snapshot = await self.store.load(self.lease)
        # In a thread, since very many placement classes take seconds, in which the lease has to be renewed.
        await asyncio.to_thread(restore, self.machine, snapshot, self.clock.now_ms())
        self.counts = dict(self.machine.pool.counts)

    async def run(self) -> str:
        """Own the pool until it is lost or `stop` is called; the reason is returned."""
        await self._hearing.start()
        await self.link.start()
        self.spawn(self.publisher.run())
        try:
            self._wake.set()
            while self._lost is None and not self._is_finished:
                await self._wake.wait()
                self._wake.clear()
                self._turn()
            return self._lost or "stopped"
        finally:
            self.decided_last.set()
            await self._end()

    def stop(self) -> None:
        """Finish what is decided, within 5 s, then let go; new requests must not come any more. May be called twice."""
        if not self._stopping:
            self._stopping = True
            asyncio.get_running_loop().call_later(STOP_S, self.lose, "stopped before all was settled")
        self._wake.set()

    def lose(self, reason: str) -> None:
        """Let go at once: the pool is not ours."""
        self._lost = self._lost or reason
        self._wake.set()

    async def _end(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        await self._hearing.stop()
        await self._writer.stop()
        self.tickets.refuse_all(OutcomeUnknownError("the pool is changing owner", retry_after_ms=RETRY_AFTER_MS))
        # Whoever is not answered by then is told to ask again.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self.waiters.answer_all()
        await self._beside.stop()
        await self.link.stop()

    @property
    def _is_finished(self) -> bool:
        idle = not self._writer.is_busy and not self._inbox and not self._effects
        return self._stopping and idle and not self.machine.has_decisions and self.publisher.is_done

    # -- the loop ----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._note_activity()
        self._note_stall()
        now_ms = self.clock.now_ms()
        if self._may_decide:
            self._take_events(now_ms)
        was_busy = self._writer.is_busy
        if not was_busy:
            self._write(now_ms)
        if self._writer.is_busy and not was_busy:
            # Behind the commit that was just begun: the database works while we tell of the one before.
            asyncio.get_running_loop().call_soon(self._do_effects_behind)
        else:
            self._effects.do()
        self._set_alarm()

    @property
    def _may_decide(self) -> bool:
        # The next batch waits for one that is being committed, so that it does not outgrow it; but a commit that takes
        # long must not keep the heartbeats waiting, which are in the inbox too.
        most = max(MAX_UNWRITTEN, self._batch_tasks) if self._writer.is_in_doubt else self._batch_tasks
        is_small = self.machine.unsealed_tasks < most and self.machine.unsealed_bytes < MAX_UNWRITTEN_BYTES
        return self.is_active and is_small

    def _take_events(self, now_ms: int) -> None:
        for _ in range(min(len(self._inbox), MAX_EVENTS)):
            self._effects.add(self.machine.handle(self._inbox.popleft(), now_ms))
            if not self._may_decide:
                break
        # After what was heard: who is judged by the time must not be one whose word waits in the inbox.
        due_ms = self.machine.next_due_ms()
        if due_ms is not None and due_ms <= now_ms:
            self._effects.add(self.machine.handle(TimeAdvanced(), now_ms))

    def _write(self, now_ms: int) -> None:
        if self.is_active and self.machine.has_decisions:
            batch = self.machine.seal(now_ms)
            if batch.is_written:
                told, events = told_by(batch)
                self._writer.commit(batch, events, partial(self._settle, told))
                return
            self._effects.add(batch.effects)
        # A batch that writes nothing extends no lease: those who ask without end for what is so already would end it.
        if self._trust.is_heard and (not self.is_active or self._trust.is_old):
            self._writer.renew()

    def _set_alarm(self) -> None:
        """Wake for the rest of the inbox, the next timer of the core, the next renewal, or a commit that takes long."""
        loop = asyncio.get_running_loop()
        if self._inbox and self._may_decide:
            loop.call_soon(self._wake.set)  # not at once: a full inbox must not keep commits and messages waiting
            return
        if self._alarm is not None:
            self._alarm.cancel()
        delay_s = self._trust.renew_s / 2
        due_ms = self.machine.next_due_ms()
        if self._may_decide and due_ms is not None:
            delay_s = min(delay_s, max(due_ms - self.clock.now_ms(), 0) / 1000)
        doubt_in_s = self._writer.doubt_in_s
        if doubt_in_s is not None and doubt_in_s > 0:
            delay_s = min(delay_s, doubt_in_s)
        self._alarm = loop.call_later(delay_s, self._wake.set)

    def _look_again(self) -> None:
        self._wake.set()

    def _look_whether_finished(self) -> None:
        if self._stopping:
            self._wake.set()

    def _note_activity(self) -> None:
        down = self._writer.is_database_down
        if self._writer.is_in_doubt and len(self.tickets):
            self.tickets.refuse_waiting(OutcomeUnknownError(retry_after_ms=RETRY_AFTER_MS))
        active = self._trust.holds and self._trust.is_heard and not down
        if active and not self.is_active:
            self.passive_since_ms = None
            log.warning("pool is active again", pool=self.lease.pool, epoch=self.lease.epoch)
            # Before any timer: nobody may be judged by a silence that could not be heard.
            self._effects.add(self.machine.handle(ObservationResumed(), self.clock.now_ms()))
        elif not active and self.is_active:
            self.passive_since_ms = self.clock.now_ms()
            why = "database is away" if down else "lease not renewed" if self._trust.is_heard else "deaf on the bus"
            log.warning("pool is passive", pool=self.lease.pool, epoch=self.lease.epoch, reason=why)
            self.tickets.refuse_all(OutcomeUnknownError(retry_after_ms=RETRY_AFTER_MS))
        self.telemetry.set_database(up=not down)

    def _note_stall(self) -> None:
        """We wake at least every half second: if we did not, we heard nobody, and nobody may be judged by that."""
        turned_s, self._turned_s = self._turned_s, steady_s()
        if self.is_active and self._turned_s - turned_s > STALL_S:
            log.warning("stalled", pool=self.lease.pool, seconds=round(self._turned_s - turned_s, 3))
            self._effects.add(self.machine.handle(ObservationResumed(), self.clock.now_ms()))

    # -- effects -----------------------------------------------------------------------------------------------------

    def _settle(self, told: list[Change], batch: Batch, committed: Committed) -> None:
        """The batch is durable: tell the machine, and queue its effects less those of tasks that do not exist."""
        now_ms = self.clock.now_ms()
        self._effects.add(self.machine.handle(BatchCommitted(number=batch.number, refused=committed.refused), now_ms))
        self._effects.committed(batch.changes.tasks, batch.effects, committed.refused | committed.stale)
        left = settle(batch, told, committed)
        self.counts = left.counts
        self.publisher.take(batch.number, left.told)
        self._effects.add(left.effects)
        for ticket, task_id in left.unwritten:
            ticket.refuse(InternalError("the task could not be written", task_id=task_id))
        if left.repeats:
            self.spawn(answer_repeats(self.store, self.lease.pool, left.repeats))
        if committed.stale:
            # One owner writes, fenced; so this is a bug or a row that the database refuses: start from its truth.
            log.error("rows were not written", pool=self.lease.pool, tasks=sorted(committed.stale))
            self.lose("memory and database disagree")

    def _do_effects_behind(self) -> None:
        try:
            self._effects.do()
        except Exception:
            # In a turn it would have ended the owner; that of a callback ends nobody, and what it had taken is lost.
            log.exception("an effect could not be done", pool=self.lease.pool)
            self.lose("an effect could not be done")
