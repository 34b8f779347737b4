"""The database of one schedule: the oracle's store, what may happen to a commit on its way, and the book of commits.

Its clock is the world's: leases expire by it, whatever a replica's own clock says.
"""

from collections.abc import Callable

from tests.simulation.book import Book
from tests.simulation.world import World
from tests.support.core_rig import POOL, done, window_read

from callboard.orchestrator.core.changes import Changes, Snapshot, WindowAsked
from callboard.orchestrator.core.events import Looked, WindowRead
from callboard.orchestrator.core.model import Task
from callboard.orchestrator.core.specs import stored_task
from callboard.orchestrator.store.memory import MemoryStore
from callboard.orchestrator.store.port import (
    NOWHERE,
    Committed,
    Events,
    FencedError,
    KeyHolder,
    Lease,
    OfferContent,
    OutboxRow,
    Place,
    Published,
)
from callboard.schemas.vocabulary import TaskState

LEASE_MS = 3_000
KEY_RETENTION_MS = 3_600_000
LATEST_MS = 4_000
"""How long after its answer was given up a commit may still happen."""


ToldWith = tuple[Events, Published]
"""What a batch tells, and what is published meanwhile."""


class AwayError(Exception):
    """The database does not answer; a commit may have happened, or happen yet."""


class Database:
    """Everything that is durable."""

    def __init__(self, world: World, book: Book) -> None:
        self.is_down = False
        self.slow_ms = 0
        """The longest that an operation takes, beside the usual."""
        self.lost_answers = 0.0
        self.late_commits = 0.0
        self.epoch = 0
        self.on_acquired: Callable[[Lease], None] = _ignore
        self._world, self._book = world, book
        self._store = MemoryStore(key_retention_ms=KEY_RETENTION_MS, clock=lambda: world.now_ms)
        self._booked: set[tuple[int, int]] = set()
        self._queued: dict[str, Task] = {}

    def ask(self, operation: Callable[[], None]) -> None:
        """Have an operation arrive in a moment."""
        delay_ms = self._world.between(1, 6)
        if self.slow_ms:
            delay_ms += self._world.between(0, self.slow_ms)
        self._world.after(delay_ms, operation)

    # The lease.

    def acquire(self, holder: str) -> Lease | None:
        """The pool's lease, with a higher epoch than ever; `None` while somebody else has it.

        Raises:
            AwayError: nothing can be known.
        """
        self._require()
        lease = done(self._store.acquire(POOL, holder=holder, replica=holder, lease_ms=LEASE_MS))
        if lease is not None:
            if lease.epoch <= self.epoch:
                self._world.fail(f"{holder} got epoch {lease.epoch} after {self.epoch}")
            self.epoch = lease.epoch
            self.on_acquired(lease)
        return lease

    def renew(self, lease: Lease, published: Published) -> Lease:
        """Extend the lease.

        Raises:
            AwayError: perhaps it is extended, perhaps not.
            FencedError: there is a later epoch.
        """
        self._require()
        renewed = done(self._store.renew(lease, lease_ms=LEASE_MS, published=published))
        self._require_current(lease, "renewed its lease")
        return renewed

    def release(self, lease: Lease, published: Published) -> None:
        """Give the lease up."""
        if not self.is_down:
            done(self._store.release(lease, published=published))

    def load(self, lease: Lease) -> Snapshot:
        """What is committed.

        Raises:
            AwayError: nothing can be known.
        """
        self._require()
        return done(self._store.load(lease))

    # Batches.

    def commit(self, lease: Lease, number: int, changes: Changes, told: ToldWith) -> Committed:
        """Write a batch.

        Raises:
            AwayError: perhaps it is written, perhaps not yet.
            FencedError: there is a later epoch; nothing was written.
        """
        self._require()
        if self._world.chance(self.late_commits):
            self._world.note("WEATHER a commit is late, and taken for lost")
            self._world.tally["noise late commit"] += 1
            self._book.blame(None)
            self._world.after(
                self._world.between(100, LATEST_MS), lambda: self._commit_late(lease, number, changes, told)
            )
            raise AwayError
        committed = self._commit(lease, number, changes, told)
        if self._world.chance(self.lost_answers):
            self._world.note("the answer to a commit is lost")
            self._world.tally["noise lost answer"] += 1
            self._book.blame(None)
            raise AwayError
        return committed

    def _commit_late(self, lease: Lease, number: int, changes: Changes, told: ToldWith) -> None:
        try:
            self._commit(lease, number, changes, told)
        except FencedError:
            self._world.tally["a late commit fenced"] += 1

    def _commit(self, lease: Lease, number: int, changes: Changes, told: ToldWith) -> Committed:
        events, published = told
        commit = self._store.commit(lease, number, changes, lease_ms=LEASE_MS, events=events, published=published)
        try:
            committed = done(commit)
        except FencedError:
            self._world.tally["a commit fenced"] += 1
            raise
        self._require_current(lease, f"wrote batch {number}")
        if committed.stale:
            self._world.fail(f"guards did not match: {sorted(committed.stale)}", about=min(committed.stale))
        if (lease.epoch, number) not in self._booked:
            self._booked.add((lease.epoch, number))
            self._book.committed(changes, committed.refused)
        else:
            self._world.tally["a commit repeated"] += 1
        return committed

    def _require(self) -> None:
        if self.is_down:
            raise AwayError

    def _require_current(self, lease: Lease, what: str) -> None:
        if lease.epoch != self.epoch:
            self._world.fail(f"{lease.holder} of epoch {lease.epoch} {what} in epoch {self.epoch}")

    # Reading.

    def outbox(self, after: Place, limit: int) -> list[OutboxRow]:
        """What is told and not known to have arrived.

        Raises:
            AwayError: nothing can be known.
        """
        self._require()
        return done(self._store.outbox(POOL, after, limit=limit))

    @property
    def keeps_events(self) -> bool:
        """Whether anything in the outbox is not forgotten."""
        return bool(done(self._store.outbox(POOL, NOWHERE, limit=1)))

    def look_up(self, task_id: str) -> Looked:
        """What is known of a task.

        Raises:
            AwayError: nothing can be known.
        """
        self._require()
        return done(self._store.look_up(POOL, task_id))

    def window(self, asked: WindowAsked) -> WindowRead:
        """Waiting tasks, as they are now.

        Raises:
            AwayError: nothing can be known.
        """
        self._require()
        return window_read(self._store, asked)

    def queued(self) -> list[Task]:
        """All committed tasks that wait for an agent, as to their place: what an owner without a window would hold."""
        return [self._task(task_id) for task_id, line in self._book.live.items() if line.state is TaskState.QUEUED]

    def _task(self, task_id: str) -> Task:
        known = self._queued.get(task_id)
        if known is None:
            stored = done(self._store.look_up(POOL, task_id)).stored
            assert stored is not None
            known = self._queued[task_id] = stored_task(stored)
        return known

    def offer(self, task_id: str) -> OfferContent | None:
        """What the offer of a task carries, while it lives.

        Raises:
            AwayError: nothing can be known.
        """
        self._require()
        return done(self._store.offers([task_id])).get(task_id)

    def holder(self, scope: str, key: str) -> KeyHolder:
        """Whose a key is."""
        return done(self._store.key_holders(POOL, scope, [key]))[key]


def _ignore(_lease: Lease) -> None:
    pass
