"""The owner of one pool: events in, decisions by the core, commits, effects. The shell has no cleverness.

Rules:

- One database operation is open at a time: a commit, or a renewal of the lease. While it runs, events are handled and
  so the next batch is decided.
- A batch's effects are done after its commit, in order, and only while the lease is trusted.
- A commit whose outcome is unknown is repeated to the letter until it is settled.
- Without trust, database or bus the owner is passive: it keeps its memory, answers heartbeats and `status`, refuses
  what is new, and judges nobody by a silence that it could not have heard.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from time import monotonic, perf_counter
from typing import Any, Final, TypeVar

import structlog

from callboard.bus.connection import Bus
from callboard.bus.serve import Request
from callboard.orchestrator.clock import PoolClock
from callboard.orchestrator.core.effects import Answer, Batch, Effect, LookUp, PublishTask, SendOffer
from callboard.orchestrator.core.events import BatchCommitted, Event, ObservationResumed, TimeAdvanced
from callboard.orchestrator.core.machine import Machine
from callboard.orchestrator.core.restore import restore
from callboard.orchestrator.core.settings import CoreSettings
from callboard.orchestrator.offers import AgentLink
from callboard.orchestrator.outbox import Outbox
from callboard.orchestrator.repeats import Repeat, answer_repeats
from callboard.orchestrator.store.port import Committed, FencedError, Lease, OfferContent, Store, StoreUnavailableError
from callboard.orchestrator.telemetry import Telemetry
from callboard.orchestrator.tickets import Ticket, TicketBook
from callboard.orchestrator.trust import Trust
from callboard.orchestrator.waiters import Waiters
from callboard.schemas.errors import (
    InternalError,
    OutcomeUnknownError,
    ResourceLimitError,
    UnavailableError,
)
from callboard.schemas.subjects import Subjects
from callboard.schemas.tasks import TaskDocument
from callboard.schemas.vocabulary import AgentState, TaskState

log = structlog.get_logger("callboard.orchestrator")

T = TypeVar("T")

RENEW_S: Final = 1.0
PATIENCE_S: Final = 0.7
"""How long a commit may be open before callers are told that its outcome is in doubt."""
RETRY_S: Final = 0.2
MAX_INBOX: Final = 20_000
"""Requests taken and not yet decided; beyond, they are refused at once."""
MAX_UNWRITTEN: Final = 5_000
"""Tasks changed since the last commit began; beyond, no event is taken until it ends."""
RETRY_AFTER_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Fresh:
    """A submission until its commit is done with: what its offer carries, and whose key it has."""

    content: OfferContent
    scope: str = "client"
    key: str | None = None
    digest: bytes = b""


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
        telemetry: Telemetry,
        lease_ms: int,
        batch_max: int,
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
        self.link = AgentLink(bus, subjects, epoch=lease.epoch, post=self.post)
        self.waiters = Waiters(self.read_documents, self.spawn, most=max_waiters)
        self.outbox = Outbox(
            bus,
            subjects,
            telemetry=telemetry,
            link=self.link,
            on_agent=on_agent,
            on_stop_process=on_stop_process,
        )
        self._bus = bus
        self._trust = Trust(lease_ms=lease_ms, began_s=began_s)
        self._lease_ms = lease_ms
        self._batch_max = batch_max
        self._inbox: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._operation: asyncio.Task[None] | None = None
        self._commit_began_s: float | None = None
        self._database_down = False
        self._effects: deque[Effect] = deque()
        self._fresh: dict[str, Fresh] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._lost: str | None = None

    # -- what requests use -------------------------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Whether the owner decides; else it is passive."""
        return self.passive_since_ms is None

    @property
    def is_database_down(self) -> bool:
        """Whether the last word of the database was none."""
        return self._database_down

    def request(self, request: Request, event_of: Callable[[Ticket], Event]) -> None:
        """Put a request to the machine; its answer comes with the effects.

        Raises:
            UnavailableError: nothing can be decided now, and nothing was.
            ResourceLimitError: too many requests wait already.
        """
        self.require_active()
        if len(self._inbox) >= MAX_INBOX:
            raise ResourceLimitError("too many requests at once", retry_after_ms=RETRY_AFTER_MS, limit=MAX_INBOX)
        self.post(event_of(self.tickets.open(request)))

    def require_active(self) -> None:
        """Refuse what could not be accepted now.

        Raises:
            UnavailableError: the database is away, or the pool may be changing owner.
        """
        if not self.is_active or self._is_commit_in_doubt:
            raise UnavailableError(retry_after_ms=RETRY_AFTER_MS)

    def post(self, event: Event) -> None:
        """Hand an event to the machine, in order."""
        self._inbox.append(event)
        self._wake.set()

    def keep_fresh(self, task_id: str, fresh: Fresh) -> None:
        """Remember a submission's content until its commit."""
        self._fresh[task_id] = fresh

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the loop; it ends with the owner at the latest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    async def read_documents(self, task_ids: list[str]) -> dict[str, TaskDocument]:
        """Documents of tasks of this pool.

        Raises:
            UnavailableError: the database is away.
        """
        try:
            return await self.store.documents(self.lease.pool, task_ids)
        except StoreUnavailableError as error:
            raise UnavailableError(str(error), retry_after_ms=RETRY_AFTER_MS) from error

    # -- life --------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Make the pool's committed state our memory.

        Raises:
            StoreUnavailableError, FencedError: see the store.
        """
        restore(self.machine, await self.store.load(self.lease), self.clock.now_ms())
        self.counts = dict(self.machine.pool.counts)

    async def run(self) -> str:
        """Own the pool until it is lost or `stop` is called; the reason is returned."""
        echo = await self._bus.subscribe(subject := self._bus.new_inbox(), lambda message: self._heard(message.reply))
        await self.link.start()
        listening = asyncio.create_task(self._listen_to_ourselves(subject))
        try:
            self._wake.set()
            while self._lost is None and not self._is_finished:
                await self._wake.wait()
                self._wake.clear()
                self._turn()
            return self._lost or "stopped"
        finally:
            await self._end(listening)
            await echo.unsubscribe()

    def stop(self) -> None:
        """Finish what is decided, then let go; new requests must not come any more."""
        self._stopping = True
        self._wake.set()

    def lose(self, reason: str) -> None:
        """Let go at once: the pool is not ours."""
        self._lost = self._lost or reason
        self._wake.set()

    async def _end(self, listening: asyncio.Task[None]) -> None:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        if self._alarm is not None:
            self._alarm.cancel()
        if self._operation is not None:
            # Never cancelled while a transaction may be open: the store bounds it, and nobody waits for its result.
            await asyncio.wait([self._operation])
        self.tickets.refuse_all(OutcomeUnknownError("the pool is changing owner", retry_after_ms=RETRY_AFTER_MS))
        await self.waiters.answer_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.link.stop()

    @property
    def _is_finished(self) -> bool:
        idle = self._operation is None and not self._inbox and not self._effects
        return self._stopping and idle and not self.machine.has_decisions

    # -- the loop ----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._note_activity()
        now_ms = self.clock.now_ms()
        if self.is_active and self.machine.unsealed_tasks < MAX_UNWRITTEN:
            self._take_events(now_ms)
        if self._operation is None:
            self._next_operation(now_ms)
        self._do_effects()
        self._set_alarm()

    def _take_events(self, now_ms: int) -> None:
        due_ms = self.machine.next_due_ms()
        if due_ms is not None and due_ms <= now_ms:
            self._effects.extend(self.machine.handle(TimeAdvanced(), now_ms))
        for _ in range(min(len(self._inbox), self._batch_max)):
            self._effects.extend(self.machine.handle(self._inbox.popleft(), now_ms))

    def _next_operation(self, now_ms: int) -> None:
        if self.is_active and self.machine.has_decisions:
            batch = self.machine.seal(now_ms)
            if batch.changes:
                self._commit_began_s = monotonic()
                self._operation = asyncio.create_task(self._commit(batch))
            else:
                self._effects.extend(batch.effects)
        elif self._trust.is_heard and (not self.is_active or self._trust.age_s >= RENEW_S):
            self._operation = asyncio.create_task(self._renew())

    def _set_alarm(self) -> None:
        """Wake for the next timer of the core, the next renewal, or a commit that takes too long."""
        if self._inbox and self.is_active:
            self._wake.set()
            return
        if self._alarm is not None:
            self._alarm.cancel()
        delay_s = RENEW_S / 2
        due_ms = self.machine.next_due_ms()
        if self.is_active and due_ms is not None:
            delay_s = min(delay_s, max(due_ms - self.clock.now_ms(), 0) / 1000)
        if self._commit_began_s is not None:
            delay_s = min(delay_s, max(self._commit_began_s + PATIENCE_S - monotonic(), RETRY_S))
        self._alarm = asyncio.get_running_loop().call_later(delay_s, self._wake.set)

    def _note_activity(self) -> None:
        if self._is_commit_in_doubt and len(self.tickets):
            self.tickets.refuse_all(OutcomeUnknownError(retry_after_ms=RETRY_AFTER_MS))
        active = self._trust.holds and self._trust.is_heard and not self._database_down
        if active and not self.is_active:
            self.passive_since_ms = None
            log.warning("pool is active again", pool=self.lease.pool, epoch=self.lease.epoch)
            self._inbox.appendleft(ObservationResumed())
        elif not active and self.is_active:
            self.passive_since_ms = self.clock.now_ms()
            why = "database is away" if self._database_down else "not heard on the bus"
            log.warning("pool is passive", pool=self.lease.pool, epoch=self.lease.epoch, reason=why)
            self.tickets.refuse_all(OutcomeUnknownError(retry_after_ms=RETRY_AFTER_MS))
        self.telemetry.set_database(up=not self._database_down)

    @property
    def _is_commit_in_doubt(self) -> bool:
        return self._commit_began_s is not None and monotonic() - self._commit_began_s > PATIENCE_S

    # -- the database ------------------------------------------------------------------------------------------------

    async def _commit(self, batch: Batch) -> None:
        """Commit until it is settled, then hand the batch back to the loop."""

        async def once() -> Committed:
            return await self.store.commit(self.lease, batch.number, batch.changes, lease_ms=self._lease_ms)

        began = perf_counter()
        committed = await self._until_settled(once)
        if committed is None:
            return
        self.telemetry.committed(len(batch.changes.tasks), (perf_counter() - began) * 1000)
        self._commit_began_s = None
        self._operation = None
        self.clock.set(committed.now_ms)
        self._settle(batch, committed)
        self._wake.set()

    async def _renew(self) -> None:
        async def once() -> Lease:
            return await self.store.renew(self.lease, lease_ms=self._lease_ms)

        renewed = await self._until_settled(once)
        if renewed is None:
            return
        self.clock.set(renewed.now_ms)
        self._operation = None
        self._wake.set()

    async def _until_settled(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """The operation's result, however long the database is away; `None` when the pool is lost meanwhile."""
        while self._lost is None:
            began_s = monotonic()
            try:
                result = await operation()
            except FencedError as error:
                self.lose(f"fenced: {error}")
                return None
            except StoreUnavailableError as error:
                if not self._database_down:
                    log.warning("database is away", pool=self.lease.pool, reason=str(error))
                self._database_down = True
                self.telemetry.commit_failed()
                self._wake.set()
                await asyncio.sleep(RETRY_S)
            except Exception:
                log.exception("the store failed", pool=self.lease.pool)
                self.lose("the store failed")
                return None
            else:
                self._trust.extend(began_s)
                self._database_down = False
                return result
        return None

    def _settle(self, batch: Batch, committed: Committed) -> None:
        """The batch is durable: tell the machine, and queue its effects less those of tasks that do not exist."""
        now_ms = self.clock.now_ms()
        self._effects.extend(
            self.machine.handle(BatchCommitted(number=batch.number, refused=committed.refused), now_ms)
        )
        self.counts = _counts_less_refused(batch, committed)
        dropped = committed.refused | committed.stale
        if not dropped:
            self._effects.extend(batch.effects)
            return
        repeats: list[Repeat] = []
        for effect in batch.effects:
            task_id = getattr(effect, "task_id", None)
            if task_id not in dropped:
                self._effects.append(effect)
            elif isinstance(effect, Answer) and isinstance(effect.ticket, Ticket):
                fresh = self._fresh.pop(task_id)
                if fresh.key is not None and task_id in committed.refused:
                    repeats.append(Repeat(effect.ticket, fresh.scope, fresh.key, fresh.digest))
                else:
                    effect.ticket.refuse(InternalError("the task could not be written", task_id=task_id))
        if repeats:
            self.spawn(answer_repeats(self.store, self.lease.pool, repeats))
        if committed.stale:
            # One owner writes, fenced; so this is a bug or a row that the database refuses: start from its truth.
            log.error("rows were not written", pool=self.lease.pool, tasks=sorted(committed.stale))
            self.lose("memory and database disagree")

    # -- effects -----------------------------------------------------------------------------------------------------

    def _do_effects(self) -> None:
        missing: list[SendOffer] = []
        finished: list[str] = []
        while self._effects and self._trust.holds:
            effect = self._effects.popleft()
            if isinstance(effect, SendOffer):
                fresh = self._fresh.get(effect.task_id)
                if fresh is None:
                    missing.append(effect)
                else:
                    self.outbox.offer(effect, fresh.content)
            elif isinstance(effect, LookUp):
                self.spawn(self._look_up(effect))
            else:
                if isinstance(effect, Answer) and effect.task_id is not None:
                    self._fresh.pop(effect.task_id, None)
                elif isinstance(effect, PublishTask) and effect.event.state.is_final:
                    finished.append(effect.task_id)
                self.outbox.do(effect)
        if finished:
            self.waiters.finished(finished)
        if missing:
            self.spawn(self._offer_from_store(missing))

    async def _offer_from_store(self, offers: list[SendOffer]) -> None:
        try:
            contents = await self.store.offers([offer.task_id for offer in offers])
        except StoreUnavailableError as error:
            log.info("offers wait for the database", pool=self.lease.pool, reason=str(error))
            return  # the core repeats them
        for offer in offers:
            content = contents.get(offer.task_id)
            if content is not None and self._trust.holds:
                self.outbox.offer(offer, content)

    async def _look_up(self, effect: LookUp) -> None:
        event = effect.event
        try:
            looked = await self.store.look_up(self.lease.pool, event.task_id)
        except StoreUnavailableError as error:
            if isinstance(event.ticket, Ticket):
                event.ticket.refuse(UnavailableError(str(error), retry_after_ms=RETRY_AFTER_MS))
            return
        self.post(replace(event, looked=looked))

    # -- the bus -----------------------------------------------------------------------------------------------------

    async def _listen_to_ourselves(self, subject: str) -> None:
        """Ask ourselves over NATS: an owner deaf on the bus must not keep the pool."""
        while True:
            try:
                await self._bus.request(subject, b"", timeout_s=RENEW_S)
            except (UnavailableError, OutcomeUnknownError):
                self._wake.set()
            else:
                was_heard = self._trust.is_heard
                self._trust.heard()
                if not was_heard:
                    self._wake.set()
            await asyncio.sleep(RENEW_S / 2)

    def _heard(self, reply: str) -> None:
        self._bus.send(reply, b"")

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work beside the loop failed", pool=self.lease.pool, exc_info=error)


def _counts_less_refused(batch: Batch, committed: Committed) -> dict[TaskState, int]:
    """What is durable of the batch's counts: a task whose key was another's never existed."""
    refused = Counter(
        change.columns.state for change in batch.changes.tasks if change.columns.task_id in committed.refused
    )
    return {state: count - refused[state] for state, count in batch.counts.items()}
