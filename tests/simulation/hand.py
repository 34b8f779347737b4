"""The owner's one hand in the database, as `callboard.orchestrator.writer`: a commit or a renewal, until it is settled.

A commit whose answer is lost is repeated to the letter. Trust is extended by a first try only: a repeated commit may
find that it was committed long ago, and says nothing then of how long the lease runs.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.simulation.database import AwayError, ToldWith

from callboard.orchestrator.clock import PoolClock
from callboard.orchestrator.core.effects import Batch
from callboard.orchestrator.outgoing import Outgoing
from callboard.orchestrator.store.port import Committed, Events, FencedError, Lease
from callboard.orchestrator.trust import Trust

if TYPE_CHECKING:
    from tests.simulation.replica import Replica

Settled = Callable[[Batch, Committed], None]

RETRY_MS: Final = 200
PATIENCE_S: Final = 0.7


class Hand:
    """Writes for one lease.

    Args:
        on_change: called when something ended, or the database went away.
        on_lost: called with the reason when the lease is not ours any more.
    """

    def __init__(
        self,
        replica: "Replica",
        lease: Lease,
        trust: Trust,
        clock: PoolClock,
        outgoing: Outgoing,
        *,
        on_change: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.is_busy = False
        self.is_database_down = False
        self.is_over = False
        """Whether nothing is to be done any more."""
        self.last_words: Callable[[], None] | None = None
        """Called when the next commit is handed over, to kill its owner there."""
        self._replica, self._lease, self._trust, self._clock = replica, lease, trust, clock
        self._world, self._database = replica.around.world, replica.around.database
        self._outgoing = outgoing
        self._on_change, self._on_lost = on_change, on_lost
        self._commit_began_s: float | None = None

    @property
    def is_in_doubt(self) -> bool:
        """Whether a commit is open for longer than callers should wait."""
        return self._commit_began_s is not None and self._replica.clock.s() - self._commit_began_s > PATIENCE_S

    def commit(self, batch: Batch, events: Events, on_settled: Settled) -> None:
        """Commit `batch` and what it tells; `on_settled` is called once it is durable."""
        self.is_busy = True
        self._commit_began_s = self._replica.clock.s()
        self._replica.passes("decided", partial(self._send, batch, (events, self._outgoing.to_forget), on_settled, 1))

    def renew(self) -> None:
        """Extend the lease."""
        self.is_busy = True
        self._renew()

    def _send(self, batch: Batch, told: ToldWith, on_settled: Settled, tries: int) -> None:
        if self.is_over:
            return
        began_s = self._replica.clock.s()
        if self.last_words is not None:
            self.last_words()

        def commit() -> None:
            if not self._replica.is_alive and self._world.chance(0.5):
                return  # it died before the transaction was handed over
            try:
                committed = self._database.commit(self._lease, batch.number, batch.changes, told)
            except AwayError:
                self._replica.run(partial(self._away, partial(self._send, batch, told, on_settled, tries + 1)))
            except FencedError:
                self._replica.run(partial(self._on_lost, "fenced"))
            else:
                self._outgoing.forgot(told[1])
                then = partial(self._committed, batch, committed, on_settled, began_s if tries == 1 else None)
                self._world.after(
                    self._world.between(1, 6), lambda: self._replica.run(lambda: self._passes_committed(then))
                )

        self._database.ask(commit)

    def _passes_committed(self, then: Callable[[], None]) -> None:
        self._replica.passes("committed", then)

    def _committed(self, batch: Batch, committed: Committed, on_settled: Settled, began_s: float | None) -> None:
        if self.is_over:
            return
        self._commit_began_s = None
        if began_s is not None:
            self._extend(committed.now_ms, began_s)
        self.is_busy = self.is_database_down = False
        on_settled(batch, committed)
        self._on_change()

    def _renew(self) -> None:
        if self.is_over:
            return
        began_s = self._replica.clock.s()
        published = self._outgoing.to_forget

        def renew() -> None:
            try:
                lease = self._database.renew(self._lease, published)
            except AwayError:
                self._replica.run(partial(self._away, self._renew))
            except FencedError:
                self._replica.run(partial(self._on_lost, "fenced"))
            else:
                self._outgoing.forgot(published)
                self._world.after(1, lambda: self._replica.run(partial(self._renewed, lease, began_s)))

        self._database.ask(renew)

    def _renewed(self, lease: Lease, began_s: float) -> None:
        if not self.is_over:
            self._extend(lease.now_ms, began_s)
            self.is_busy = self.is_database_down = False
            self._on_change()

    def _extend(self, now_ms: int, began_s: float) -> None:
        self._trust.extend(began_s)
        self._clock.set(now_ms, began_s)

    def _away(self, again: Callable[[], None]) -> None:
        if not self.is_over:
            self.is_database_down = True
            self._on_change()
            self._replica.after(RETRY_MS, again)
