"""The store in dictionaries: the oracle that the one in Postgres is tested against, and a throw-away pipeline's store.

With `enable_database_persistence = false` this is all there is, and tasks end with the process.

Rules:
- Nothing is clever here: what this does is what a store should do.
- A commit is whole because nothing in it awaits.
"""

from __future__ import annotations

import heapq
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from callboard.orchestrator.core.changes import (
    AgentRow,
    KeyHold,
    KeyLimit,
    NewTask,
    Snapshot,
    StoredTask,
)
from callboard.orchestrator.core.events import Looked
from callboard.orchestrator.core.model import Dialogue
from callboard.orchestrator.store.documents import DEFAULT_PAGE, Cursor, document_of, page_of
from callboard.orchestrator.store.memory_rows import Kept, place_of, stored_of, summary_of, whole_of
from callboard.orchestrator.store.memory_waiting import Waiting
from callboard.orchestrator.store.port import (
    LIVE_STATES,
    NO_EVENTS,
    NOTHING_PUBLISHED,
    Backlog,
    Committed,
    Events,
    FencedError,
    KeyHolder,
    Lease,
    OfferContent,
    Original,
    OutboxRow,
    Place,
    Published,
)
from callboard.schemas.limits import KEPT_ATTEMPTS
from callboard.schemas.vocabulary import HELD_TASK_STATES, Durability, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from callboard.orchestrator.core.changes import AgendaRead, Changes, LaneRead, TaskChange
    from callboard.schemas.tasks import ListTasks, TaskDocument, TaskPage

DAY_MS = 86_400_000


@dataclass(slots=True)
class _Claim:
    """Whose a key is; free again so long after `finished_ms`."""

    task_id: str
    digest: bytes
    finished_ms: int | None


@dataclass(slots=True)
class _Holding:
    """A pool's lease, until when it holds, and what its last batch did."""

    lease: Lease
    expires_ms: int
    last: Committed
    is_given_up: bool = False


def wall_clock_ms() -> int:
    """The time, ms since the epoch."""
    return time.time_ns() // 1_000_000


class MemoryStore:
    """The store of a process without a database; see `port.Store`.

    Args:
        key_retention_ms: How long a key outlives its task.
        clock: What Postgres's `now()` is to the other store, ms.
    """

    durability = Durability.MEMORY

    def __init__(self, *, key_retention_ms: int, clock: Callable[[], int] = wall_clock_ms) -> None:
        self.identity: str | None = f"memory-{secrets.token_hex(8)}"
        self._key_retention_ms = key_retention_ms
        self._clock = clock
        self._holdings: dict[str, _Holding] = {}
        self._tasks: dict[str, Kept] = {}
        self._claims: dict[tuple[str, str, str], _Claim] = {}
        self._agents: dict[tuple[str, str], AgentRow] = {}
        self._pauses: set[tuple[str, str]] = set()
        self._key_holds: dict[tuple[str, str, str, int], str] = {}
        self._dialogues: dict[tuple[str, str], Dialogue] = {}
        self._waiting = Waiting()
        self._outbox: dict[str, dict[Place, OutboxRow]] = {}

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to let go of: what is kept is kept until the process ends."""

    async def ping(self) -> None:
        """Always there."""

    # -- leases ------------------------------------------------------------------------------------------------------

    async def acquire(self, pool: str, *, holder: str, replica: str, lease_ms: int) -> Lease | None:
        """Take the pool's lease if it is free, expired or ours."""
        now_ms = self._clock()
        held = self._holdings.get(pool)
        epoch = 1
        if held is not None:
            if not held.is_given_up and held.lease.holder != holder and held.expires_ms > now_ms:
                return None
            epoch = held.lease.epoch + 1
        lease = Lease(pool=pool, holder=holder, replica=replica, epoch=epoch, batch=0, since_ms=now_ms, now_ms=now_ms)
        self._holdings[pool] = _Holding(lease, now_ms + lease_ms, Committed())
        return lease

    async def renew(self, lease: Lease, *, lease_ms: int, published: Published = NOTHING_PUBLISHED) -> Lease:
        """Extend a lease that is still ours, and forget what is published.

        Raises:
            FencedError: it is not.
        """
        held = self._ours(lease)
        now_ms = self._clock()
        held.expires_ms = now_ms + lease_ms
        self._forget(lease.pool, published)
        return replace(held.lease, now_ms=now_ms)

    async def release(self, lease: Lease, *, published: Published = NOTHING_PUBLISHED) -> None:
        """Give the lease up, if it is ours, and forget what is published."""
        try:
            self._ours(lease).is_given_up = True
        except FencedError:
            return
        self._forget(lease.pool, published)

    def _ours(self, lease: Lease) -> _Holding:
        held = self._holdings.get(lease.pool)
        if held is None or held.is_given_up or (held.lease.holder, held.lease.epoch) != (lease.holder, lease.epoch):
            raise FencedError(f"pool {lease.pool} is no longer held by {lease.holder} in epoch {lease.epoch}")
        return held

    # -- batches -----------------------------------------------------------------------------------------------------

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
        """Write batch `number` with its events and extend the lease; forget what is published.

        Raises:
            FencedError: the pool has another owner or epoch, or `number` does not follow.
        """
        held = self._ours(lease)
        now_ms = self._clock()
        if held.lease.batch == number:
            return replace(held.last, now_ms=now_ms)
        if held.lease.batch != number - 1:
            raise FencedError(f"pool {lease.pool} is at batch {held.lease.batch}: {number} does not follow")
        refused: set[str] = set()
        stale: set[str] = set()
        for change in changes.tasks:
            if change.new is not None:
                if not self._insert(lease.pool, change, change.new):
                    refused.add(change.new.task_id)
            elif not self._update_if_current(lease.pool, change):
                stale.add(change.columns.task_id)
        self._write_others(lease.pool, changes)
        told = [lines for task_id, lines in events.tasks.items() if task_id not in refused | stale]
        told += [] if events.agents is None else [events.agents]
        if told:
            place = Place(lease.epoch, number)
            self._outbox.setdefault(lease.pool, {})[place] = OutboxRow(place, now_ms, b"\n".join(told))
        self._forget(lease.pool, published)
        held.lease = replace(held.lease, batch=number)
        held.expires_ms = now_ms + lease_ms
        held.last = Committed(refused=frozenset(refused), stale=frozenset(stale), now_ms=now_ms)
        return held.last

    def _forget(self, pool: str, published: Published) -> None:
        kept = self._outbox.get(pool, {})
        for place in [place for place in kept if published.after < place <= published.through]:
            del kept[place]

    async def outbox(self, pool: str, after: Place, *, limit: int) -> list[OutboxRow]:
        """At most `limit` batches with events that are kept, in the order of their commits, from behind `after` on."""
        kept = self._outbox.get(pool, {})
        return [kept[place] for place in sorted(kept) if place > after][:limit]

    async def backlog(self, pool: str) -> Backlog:
        """How much is kept of what a pool told."""
        kept = self._outbox.get(pool, {}).values()
        oldest_ms = min((row.at_ms for row in kept), default=None)
        return Backlog(len(kept), sum(len(row.lines) for row in kept), oldest_ms)

    def _write_others(self, pool: str, changes: Changes) -> None:
        for agent_id in changes.forgotten_agents:
            self._agents.pop((pool, agent_id), None)
        for row in changes.agents:
            self._agents[pool, row.agent_id] = row
        self._pauses |= {(pool, what) for what in changes.pauses}
        self._pauses -= {(pool, what) for what in changes.resumes}
        for task_id, dialogue in changes.dialogues:
            self._dialogues.pop((pool, task_id), None)
            if dialogue is not None:
                self._dialogues[pool, task_id] = dialogue
        for hold in changes.dropped_holds:
            self._key_holds.pop((pool, hold.agent_id, hold.task_id, hold.attempt), None)
        for hold in changes.kept_holds:
            self._key_holds.setdefault((pool, hold.agent_id, hold.task_id, hold.attempt), hold.key)

    def _insert(self, pool: str, change: TaskChange, new: NewTask) -> bool:
        finished_ms = None if change.ending is None else change.ending.finished_ms
        if new.key is not None and new.key_scope is not None:
            place = (pool, new.key_scope, new.key)
            claim = self._claims.get(place)
            if claim is not None and not self._is_over(claim, new.created_ms):
                return False
            self._claims[place] = _Claim(new.task_id, new.digest, finished_ms)
        self._tasks[new.task_id] = Kept(
            pool=pool, new=new, columns=change.columns, ended=change.ended, ending=change.ending
        )
        if change.ending is None:
            self._waiting.add(pool, new, change.columns)
        return True

    def _is_over(self, claim: _Claim, at_ms: int) -> bool:
        return claim.finished_ms is not None and claim.finished_ms + self._key_retention_ms <= at_ms

    def _update_if_current(self, pool: str, change: TaskChange) -> bool:
        kept = self._tasks.get(change.columns.task_id)
        if kept is None or kept.pool != pool or kept.ending is not None:
            return False
        if change.guard != (kept.columns.state, kept.columns.attempt):
            return False
        ended = (*kept.ended, *change.ended)[-KEPT_ATTEMPTS:]
        self._tasks[kept.new.task_id] = replace(kept, columns=change.columns, ended=ended, ending=change.ending)
        self._waiting.remove(pool, kept.new, kept.columns)
        if change.ending is None:
            self._waiting.add(pool, kept.new, change.columns)
        claim = self._claims.get((pool, kept.new.key_scope or "", kept.new.key or ""))
        if change.ending is not None and claim is not None and claim.task_id == kept.new.task_id:
            claim.finished_ms = change.ending.finished_ms
        return True

    # -- reading -----------------------------------------------------------------------------------------------------

    async def load(self, lease: Lease) -> Snapshot:
        """What a new owner starts from."""
        pool = lease.pool
        live = [kept for kept in self._tasks.values() if kept.pool == pool and kept.ending is None]
        held = [stored_of(kept) for kept in live if kept.columns.state in HELD_TASK_STATES]
        counts = Counter(kept.columns.state for kept in live)
        limits = Counter(
            (kept.new.concurrency_key, kept.new.concurrency_limit)
            for kept in live
            if kept.new.concurrency_key is not None and kept.new.concurrency_limit is not None
        )
        return Snapshot(
            held=sorted(held, key=lambda stored: stored.columns.task_id),
            heads=self._stored(self._waiting.heads(pool)),
            counts={state: counts[state] for state in LIVE_STATES},
            limits=sorted(KeyLimit(key, limit, tasks) for (key, limit), tasks in limits.items()),
            key_holds=sorted(KeyHold(*place[1:], key) for place, key in self._key_holds.items() if place[0] == pool),
            agents=[self._agents[place] for place in sorted(self._agents) if place[0] == pool],
            dialogues={task_id: dialogue for (where, task_id), dialogue in self._dialogues.items() if where == pool},
            pauses=tuple(sorted(what for where, what in self._pauses if where == pool)),
        )

    async def lanes(self, pool: str, reads: Sequence[LaneRead]) -> list[list[StoredTask]]:
        """The queued tasks of several lanes, each in its order."""
        return [self._stored(self._waiting.lane(pool, read)) for read in reads]

    async def agenda(self, pool: str, read: AgendaRead) -> list[StoredTask]:
        """Waiting tasks with an instant at which time changes them, the next one first."""
        return self._stored(self._waiting.agenda(pool, read))

    async def queued_before(self, pool: str, placement: str, priority: int, order_ms: int, task_id: str) -> int:
        """How many queued tasks of a placement class come before that place in the queue's order."""
        return self._waiting.queued_before(pool, placement, priority, (order_ms, task_id))

    def _stored(self, task_ids: list[str]) -> list[StoredTask]:
        return [stored_of(self._tasks[task_id]) for task_id in task_ids]

    async def offers(self, task_ids: list[str]) -> dict[str, OfferContent]:
        """What offers of these live tasks carry; ids that are not live are left out."""
        found = {task_id: self._tasks[task_id] for task_id in task_ids if task_id in self._tasks}
        return {
            task_id: OfferContent(spec=kept.new.spec, payload=kept.new.payload, progress=kept.columns.progress)
            for task_id, kept in found.items()
            if kept.ending is None
        }

    async def look_up(self, pool: str, task_id: str) -> Looked:
        """State and kept attempts of a task; while it is live, the task itself."""
        kept = self._find(pool, task_id)
        if kept is None:
            return Looked(state=None)
        stored = stored_of(kept) if kept.ending is None else None
        return Looked(state=kept.columns.state, ended=kept.ended, stored=stored)

    async def get(self, pool: str, *, task_id: str | None = None, key: str | None = None) -> TaskDocument | None:
        """A task's document, by its id or by the client's key."""
        if key is not None:
            holder = (await self.key_holders(pool, "client", [key])).get(key)
            return None if holder is None else holder.document
        return (await self.documents(pool, [task_id])).get(task_id) if task_id is not None else None

    async def documents(self, pool: str, task_ids: list[str]) -> dict[str, TaskDocument]:
        """Documents of several tasks; missing ones are left out."""
        found = {task_id: kept for task_id in task_ids if (kept := self._find(pool, task_id)) is not None}
        return {task_id: self._document(kept) for task_id, kept in found.items()}

    async def page(self, pool: str, query: ListTasks) -> TaskPage:
        """A page of tasks, the newest first by creation.

        Raises:
            InvalidRequestError: the cursor is not one of ours.
        """
        limit = query.limit or DEFAULT_PAGE
        cursor = None if query.cursor is None else Cursor.parse(query.cursor)
        found = [
            kept
            for kept in self._tasks.values()
            if kept.pool == pool
            and query.state in {None, kept.columns.state}
            and query.type in {None, kept.new.type}
            and query.agent_id in {None, kept.columns.agent_id}
            and (cursor is None or place_of(kept) < (cursor.created_ms, cursor.task_id))
        ]
        return page_of([summary_of(kept) for kept in heapq.nlargest(limit + 1, found, key=place_of)], limit)

    async def key_holders(self, pool: str, scope: str, keys: list[str]) -> dict[str, KeyHolder]:
        """The tasks that these keys belong to."""
        claims = {key: claim for key in keys if (claim := self._claims.get((pool, scope, key))) is not None}
        known = await self.documents(pool, [claim.task_id for claim in claims.values()])
        return {
            key: KeyHolder(task_id=claim.task_id, digest=claim.digest, document=known[claim.task_id])
            for key, claim in claims.items()
            if claim.task_id in known
        }

    async def original(self, pool: str, task_id: str) -> Original | None:
        """A task with its specification and payload."""
        kept = self._find(pool, task_id)
        if kept is None:
            return None
        return Original(task_id=task_id, document=self._document(kept), spec=kept.new.spec, payload=kept.new.payload)

    async def maintain(self, *, retention_days: int) -> None:
        """Forget what is past its retention."""
        now_ms = self._clock()
        oldest_ms = now_ms - retention_days * DAY_MS
        self._claims = {
            place: claim
            for place, claim in self._claims.items()
            if claim.finished_ms is None or claim.finished_ms > now_ms - self._key_retention_ms
        }
        self._tasks = {
            task_id: kept
            for task_id, kept in self._tasks.items()
            if kept.ending is None or kept.ending.finished_ms >= oldest_ms
        }

    def _document(self, kept: Kept) -> TaskDocument:
        row = whole_of(kept)
        dialogue = self._dialogues.get((kept.pool, kept.new.task_id))
        if dialogue is not None and kept.columns.state is TaskState.WAITING_INPUT:
            row.dialogue = msgspec.json.encode(dialogue)
        return document_of(row)

    def _find(self, pool: str, task_id: str) -> Kept | None:
        kept = self._tasks.get(task_id)
        return kept if kept is not None and kept.pool == pool else None
