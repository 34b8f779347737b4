"""The database of one schedule: the oracle's store, what may happen to a commit on its way, and the book of commits."""

from tests.simulation.book import Book
from tests.simulation.world import World
from tests.support.core_rig import POOL, done, window_read

from callboard.orchestrator.core.changes import Changes, Snapshot, WindowAsked
from callboard.orchestrator.core.events import Looked, WindowRead
from callboard.orchestrator.core.model import Task
from callboard.orchestrator.core.specs import stored_task
from callboard.orchestrator.store.memory import MemoryStore
from callboard.orchestrator.store.port import Committed, KeyHolder, Lease, OfferContent
from callboard.schemas.vocabulary import TaskState

LEASE_MS = 3_000
KEY_RETENTION_MS = 3_600_000


class AwayError(Exception):
    """The database does not answer; a commit may have happened."""


class Database:
    """Everything that is durable."""

    def __init__(self, world: World, book: Book) -> None:
        self.is_down = False
        self.lost_answers = 0.0
        self._world, self._book = world, book
        self._store = MemoryStore(key_retention_ms=KEY_RETENTION_MS, clock=lambda: world.now_ms)
        self._booked: set[tuple[int, int]] = set()

    def acquire(self) -> Lease:
        """The pool's lease, with a higher epoch than ever."""
        lease = done(self._store.acquire(POOL, holder="replica", replica="replica", lease_ms=LEASE_MS))
        assert lease is not None
        return lease

    def load(self, lease: Lease) -> Snapshot:
        """What is committed."""
        return done(self._store.load(lease))

    def commit(self, lease: Lease, number: int, changes: Changes) -> Committed:
        """Write a batch.

        Raises:
            AwayError: perhaps it is written, perhaps not.
            FencedError: there is a later epoch; nothing was written.
        """
        if self.is_down:
            raise AwayError
        committed = done(self._store.commit(lease, number, changes, lease_ms=LEASE_MS))
        if committed.stale:
            self._world.fail(f"guards did not match: {sorted(committed.stale)}", about=min(committed.stale))
        if (lease.epoch, number) not in self._booked:
            self._booked.add((lease.epoch, number))
            self._book.committed(changes, committed.refused)
        if self._world.chance(self.lost_answers):
            self._world.note("WEATHER the answer to a commit is lost")
            raise AwayError
        return committed

    def look_up(self, task_id: str) -> Looked:
        """What is known of a task.

        Raises:
            AwayError: nothing can be known.
        """
        if self.is_down:
            raise AwayError
        return done(self._store.look_up(POOL, task_id))

    def window(self, asked: WindowAsked) -> WindowRead:
        """Waiting tasks, as they are now.

        Raises:
            AwayError: nothing can be known.
        """
        if self.is_down:
            raise AwayError
        return window_read(self._store, asked)

    def queued(self) -> list[Task]:
        """All committed tasks that wait for an agent: what an owner without a window would hold."""
        states = [(task_id, line.state) for task_id, line in self._book.lines.items()]
        ids = [task_id for task_id, state in states if state is TaskState.QUEUED]
        found = [done(self._store.look_up(POOL, task_id)).stored for task_id in ids]
        return [stored_task(stored) for stored in found if stored is not None]

    def offer(self, task_id: str) -> OfferContent | None:
        """What the offer of a task carries, while it lives."""
        return done(self._store.offers([task_id])).get(task_id)

    def holder(self, scope: str, key: str) -> KeyHolder:
        """Whose a key is."""
        return done(self._store.key_holders(POOL, scope, [key]))[key]
