"""One random stream of batches goes into both stores, and they must agree in every answer and every read.

A stream has what a pool's owner sends, and what it should never send: keys that are taken, stale guards, final tasks
written again, batches repeated and skipped, leases lost and taken over, maintenance in between.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from tests.support.store_postgres import opened_store
from tests.support.store_rows import (
    RETENTION_MS,
    T0,
    Draft,
    S,
    agent_row,
    as_json,
    dialogue,
    draft,
    ended_attempt,
    kept_lines,
    told,
)

from callboard.orchestrator.core.changes import AgendaRead, Changes, KeyHold, LaneRead, TaskDialogue
from callboard.orchestrator.store.memory import MemoryStore
from callboard.orchestrator.store.port import FIRST_ID, NOTHING_PUBLISHED, NOWHERE, FencedError, Lease, Place, Published
from callboard.schemas.tasks import ListTasks, TaskError
from callboard.schemas.vocabulary import FINAL_TASK_STATES, AgentState, TaskPriority, TaskState
from callboard.schemas.why import AgentScore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.orchestrator.core.changes import TaskChange
    from callboard.orchestrator.store.port import Store
    from callboard.orchestrator.store.postgres import PostgresStore

pytestmark = pytest.mark.anyio

SEEDS = 100
STEPS = 12
LEASE_MS = 600_000
LIVE = (S.QUEUED, S.DEFERRED, S.ASSIGNED, S.RUNNING, S.WAITING_INPUT)
KEYS = tuple(f"key-{number}" for number in range(6))
PLACEMENTS = ("lint|||", "test|||", "test|gpu||")
CONCURRENCY = (None, None, ("k", 1), ("k", 3), ("ü", 2))
SCORES = (
    AgentScore(agent_id="a", total=0.1 + 0.2, parts={"round_robin": 0.1}),
    AgentScore(agent_id="b", total=-9, parts={}),
)
QUERIES = (ListTasks(limit=3), ListTasks(state=S.SUCCEEDED), ListTasks(type="lint"), ListTasks(agent_id="a"))


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[PostgresStore]:
    async with opened_store(database_url) as store:
        yield store


class Stream:
    """What one seed does to a pair of stores, in pools of its own."""

    def __init__(self, seed: int, stores: tuple[Store, Store]) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a test's dice
        self.stores = stores
        self.pools = (f"p{seed}", f"q{seed}")
        self.leases: dict[str, tuple[Lease, Lease]] = {}
        self.old: list[tuple[Lease, Lease]] = []
        self.numbers = dict.fromkeys(self.pools, 0)
        self.last: dict[str, Changes] = {}
        self.holds: dict[str, set[KeyHold]] = {pool: set() for pool in self.pools}
        self.drafts: dict[str, list[Draft]] = {pool: [] for pool in self.pools}
        self.clock_ms = T0 + seed

    async def run(self) -> None:
        for pool in self.pools:
            await self.take(pool)
        for _ in range(STEPS):
            pool = self.random.choice(self.pools)
            step = self.random.choices(
                (self.commit, self.repeat, self.skip, self.take, self.use_an_old_lease, self.renew, self.maintain),
                weights=(14, 2, 1, 1, 1, 1, 0.2),
            )[0]
            await step(pool)
            self.clock_ms += self.random.choice((0, 1, 5, RETENTION_MS // 3))
        for pool in self.pools:
            await self.compare_reads(pool)

    # -- steps -------------------------------------------------------------------------------------------------------

    async def take(self, pool: str) -> None:
        holder = self.random.choice(("one", "two"))
        if pool in self.leases and self.random.random() < 0.5:
            before = self.leases[pool]
            for store, lease in zip(self.stores, before, strict=True):
                await store.release(lease)
        first, second = [
            await store.acquire(pool, holder=holder, replica="r", lease_ms=LEASE_MS) for store in self.stores
        ]
        assert _timeless(first) == _timeless(second)
        if first is not None and second is not None:
            self.old += [self.leases[pool]] if pool in self.leases else []
            self.leases[pool] = (first, second)
            self.numbers[pool] = 0
            self.last.pop(pool, None)

    async def commit(self, pool: str) -> None:
        changes = self.changes(pool)
        self.numbers[pool] += 1
        self.last[pool] = changes
        await self.send(self.leases[pool], self.numbers[pool], changes)

    async def repeat(self, pool: str) -> None:
        if pool in self.last:
            await self.send(self.leases[pool], self.numbers[pool], self.last[pool])

    async def skip(self, pool: str) -> None:
        number = self.numbers[pool] + self.random.choice((-2, -1, 2, 3))
        await self.send(self.leases[pool], number, self.changes(pool), is_fenced=True)

    async def use_an_old_lease(self, pool: str) -> None:
        if self.old:
            leases = self.random.choice(self.old)
            await self.send(leases, self.random.choice((1, leases[0].batch + 1)), self.changes(pool), is_fenced=True)

    async def renew(self, pool: str) -> None:
        answers = [
            await store.renew(lease, lease_ms=LEASE_MS)
            for store, lease in zip(self.stores, self.leases[pool], strict=True)
        ]
        assert _timeless(answers[0]) == _timeless(answers[1])
        assert answers[0].batch == self.numbers[pool]

    async def maintain(self, _pool: str) -> None:
        """Everything final is of 2023, and goes."""
        for store in self.stores:
            await store.maintain(retention_days=30)
        self.last.clear()

    async def send(
        self, leases: tuple[Lease, Lease], number: int, changes: Changes, *, is_fenced: bool = False
    ) -> None:
        answers: list[Any] = []
        for store, lease in zip(self.stores, leases, strict=True):
            try:
                events = told(*changes.tasks, agents=b"{}" if changes.agents else None)
                published = Published(NOWHERE, Place(lease.epoch, number - 3)) if number % 4 == 0 else NOTHING_PUBLISHED
                committed = await store.commit(
                    lease, number, changes, lease_ms=LEASE_MS, events=events, published=published
                )
                answers.append((committed.refused, committed.stale))
            except FencedError:
                answers.append("fenced")
        assert answers[0] == answers[1]
        assert (answers[0] == "fenced") == is_fenced

    # -- batches -----------------------------------------------------------------------------------------------------

    def changes(self, pool: str) -> Changes:
        tasks: dict[str, TaskChange] = {}
        for _ in range(self.random.randrange(6)):
            change = self.new(pool) if self.random.random() < 0.5 else self.moved(pool)
            if change is not None:
                tasks.setdefault(change.columns.task_id, change)
        agents = {name: self.agent(name) for name in self.random.sample(("a", "b", "c"), self.random.randrange(3))}
        forgotten = tuple(self.random.sample(("a", "b", "c", "d"), self.random.randrange(2)))
        paused = self.random.sample(("", "slow", "fast"), self.random.randrange(3))
        cut = self.random.randint(0, len(paused))
        kept = self.holds_of_now(pool)
        return Changes(
            tasks=tuple(tasks.values()),
            agents=tuple(agents.values()),
            forgotten_agents=forgotten,
            pauses=tuple(paused[:cut]),
            resumes=tuple(paused[cut:]),
            dialogues=self.dialogues(pool),
            kept_holds=kept,
            dropped_holds=self.earlier_holds(pool, kept),
        )

    def dialogues(self, pool: str) -> tuple[TaskDialogue, ...]:
        """Questions of any task, answered or over; the store keeps what it is told."""
        rolled = self.random
        tasks = rolled.sample(self.drafts[pool], min(2, len(self.drafts[pool])))
        asked = dialogue(query=rolled.randrange(1, 9), is_open=rolled.random() < 0.5)
        return tuple(TaskDialogue(task.task_id, rolled.choice((None, asked))) for task in tasks)

    def holds_of_now(self, pool: str) -> tuple[KeyHold, ...]:
        tasks = self.random.sample(self.drafts[pool], min(2, len(self.drafts[pool])))
        held = [KeyHold(self.random.choice("ab"), task.task_id, self.random.randrange(3), "k") for task in tasks]
        return tuple(held[: self.random.randrange(3)])

    def earlier_holds(self, pool: str, kept: tuple[KeyHold, ...]) -> tuple[KeyHold, ...]:
        """Of those that may be there; which are, depends on what was fenced."""
        earlier = sorted(self.holds[pool].difference(kept))
        self.holds[pool].update(kept)
        return tuple(self.random.sample(earlier, min(len(earlier), self.random.randrange(3))))

    def new(self, pool: str) -> TaskChange:
        rolled = self.random
        task = draft(
            key=rolled.choice((None, *KEYS)),
            scope=rolled.choice(("client", "retry")),
            priority=rolled.choice(list(TaskPriority)),
            created_ms=self.clock_ms,
            order_ms=self.clock_ms + rolled.choice((0, 0, 7)),
            payload=rolled.choice((b"null", b'{"a": "\\u0000"}', b"[1, 2.50]")),
            digest=rolled.randbytes(32),
            retry_of=rolled.choice((None, draft().task_id)),
            task_type=rolled.choice(("lint", "test")),
            description=rolled.choice((None, "ünï")),
            placement=rolled.choice(PLACEMENTS),
            deadline_ms=rolled.choice((None, self.clock_ms + 400, self.clock_ms + 900)),
            concurrency=rolled.choice(CONCURRENCY),
        )
        if rolled.random() < 0.2:
            return task.insert_final(rolled.choice(sorted(FINAL_TASK_STATES)), finished_ms=self.clock_ms)
        if rolled.random() < 0.5:
            task, change = task.move(
                S.ASSIGNED, agent_id=rolled.choice(("a", "b")), scores=SCORES[: rolled.randrange(3)]
            )
            change = replace(change, new=task.new, guard=None)
        else:
            change = task.insert(ended=tuple(ended_attempt(n) for n in range(rolled.randrange(3))))
        self.drafts[pool].append(task)
        return change

    def moved(self, pool: str) -> TaskChange | None:
        rolled = self.random
        drafts = self.drafts[pool if rolled.random() < 0.9 else rolled.choice(self.pools)]
        if not drafts:
            return None
        place = rolled.randrange(len(drafts))
        if rolled.random() < 0.3:
            state = rolled.choice(sorted(FINAL_TASK_STATES))
            error = rolled.choice((None, TaskError(message="no", type="E")))
            after, change = drafts[place].finish(state, finished_ms=self.clock_ms, error=error)
        else:
            progress = rolled.choice((None, b'{"percent":5,"data":[1]}'))
            after, change = drafts[place].move(
                rolled.choice(LIVE), progress=progress, crashed_on=self.crashed(), scores=SCORES[: rolled.randrange(3)]
            )
        if rolled.random() < 0.2:
            stale: tuple[TaskState, int] = (rolled.choice(LIVE), rolled.randrange(3))
            change = replace(change, guard=stale)
        else:
            drafts[place] = after
        if rolled.random() < 0.1:
            change = replace(change, ended=tuple(ended_attempt(n) for n in range(rolled.choice((1, 19, 20)))))
        return change

    def crashed(self) -> tuple[str, ...]:
        return tuple(self.random.sample(("a", "b"), self.random.randrange(3)))

    def agent(self, name: str) -> Any:  # noqa: ANN401 - an agent's row
        state = self.random.choice(list(AgentState))
        return agent_row(name, state=state, slots=self.random.randrange(1, 9), role=self.random.choice((None, "x")))

    # -- reads -------------------------------------------------------------------------------------------------------

    async def compare_reads(self, pool: str) -> None:
        ids = [task.task_id for tasks in self.drafts.values() for task in tasks]
        first, second = [await self.read(store, pool, ids) for store in self.stores]
        for name, value in first.items():
            assert value == second[name], name

    async def read(self, store: Store, pool: str, ids: list[str]) -> dict[str, Any]:
        lease = self.leases[pool][self.stores.index(store)]
        answers: dict[str, Any] = {
            "load": await store.load(lease),
            "offers": await store.offers(ids),
            "outbox": await kept_lines(store, pool),
            "documents": as_json(await store.documents(pool, ids)),
            "look_up": [await store.look_up(pool, task_id) for task_id in ids[:5]],
            "original": [as_json(_fields(await store.original(pool, task_id))) for task_id in ids[:3]],
            "lanes": await store.lanes(pool, self.lane_reads(pool)),
            "agenda": [await store.agenda(pool, read) for read in self.agenda_reads(pool)],
            "queued before": [
                await store.queued_before(pool, placement, priority.rank, task.new.order_ms, task.task_id)
                for task in self.drafts[pool][:4]
                for placement in PLACEMENTS
                for priority in TaskPriority
            ],
            "by key": [as_json(await store.get(pool, key=key)) for key in KEYS[:3]],
        }
        for scope in ("client", "retry"):
            holders = await store.key_holders(pool, scope, list(KEYS))
            answers[f"keys {scope}"] = {key: as_json(_fields(holder, "digest")) for key, holder in holders.items()}
            answers[f"digests {scope}"] = {key: holder.digest for key, holder in holders.items()}
        for query in QUERIES:
            pages: list[Any] = []
            cursor: str | None = None
            while cursor is not None or not pages:
                page = await store.page(pool, _at(query, cursor))
                pages.append(as_json(page))
                cursor = page.cursor
            answers[f"page {query}"] = pages
        return answers

    def lane_reads(self, pool: str) -> list[LaneRead]:
        """Each lane from its beginning, and from each of the first tasks' places."""
        places = [(0, FIRST_ID), *((task.new.order_ms, task.task_id) for task in self.drafts[pool][:4])]
        return [
            LaneRead(placement=placement, priority=priority.rank, from_ms=from_ms, from_id=from_id, limit=limit)
            for placement in PLACEMENTS
            for priority in TaskPriority
            for limit, (from_ms, from_id) in enumerate(places, start=1)
        ]

    def agenda_reads(self, pool: str) -> list[AgendaRead]:
        places = [(0, FIRST_ID, 99), (0, FIRST_ID, 2)]
        places += [(task.new.deadline_ms or T0 + 500, task.task_id, 3) for task in self.drafts[pool][:4]]
        return [AgendaRead(from_ms=from_ms, from_id=from_id, limit=limit) for from_ms, from_id, limit in places]


def _timeless(lease: Lease | None) -> Lease | None:
    return None if lease is None else replace(lease, now_ms=0, since_ms=0)


def _fields(record: Any, *without: str) -> Any:  # noqa: ANN401 - any of the port's records
    names = [name for name in getattr(record, "__slots__", ()) if name not in without]
    return {name: _text(getattr(record, name)) for name in names}


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


def _at(query: ListTasks, cursor: str | None) -> ListTasks:
    return ListTasks(state=query.state, type=query.type, agent_id=query.agent_id, limit=query.limit, cursor=cursor)


async def test_both_stores_agree_on_every_stream(postgres: PostgresStore) -> None:
    for seed in range(SEEDS):
        try:
            await Stream(seed, (MemoryStore(key_retention_ms=RETENTION_MS), postgres)).run()
        except BaseException:
            print(f"seed {seed}")  # noqa: T201 - what one needs to run it again
            raise
