"""The owner's publishing, as `callboard.orchestrator.publisher`: the product's own `Outgoing`, in this world.

What is sent may arrive in part, or all of it while its sender never learns that.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.simulation.database import AwayError

from callboard.orchestrator.announcements import changes_in
from callboard.orchestrator.outgoing import Outgoing
from callboard.orchestrator.store.port import Lease, OutboxRow, Place
from callboard.orchestrator.trust import Trust
from callboard.schemas.events import Change

if TYPE_CHECKING:
    from tests.simulation.replica import Replica

RETRY_MS: Final = 200
ROWS_AT_ONCE: Final = 3
HELD_BYTES: Final = 4_000
"""A few batches: memory runs over again and again."""
BROKEN: Final = 0.05
"""One group of so many breaks off, or its arrival is not known, whenever anything goes wrong in a schedule."""


class Press:
    """Publishes for one lease."""

    def __init__(self, replica: "Replica", lease: Lease, trust: Trust) -> None:
        self.is_over = False
        self.outgoing = Outgoing(lease.epoch, held_bytes=HELD_BYTES)
        self._replica, self._trust = replica, trust
        around = replica.around
        self._world, self._database, self._book = around.world, around.database, around.book
        self._network = around.network
        self._share = 0.0 if around.plan.is_calm else BROKEN
        self._is_busy = False

    def take(self, number: int, changes: Sequence[Change]) -> None:
        """A batch is committed, and tells this."""
        self.outgoing.take(number, changes)
        self.work()

    def work(self) -> None:
        """Publish what there is."""
        if self._is_busy or self.is_over or self.outgoing.is_empty:
            return
        self._is_busy = True
        if not self._trust.holds:
            self._fail()
        elif self.outgoing.must_read:
            self._read()
        else:
            group = self.outgoing.group()
            changes = [change for told in group for change in told.changes]
            self._send(changes, lambda: self._arrived(group[-1].place, self._end))

    def _arrived(self, place: Place, then: Callable[[], None]) -> None:
        self.outgoing.arrived(place)
        then()

    def _end(self) -> None:
        self._is_busy = False
        self.work()

    def _fail(self) -> None:
        if not self.is_over:
            self.outgoing.failed()
            self._is_busy = False
            self._replica.after(RETRY_MS, self.work)

    # From the table.

    def _read(self) -> None:
        known = self.outgoing.last

        def read() -> None:
            try:
                rows = self._database.outbox(self.outgoing.published, ROWS_AT_ONCE)
            except AwayError:
                self._replica.run(self._fail)
            else:
                # A full read says nothing about what comes behind it.
                through = rows[-1].place if len(rows) == ROWS_AT_ONCE else known
                self._world.after(1, lambda: self._replica.run(partial(self._next_row, rows, through)))

        self._database.ask(read)

    def _next_row(self, rows: list[OutboxRow], through: Place) -> None:
        if self.is_over:
            return
        if not rows:
            self._arrived(through, self._end)
        elif not self._trust.holds:
            self._fail()
        else:
            self._world.tally["events read again"] += 1
            row, *rest = rows
            then = partial(self._next_row, rest, through)
            self._send(changes_in(row.lines), lambda: self._arrived(row.place, then))

    # On its way.

    def _send(self, changes: Sequence[Change], then: Callable[[], None]) -> None:
        self._replica.passes("sending", partial(self._carry, changes, then))

    def _carry(self, changes: Sequence[Change], then: Callable[[], None]) -> None:
        if self.is_over:
            return
        is_broken = self._world.chance(self._share)
        heard = self._world.between(0, len(changes)) if is_broken else len(changes)
        if not self._network.carries(self._replica.name):
            is_broken, heard = True, 0
        for change in changes[:heard]:
            self._book.heard(change)
        if is_broken:
            self._world.tally["noise events broken off"] += 1
            self._world.after(self._world.between(1, 50), lambda: self._replica.run(self._fail))
        else:
            self._world.after(self._world.between(1, 4), lambda: self._replica.run(partial(self._unless_over, then)))

    def _unless_over(self, then: Callable[[], None]) -> None:
        if not self.is_over:
            then()
