"""Publishes what was committed: at least once, in the order of the commits, whatever happens to NATS or to the owner.

What is to be published, and from where, is the affair of `outgoing`; here it is carried out.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from callboard.orchestrator.announcements import changes_in
from callboard.orchestrator.outgoing import Outgoing
from callboard.orchestrator.store.port import Lease, Published, Store, StoreUnavailableError
from callboard.orchestrator.telemetry import Telemetry
from callboard.schemas.errors import OrchestratorError, UnavailableError
from callboard.schemas.events import Change, Envelopes, EventMessage
from callboard.schemas.subjects import Subjects

log = structlog.get_logger("callboard.orchestrator")

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


class Publisher:
    """Publishes the events of one pool while its lease is ours.

    Args:
        now_ms: The pool's clock.
        may_publish: Whether the lease is trusted.
        on_idle: Called when everything is published that can be.
    """

    def __init__(
        self,
        carrier: Carrier,
        store: Store,
        lease: Lease,
        subjects: Subjects,
        *,
        telemetry: Telemetry,
        now_ms: Callable[[], int],
        may_publish: Callable[[], bool],
        on_idle: Callable[[], None],
    ) -> None:
        self._carrier, self._store, self._lease = carrier, store, lease
        self._envelopes = Envelopes(subjects)
        self._telemetry = telemetry
        self._now_ms, self._may_publish, self._on_idle = now_ms, may_publish, on_idle
        self._outgoing = Outgoing(lease.epoch)
        self._wake = asyncio.Event()
        self._is_failing = False

    def take(self, number: int, changes: Sequence[Change]) -> None:
        """Batch `number` is committed, and tells this."""
        self._outgoing.take(number, changes)
        if changes:
            self._wake.set()

    @property
    def is_done(self) -> bool:
        """Whether all is published that can be."""
        return self._is_failing or self._outgoing.is_empty

    @property
    def to_forget(self) -> Published:
        """What need not be kept any more; say `forgot` once it is not."""
        return self._outgoing.to_forget

    def forgot(self, published: Published) -> None:
        """The rows of these are gone."""
        self._outgoing.forgot(published)

    async def run(self) -> None:
        """Publish until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                if self._outgoing.must_read:
                    await self._publish_kept()
                else:
                    await self._publish_waiting()
                pause_s = FIRST_PAUSE_S
            except Exception as error:
                if not isinstance(error, OrchestratorError | StoreUnavailableError):
                    log.exception("publishing failed", pool=self._lease.pool)
                await self._fail(str(error))
                # Nothing says when a stream has a leader again, or when trust is back.
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _publish_waiting(self) -> None:
        while self._outgoing.is_empty:
            self._wake.clear()
            self._on_idle()
            await self._wake.wait()
        group = self._outgoing.group()
        if group:
            await self._publish([change for told in group for change in told.changes])
            self._outgoing.arrived(group[-1].place)
            await asyncio.sleep(GATHER_S)

    async def _publish_kept(self) -> None:
        """Publish from the table, until memory has all the rest."""
        known = self._outgoing.last
        rows = await self._store.outbox(self._lease.pool, self._outgoing.published, limit=ROWS_AT_ONCE)
        for row in rows:
            await self._publish(changes_in(row.lines))
            self._outgoing.arrived(row.place)
        if len(rows) < ROWS_AT_ONCE:
            # All that was committed when the reading began has been read.
            self._outgoing.arrived(known)

    async def _publish(self, changes: Sequence[Change]) -> None:
        if not self._may_publish():
            raise UnavailableError("the lease is not trusted")
        await self._carrier.publish([self._envelopes.wrap(change) for change in changes])
        self._telemetry.events_published(len(changes))
        if self._is_failing:
            self._is_failing = False
            self._telemetry.set_outbox(0, 0, 0)
            log.info("events are published again", pool=self._lease.pool)

    async def _fail(self, reason: str) -> None:
        self._telemetry.events_failed()
        self._outgoing.failed()
        if not self._is_failing:
            self._is_failing = True
            log.warning("events wait in the database", pool=self._lease.pool, reason=reason)
            self._on_idle()
        with contextlib.suppress(StoreUnavailableError):
            kept = await self._store.backlog(self._lease.pool)
            age_ms = 0 if kept.oldest_ms is None else self._now_ms() - kept.oldest_ms
            self._telemetry.set_outbox(kept.rows, kept.bytes, age_ms)
