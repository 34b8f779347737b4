"""Publishes what was committed: at least once, in the order of the commits, whatever happens to NATS or to the owner.

The protocol of the outbox:

1. Whatever a batch tells is written with it. After the commit it is published from memory, and counts as published
   once the carrier knows that it has arrived; a later batch, or a renewal of the lease, then forgets the rows.
2. What a former owner left is read and published before anything of ours.
3. When anything fails, memory is of no use: what is not known to have arrived is read again and published again. So
   memory holds little, however long NATS is away, and the table holds the rest.
4. Groups go one after another: what a later batch tells is never sent before an earlier one has arrived.

An event's id never changes, so that whoever hears it twice can tell.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from callboard.orchestrator.announcements import changes_in
from callboard.orchestrator.store.port import (
    NOTHING_PUBLISHED,
    NOWHERE,
    Lease,
    Place,
    Published,
    Store,
    StoreUnavailableError,
)
from callboard.orchestrator.telemetry import Telemetry
from callboard.schemas.errors import OrchestratorError, UnavailableError
from callboard.schemas.events import Change, Envelopes, EventMessage
from callboard.schemas.subjects import Subjects

log = structlog.get_logger("callboard.orchestrator")

HELD_BYTES: Final = 8 * 1024 * 1024
"""What memory holds of what is committed and not published; beyond, it is read from the table."""
ROWS_AT_ONCE: Final = 16
GATHER_S: Final = 0.02
"""Between two groups: what is told meanwhile goes together, for a fraction of the work."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0


class Carrier(Protocol):
    """How events get to those who want them."""

    async def publish(self, messages: Sequence[EventMessage]) -> None:
        """Publish these, in order; they have arrived when this returns.

        Raises:
            OrchestratorError: perhaps not all of them have.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What one batch tells."""

    place: Place
    told: Sequence[Change]
    size: int


class Publisher:
    """Publishes the events of one pool while its lease is ours.

    Args:
        may_publish: Whether the lease is trusted.
        on_idle: Called when everything is published.
    """

    def __init__(
        self,
        carrier: Carrier,
        store: Store,
        lease: Lease,
        subjects: Subjects,
        *,
        telemetry: Telemetry,
        may_publish: Callable[[], bool],
        on_idle: Callable[[], None],
    ) -> None:
        self._carrier, self._store, self._lease = carrier, store, lease
        self._envelopes = Envelopes(subjects)
        self._telemetry = telemetry
        self._may_publish, self._on_idle = may_publish, on_idle
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._last = Place(lease.epoch, 0)
        """The last batch that is known to be committed."""
        self._read_through = self._last
        """Through this batch the table has to be read: memory has only what came later."""
        self._published = NOWHERE
        self._forgotten = NOWHERE
        self._is_failing = False

    def take(self, number: int, told: Sequence[Change]) -> None:
        """Batch `number` is committed, and tells this."""
        self._last = Place(self._lease.epoch, number)
        if not told:
            return
        size = sum(len(change.data) for change in told)
        self._waiting.append(_Waiting(self._last, told, size))
        self._waiting_bytes += size
        if self._waiting_bytes > HELD_BYTES:
            self._drop()
        self._wake.set()

    @property
    def is_done(self) -> bool:
        """Whether all is published that can be."""
        return self._is_failing or (not self._waiting and self._published >= self._read_through)

    @property
    def to_forget(self) -> Published:
        """What need not be kept any more; say `forgot` once it is not."""
        if self._published == self._forgotten:
            return NOTHING_PUBLISHED
        return Published(self._forgotten, self._published)

    def forgot(self, published: Published) -> None:
        """The rows of these are gone."""
        if published != NOTHING_PUBLISHED:
            self._forgotten = published.through

    async def run(self) -> None:
        """Publish until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                if self._published < self._read_through:
                    await self._publish_kept()
                else:
                    await self._publish_waiting()
                pause_s = FIRST_PAUSE_S
            except Exception as error:
                if not isinstance(error, OrchestratorError | StoreUnavailableError):
                    log.exception("publishing failed", pool=self._lease.pool)
                self._fail(str(error))
                # Nothing says when a stream has a leader again, or when trust is back.
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _publish_waiting(self) -> None:
        while not self._waiting:
            self._wake.clear()
            self._on_idle()
            await self._wake.wait()
        group = list(self._waiting)
        await self._publish([change for waiting in group for change in waiting.told])
        self._published = group[-1].place
        await asyncio.sleep(GATHER_S)
        # What was dropped meanwhile is read again, and told twice.
        while self._waiting and self._waiting[0].place <= self._published:
            self._waiting_bytes -= self._waiting.popleft().size

    async def _publish_kept(self) -> None:
        """Publish from the table, until memory has all the rest."""
        known = self._last
        rows = await self._store.outbox(self._lease.pool, self._published, limit=ROWS_AT_ONCE)
        for row in rows:
            await self._publish(changes_in(row.lines))
            self._published = row.place
        if len(rows) < ROWS_AT_ONCE:
            # All that was committed when the reading began has been read.
            self._published = max(self._published, known)
        while self._waiting and self._waiting[0].place <= self._published:
            self._waiting_bytes -= self._waiting.popleft().size

    async def _publish(self, told: Sequence[Change]) -> None:
        if not self._may_publish():
            raise UnavailableError("the lease is not trusted")
        await self._carrier.publish([self._envelopes.wrap(change) for change in told])
        self._telemetry.events_published(len(told))
        if self._is_failing:
            self._is_failing = False
            log.info("events are published again", pool=self._lease.pool)

    def _fail(self, reason: str) -> None:
        self._telemetry.events_failed()
        if not self._is_failing:
            self._is_failing = True
            log.warning("events wait in the database", pool=self._lease.pool, reason=reason)
            self._on_idle()
        self._drop()

    def _drop(self) -> None:
        """Hold nothing: the table has it all."""
        self._waiting.clear()
        self._waiting_bytes = 0
        self._read_through = self._last
