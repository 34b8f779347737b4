"""The owner's one hand in the database: a commit or a renewal of the lease at a time, each until it is settled.

Rules:

- A commit whose outcome is unknown is repeated to the letter, for as long as the database is away.
- Trust in the lease is extended by a first try only: a repeated commit may find that it was committed long ago, and
  then it says nothing about how long the lease still runs; the renewal that follows does.
- An operation is never cancelled, since a transaction may be open; the store bounds its time.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog

from callboard.orchestrator.clock import PoolClock, steady_s
from callboard.orchestrator.core.effects import Batch
from callboard.orchestrator.publisher import Publisher
from callboard.orchestrator.store.port import Committed, Events, FencedError, Lease, Store, StoreUnavailableError
from callboard.orchestrator.telemetry import Telemetry
from callboard.orchestrator.trust import Trust

log = structlog.get_logger("callboard.orchestrator")

T = TypeVar("T")

PATIENCE_S: Final = 0.7
"""How long a commit may be open before callers are told that its outcome is in doubt."""
RETRY_S: Final = 0.2


class Writer:
    """Writes for one lease.

    Args:
        on_change: Called when an operation has ended, or the database went away.
        on_lost: Called with the reason when the lease is not ours any more.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        *,
        lease_ms: int,
        trust: Trust,
        clock: PoolClock,
        telemetry: Telemetry,
        publisher: Publisher,
        on_change: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.is_database_down = False
        """Whether the last word of the database was none."""
        self._store = store
        self._lease = lease
        self._lease_ms = lease_ms
        self._trust = trust
        self._clock = clock
        self._telemetry = telemetry
        self._publisher = publisher
        self._on_change = on_change
        self._on_lost = on_lost
        self._open: asyncio.Task[None] | None = None
        self._commit_began_s: float | None = None
        self._stopped = False

    @property
    def is_busy(self) -> bool:
        """Whether an operation is open."""
        return self._open is not None

    @property
    def doubt_in_s(self) -> float | None:
        """Seconds until the open commit counts as in doubt, 0 or less when it does; `None` without one."""
        return None if self._commit_began_s is None else self._commit_began_s + PATIENCE_S - steady_s()

    @property
    def is_in_doubt(self) -> bool:
        """Whether a commit is open for longer than callers should wait."""
        return self._commit_began_s is not None and steady_s() - self._commit_began_s > PATIENCE_S

    def commit(self, batch: Batch, events: Events, on_settled: Callable[[Batch, Committed], None]) -> None:
        """Commit `batch` and what it tells; `on_settled` is called once it is durable."""
        self._commit_began_s = steady_s()
        self._open = asyncio.create_task(self._commit(batch, events, on_settled))

    def renew(self) -> None:
        """Extend the lease."""
        self._open = asyncio.create_task(self._renew())

    async def stop(self) -> None:
        """Wait until the open operation has ended; what is not settled then stays unknown."""
        self._stopped = True
        if self._open is not None:
            await asyncio.wait([self._open])

    async def _commit(self, batch: Batch, events: Events, on_settled: Callable[[Batch, Committed], None]) -> None:
        published = self._publisher.to_forget

        async def once() -> Committed:
            return await self._store.commit(
                self._lease,
                batch.number,
                batch.changes,
                lease_ms=self._lease_ms,
                events=events,
                published=published,
            )

        began_s = steady_s()
        committed = await self._until_settled(once)
        if committed is None:
            return
        self._telemetry.committed(len(batch.changes.tasks), (steady_s() - began_s) * 1000)
        self._commit_began_s = None
        self._open = None
        self._publisher.forgot(published)
        try:
            on_settled(batch, committed)
        except Exception:
            # Nobody awaits this task: an owner whose memory missed a commit would go on, and answer nobody.
            log.exception("a commit could not be taken in", pool=self._lease.pool, batch=batch.number)
            self._on_lost("a commit could not be taken in")
        self._on_change()

    async def _renew(self) -> None:
        published = self._publisher.to_forget

        async def once() -> Lease:
            return await self._store.renew(self._lease, lease_ms=self._lease_ms, published=published)

        if await self._until_settled(once) is not None:
            self._open = None
            self._publisher.forgot(published)
            self._on_change()

    async def _until_settled(self, once: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """The operation's result, however long the database is away; `None` when the lease is lost meanwhile."""
        tries = 0
        while not self._stopped:
            began_s = steady_s()
            tries += 1
            try:
                result = await once()
            except FencedError as error:
                self._on_lost(f"fenced: {error}")
                return None
            except StoreUnavailableError as error:
                if not self.is_database_down:
                    log.warning("database is away", pool=self._lease.pool, reason=str(error))
                self.is_database_down = True
                self._telemetry.commit_failed()
                self._on_change()
                await asyncio.sleep(RETRY_S)
            except Exception:
                log.exception("the store failed", pool=self._lease.pool)
                self._on_lost("the store failed")
                return None
            else:
                self.is_database_down = False
                if tries == 1 or isinstance(result, Lease):
                    self._trust.extend(began_s)
                if isinstance(result, Committed | Lease):
                    self._clock.set(result.now_ms, began_s)
                return result
        return None
