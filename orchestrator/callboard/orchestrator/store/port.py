"""What the shell asks of a store. Two implementations: Postgres, and the tests' oracle in memory; they must agree.

Rules:

- `commit` writes a batch in one transaction that begins with the lease check `(pool, epoch, holder, batch = n - 1)`,
  locking the lease row: an unlocked check is no fence.
- A batch may be committed again, to the letter: when `batch = n` stands in the lease already, it was this very batch,
  and the result is the same as the first time.
- Every row is guarded by the state and attempt that the batch before left. What does not match is not written and is
  reported as `stale`.
- The events of a batch are written with it: those of the tasks that it wrote, and no others. They stay until a later
  batch, a renewal or a release says that they are published.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from callboard.orchestrator.core.changes import AgendaRead, Changes, LaneRead, Snapshot, StoredTask
from callboard.orchestrator.core.events import Looked
from callboard.schemas.tasks import ListTasks, TaskDocument, TaskPage, TaskSpec
from callboard.schemas.vocabulary import HELD_TASK_STATES, WAITING_TASK_STATES, Durability

FIRST_ID: Final = "00000000-0000-0000-0000-000000000000"
"""No task id is before it."""
LIVE_STATES: Final = tuple(sorted(WAITING_TASK_STATES | HELD_TASK_STATES))


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The ownership of a pool: valid until its holder's trust in it runs out.

    `batch` is the last committed batch under it, `now_ms` the database's clock when it was taken or renewed.
    """

    pool: str
    holder: str
    replica: str
    epoch: int
    batch: int
    since_ms: int
    now_ms: int


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit did beside writing.

    `refused`: new tasks whose key belongs to another task, which do not exist. `stale`: tasks of which nothing was
    written, because their guard did not match or the database refused the row (a bug, logged). `now_ms`: the database's
    clock.
    """

    refused: frozenset[str] = frozenset()
    stale: frozenset[str] = frozenset()
    now_ms: int = 0


class OfferContent(msgspec.Struct, frozen=True, kw_only=True):
    """What an offer needs beside the core's facts: `spec` is the specification's JSON without the payload.

    `decoded` is that specification where it is at hand.
    """

    spec: bytes
    payload: bytes
    progress: bytes | None
    decoded: TaskSpec | None = None


class KeyHolder(msgspec.Struct, frozen=True, kw_only=True):
    """The task that a key belongs to."""

    task_id: str
    digest: bytes
    document: TaskDocument


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """A task as `tasks.retry` needs it: its state, and the specification with its payload."""

    task_id: str
    document: TaskDocument
    spec: bytes
    payload: bytes


class Place(NamedTuple):
    """A batch among all that a pool ever had, in the order of their commits."""

    epoch: int
    batch: int


NOWHERE: Final = Place(0, 0)
"""Before the first batch."""


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch tells the world: lines of JSON, the `data` of its events, in the order of the changes.

    `tasks` by task id; `agents` are those of agents, `None` when there are none.
    """

    tasks: dict[str, bytes] = {}
    agents: bytes | None = None

    def __bool__(self) -> bool:
        return bool(self.tasks) or self.agents is not None


NO_EVENTS: Final = Events()


class Published(NamedTuple):
    """The batches whose events are surely published, so that they need not be kept: `after` < batch <= `through`."""

    after: Place
    through: Place


NOTHING_PUBLISHED: Final = Published(NOWHERE, NOWHERE)


class OutboxRow(NamedTuple):
    """The events of one batch that are not known to be published; `at_ms` is when it was written.

    `lines` as in `Events`; empty when nothing of what it tells was written.
    """

    place: Place
    at_ms: int
    lines: bytes


class Backlog(NamedTuple):
    """How much a pool's outbox holds, in batches and bytes, and since when, ms since the epoch."""

    rows: int
    bytes: int
    oldest_ms: int | None


class FencedError(Exception):
    """The pool has another owner, or another epoch: this holder must let go at once."""


class StoreUnavailableError(Exception):
    """The database is away or too slow.

    `handed_over` says whether a transaction may have begun, so that its outcome is unknown.
    """

    def __init__(self, message: str, *, handed_over: bool) -> None:
        super().__init__(message)
        self.handed_over = handed_over


class Store(Protocol):
    """The durable side of one orchestrator replica, for any number of pools.

    Every method raises `StoreUnavailableError` when the database cannot be reached within its time-outs.
    """

    @property
    def durability(self) -> Durability:
        """What an acknowledged commit survives; known after `open`."""
        ...

    @property
    def identity(self) -> str | None:
        """Whose truth this is: the same for all who share it, another for every other. Known after `open`, or not."""
        ...

    async def open(self) -> None:
        """Connect, check the schema's version and the durability settings.

        Raises:
            ConfigurationError: the schema is not this version's (run `callboard migrate`), or the database does not
                keep what it acknowledges and nobody allowed that.
        """
        ...

    async def close(self) -> None:
        """Let go of every connection. May be called twice."""
        ...

    async def ping(self) -> None:
        """One round trip to the database."""
        ...

    async def acquire(self, pool: str, *, holder: str, replica: str, lease_ms: int) -> Lease | None:
        """Take the pool's lease if it is free, expired by the database's clock, or ours; the epoch rises by one.

        Returns `None` while somebody else holds it.

        Raises:
            ConfigurationError: the schema is another one by now, and this version cannot work on it.
        """
        ...

    async def renew(self, lease: Lease, *, lease_ms: int, published: Published = NOTHING_PUBLISHED) -> Lease:
        """Extend a lease that is still ours, and forget what is published.

        Raises:
            FencedError: it is not.
        """
        ...

    async def release(self, lease: Lease, *, published: Published = NOTHING_PUBLISHED) -> None:
        """Give the lease up, so that another replica may take it at once, and forget what is published.

        Nothing happens when the lease is not ours.
        """
        ...

    async def load(self, lease: Lease) -> Snapshot:
        """What a new owner starts from, as committed.

        The tasks that agents hold, by id; the first queued task of each placement class and priority, in the queue's
        order (protocol, section 4); how many tasks there are in each live state, none too; limits, holds and agents by
        their first fields. It costs what it returns, and the counting.
        """
        ...

    async def lanes(self, pool: str, reads: Sequence[LaneRead]) -> list[list[StoredTask]]:
        """The queued tasks of several lanes in one read, each by `(order_ms, task_id)`, its starting place included.

        `from_id` is a task id: to start at the first one, give `FIRST_ID`.
        """
        ...

    async def agenda(self, pool: str, read: AgendaRead) -> list[StoredTask]:
        """Waiting tasks with an instant at which time changes them, by `(instant, task_id)`, `read`'s place included.

        `from_id` is a task id, as in `lanes`.
        """
        ...

    async def queued_before(self, pool: str, placement: str, priority: int, order_ms: int, task_id: str) -> int:
        """How many queued tasks of a placement class come before that place in the queue's order.

        It costs what it counts.
        """
        ...

    async def commit(
        self,
        lease: Lease,
        number: int,
        changes: Changes,
        *,
        lease_ms: int,
        events: Events = NO_EVENTS,
        published: Published = NOTHING_PUBLISHED,
    ) -> Committed:
        """Write batch `number` with its events and extend the lease, in one transaction; forget what is published.

        Of new tasks with one key in a batch, the first gets it. An agent both written and forgotten is written. The
        events of tasks that are refused or stale are not written.

        Raises:
            FencedError: the pool has another owner or epoch, or `number` does not follow.
            StoreUnavailableError: the outcome is unknown; commit the same batch again.
        """
        ...

    async def outbox(self, pool: str, after: Place, *, limit: int) -> list[OutboxRow]:
        """At most `limit` batches with events that are kept, in the order of their commits, from behind `after` on."""
        ...

    async def backlog(self, pool: str) -> Backlog:
        """How much is kept of what a pool told; it costs what it counts."""
        ...

    async def offers(self, task_ids: list[str]) -> dict[str, OfferContent]:
        """What offers of these live tasks carry; ids that are not live are left out."""
        ...

    async def look_up(self, pool: str, task_id: str) -> Looked:
        """State and kept attempts of a task, live or in the history; while it is live, the task itself."""
        ...

    async def get(self, pool: str, *, task_id: str | None = None, key: str | None = None) -> TaskDocument | None:
        """A task's document, live or in the history, or `None`."""
        ...

    async def documents(self, pool: str, task_ids: list[str]) -> dict[str, TaskDocument]:
        """Documents of several tasks in one read; missing ones are left out."""
        ...

    async def page(self, pool: str, query: ListTasks) -> TaskPage:
        """A page of tasks, live and historic, the newest first by creation.

        Raises:
            InvalidRequestError: the cursor is not one of ours.
        """
        ...

    async def key_holders(self, pool: str, scope: str, keys: list[str]) -> dict[str, KeyHolder]:
        """The tasks that these keys belong to.

        A key stays after its retention until a new task takes it or `maintain` forgets it: `commit` alone decides
        whether a key is free.
        """
        ...

    async def original(self, pool: str, task_id: str) -> Original | None:
        """A task with its specification and payload, for a retry."""
        ...

    async def maintain(self, *, retention_days: int) -> None:
        """Make the coming days' history partitions, drop those past the retention, forget expired keys."""
        ...
