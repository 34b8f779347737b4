"""Which replicas there are, and who of them should have which pool, with nobody in charge.

Rules:
- Every replica says what it has and what it would serve, twice a second and at every change, on one subject that lies
  below no pool: whoever may speak to a pool may not speak there. Who is silent for 2.5 s, less than a lease, is gone.
- From the same news all conclude the same (`spread`), and only the giver of a pool acts. Before it does, the news must
  have been the same for a while: while replicas come and go nothing is moved.
- News never make an owner: the lease does. Wrong, late or missing news cost a hand-over too many or too few; but who
  claims to serve our pools from another database, since longer than we do, ends us (`strangers`).
- Who begins asks first whether there is such a one. That takes no time when nobody is there at all.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from callboard.bus.connection import Bus, BusMessage, BusSubscription
from callboard.bus.replies import ReplyGuard
from callboard.bus.requests import NO_RESPONDERS
from callboard.orchestrator.clock import steady_s
from callboard.orchestrator.spread import Standing, heirs, next_move
from callboard.orchestrator.strangers import conflict, is_stranger, must_leave, shared_pool
from callboard.schemas.codec import encode
from callboard.schemas.errors import ConfigurationError, OrchestratorError, UnavailableError

log = structlog.get_logger("callboard.orchestrator")

EVERY_S: Final = 0.5
GONE_S: Final = 2.5
SETTLE_S: Final = 1.5
"""For how long the news must have been the same before a pool is moved."""
ASK_S: Final = 0.3
"""Who is there answers at once; one that is frozen is met when it wakes."""
MET: Final = 1_000
"""Strangers that are remembered, so that each is told of once."""
_STANDING = msgspec.json.Decoder(Standing)


class Stand(Protocol):
    """One pool as this replica stands for it: see `keeper.PoolKeeper`."""

    @property
    def pool(self) -> str:
        """The pool."""
        ...

    @property
    def holds_lease(self) -> bool:
        """Whether the pool is ours, be it still being loaded."""
        ...

    @property
    def would_serve(self) -> bool:
        """Whether the pool is not ours, and could be served by us at once."""
        ...

    @property
    def may_move(self) -> bool:
        """Whether the pool is ours and can be handed over."""
        ...

    def try_now(self) -> None:
        """Try for the lease without waiting."""
        ...

    async def hand_over(self) -> None:
        """Give the pool up gracefully."""
        ...


def replicas_subject(prefix: str) -> str:
    """Where replicas speak to one another; no pool can have this name."""
    return f"{prefix}.v1.REPLICAS"


class Replicas:
    """This replica among the others, from `start` to `stop`; before and after, it is alone.

    Args:
        bus: The connection.
        prefix: The first token of all subjects.
        holder: Who we are.
        store: Whose truth we serve, if that is known.
        reply_prefixes: What a subject that is answered to may start with.
        on_conflict: Called when one of our pools is served from another database, and it is we who must leave.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        prefix: str,
        holder: str,
        store: str | None,
        reply_prefixes: tuple[str, ...],
        on_conflict: Callable[[ConfigurationError], None],
    ) -> None:
        self._bus = bus
        self._subject = replicas_subject(prefix)
        self._holder = holder
        self._store = store
        self._guard = ReplyGuard(prefix, reply_prefixes)
        self._on_conflict = on_conflict
        self._since_ms = int(time.time() * 1000)
        self._met: set[str] = set()
        self._is_leaving = False
        self._stands: dict[str, Stand] = {}
        self._others: dict[str, Standing] = {}
        self._heard_s: dict[str, float] = {}
        self._seen: frozenset[Standing] = frozenset()
        self._same_since_s = steady_s()
        self._changed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._subscription: BusSubscription | None = None

    def attach(self, stands: Sequence[Stand]) -> None:
        """Say what we stand for."""
        self._stands = {stand.pool: stand for stand in stands}

    async def start(self) -> None:
        """Speak and listen. May be called twice.

        Raises:
            ConfigurationError: One of our pools is served from another database.
        """
        if self._running is None:
            await self._ask()
            self._subscription = await self._bus.subscribe(self._subject, self._hear)
            self._running = asyncio.create_task(self._run(), name="replicas")

    async def stop(self) -> None:
        """Say for the last time what we have, which is nothing once the pools are handed over. May be called twice."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
            self._tell()
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    def changed(self) -> None:
        """Something of us changed: let the others know."""
        self._changed.set()

    def is_heir(self, pool: str) -> bool:
        """Whether nobody has the pool and it is for us to take it."""
        return heirs(self._standings()).get(pool) == self._holder

    async def _ask(self) -> None:
        """Ask who is there, before we listen ourselves; nobody, mostly, which NATS says at once."""
        answers: asyncio.Queue[BusMessage] = asyncio.Queue()
        inbox = self._bus.new_inbox()
        subscription = await self._bus.subscribe(inbox, answers.put_nowait)
        try:
            self._bus.send(self._subject, encode(self._standing()), reply=inbox)
            async with asyncio.timeout(ASK_S):
                while (answer := await answers.get()).status != NO_RESPONDERS:
                    self._refuse_beside(answer)
        except (TimeoutError, UnavailableError):
            return  # that was all; or nobody can be heard, and their news will tell
        finally:
            await subscription.unsubscribe()

    def _refuse_beside(self, answer: BusMessage) -> None:
        try:
            other = _STANDING.decode(answer.data)
        except msgspec.MsgspecError:
            return
        pool = shared_pool(other, frozenset(self._stands))
        if pool is not None and is_stranger(other, self._store):
            raise conflict(pool, other)

    async def _run(self) -> None:
        while True:
            try:
                self._tell()
                self._forget_the_silent()
                await self._consider()
            except Exception:
                # The pools are served all the same; only their spread rests on this loop.
                log.exception("spreading the pools failed")
            self._changed.clear()
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _tell(self) -> None:
        try:
            self._bus.send(self._subject, encode(self._standing()))
        except OrchestratorError as error:
            log.debug("replicas not told", reason=error.message)

    def _hear(self, message: BusMessage) -> None:
        try:
            standing = _STANDING.decode(message.data)
        except msgspec.MsgspecError:
            return
        if standing.holder == self._holder:
            return
        if message.reply and self._guard.may_answer(message):
            self._answer(message.reply)
        if is_stranger(standing, self._store):
            self._meet(standing)
            return
        before = self._others.pop(standing.holder, None)
        self._heard_s.pop(standing.holder, None)
        if standing.owns or standing.would_serve:  # else it leaves, or can do nothing now
            self._others[standing.holder] = standing
            self._heard_s[standing.holder] = steady_s()
        if before != self._others.get(standing.holder):
            self._wake_heirs()

    def _answer(self, reply: str) -> None:
        try:
            self._bus.send(reply, encode(self._standing()))
        except OrchestratorError as error:
            log.debug("replica not answered", reason=error.message)

    def _meet(self, other: Standing) -> None:
        pool = shared_pool(other, frozenset(self._stands))
        if pool is None or self._is_leaving:
            return
        error = conflict(pool, other)
        if must_leave(self._standing(), other):
            self._is_leaving = True
            self._on_conflict(error)
        elif other.holder not in self._met:
            if len(self._met) >= MET:
                self._met.clear()
            self._met.add(other.holder)
            self.changed()  # so that it hears of us at once
            log.error("two databases for one pool: the other replica should leave", reason=error.message)

    def _forget_the_silent(self) -> None:
        silent = [holder for holder, heard_s in self._heard_s.items() if steady_s() - heard_s > GONE_S]
        for holder in silent:
            del self._others[holder], self._heard_s[holder]
        if silent:
            self._wake_heirs()

    def _wake_heirs(self) -> None:
        for pool, holder in heirs(self._standings()).items():
            if holder == self._holder:
                self._stands[pool].try_now()

    async def _consider(self) -> None:
        standings = self._standings()
        now_s = steady_s()
        if frozenset(standings) != self._seen:
            self._seen, self._same_since_s = frozenset(standings), now_s
        if now_s - self._same_since_s < SETTLE_S:
            return
        move = next_move(standings)
        if move is not None and move.giver == self._holder:
            log.info("pool moves on", pool=move.pool, to=move.taker)
            await self._stands[move.pool].hand_over()

    def _standings(self) -> list[Standing]:
        return [self._standing(), *self._others.values()]

    def _standing(self) -> Standing:
        stands = self._stands.values()
        return Standing(
            holder=self._holder,
            owns=frozenset(stand.pool for stand in stands if stand.holds_lease),
            would_serve=frozenset(stand.pool for stand in stands if stand.would_serve),
            may_move=frozenset(stand.pool for stand in stands if stand.may_move),
            store=self._store,
            # Of several who share a database the first one counts: so the same of two databases stays everywhere.
            since_ms=min([self._since_ms, *(each.since_ms for each in self._others.values() if each.since_ms)]),
        )
