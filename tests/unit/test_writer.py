"""The owner's hand in the database, where answers get lost: what a repeated commit may be taken for, and what not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.publishing import silent_publisher

from callboard.orchestrator.clock import PoolClock, steady_s
from callboard.orchestrator.core.changes import Changes
from callboard.orchestrator.core.effects import Batch
from callboard.orchestrator.store.memory import MemoryStore
from callboard.orchestrator.store.port import NO_EVENTS, Committed, Lease, StoreUnavailableError
from callboard.orchestrator.telemetry import Telemetry
from callboard.orchestrator.trust import Trust
from callboard.orchestrator.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

LEASE_MS = 3000
WITHIN_S = 10.0


class Unlucky(MemoryStore):
    """A store whose first answers to `commit` are lost after the commit."""

    def __init__(self, lost_answers: int) -> None:
        super().__init__(key_retention_ms=1000)
        self.lost_answers = lost_answers
        self.commits = 0
        self.entered_s = 0.0

    async def commit(self, lease: Lease, number: int, changes: Changes, *, lease_ms: int, **more: Any) -> Committed:  # noqa: ANN401 - what else is written is none of this test
        self.commits += 1
        self.entered_s = steady_s()
        committed = await super().commit(lease, number, changes, lease_ms=lease_ms, **more)
        if self.commits <= self.lost_answers:
            raise StoreUnavailableError("the answer was lost", handed_over=True)
        return committed


class Spy(Trust):
    """Trust that notes when it was extended."""

    def __init__(self) -> None:
        super().__init__(lease_ms=LEASE_MS, began_s=steady_s())
        self.extensions = 0
        self.began_s = 0.0

    def extend(self, began_s: float) -> None:
        self.extensions += 1
        self.began_s = began_s
        super().extend(began_s)


class Rig:
    def __init__(self, store: MemoryStore, lease: Lease) -> None:
        self.trust = Spy()
        self.lost: asyncio.Queue[str] = asyncio.Queue()
        self.settled: asyncio.Queue[Committed] = asyncio.Queue()
        self.changed = asyncio.Event()
        self.writer = Writer(
            store,
            lease,
            lease_ms=LEASE_MS,
            trust=self.trust,
            clock=PoolClock(lease.now_ms),
            telemetry=Telemetry(),
            publisher=silent_publisher(store, lease),
            on_change=self.changed.set,
            on_lost=self.lost.put_nowait,
        )

    async def commit(self, number: int) -> Committed:
        self.writer.commit(batch(number), NO_EVENTS, lambda _, committed: self.settled.put_nowait(committed))
        async with asyncio.timeout(WITHIN_S):
            return await self.settled.get()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def batch(number: int) -> Batch:
    return Batch(number=number, changes=Changes(forgotten_agents=("nobody",)), announcements=(), effects=(), counts={})


async def rig(lost_answers: int) -> tuple[Rig, Unlucky]:
    store = Unlucky(lost_answers)
    lease = await store.acquire("default", holder="us", replica="us", lease_ms=LEASE_MS)
    assert lease is not None
    return Rig(store, lease), store


async def test_a_commit_at_the_first_try_extends_the_trust() -> None:
    it, _ = await rig(lost_answers=0)
    await it.commit(1)
    assert it.trust.extensions == 1
    assert not it.writer.is_busy


async def test_trust_runs_from_before_the_commit_was_sent() -> None:
    it, store = await rig(lost_answers=0)
    await it.commit(1)
    assert 0 < it.trust.began_s <= store.entered_s


async def test_a_commit_that_had_to_be_repeated_extends_no_trust_but_the_renewal_after_it_does() -> None:
    it, store = await rig(lost_answers=2)
    await it.commit(1)
    assert store.commits == 3
    assert it.trust.extensions == 0, "the lease runs from the first try, of which nothing is known"
    assert not it.writer.is_database_down
    it.writer.renew()
    await it.until(lambda: not it.writer.is_busy)
    assert it.trust.extensions == 1


async def test_while_it_is_not_settled_the_database_counts_as_down_and_a_stop_ends_it() -> None:
    it, _ = await rig(lost_answers=1_000_000)
    it.writer.commit(batch(1), NO_EVENTS, lambda *_: pytest.fail("it is not settled"))
    await it.until(lambda: it.writer.is_database_down)
    assert it.writer.is_busy
    async with asyncio.timeout(WITHIN_S):
        await it.writer.stop()


async def test_another_owner_ends_it() -> None:
    it, store = await rig(lost_answers=0)
    await it.commit(1)
    mine = await store.acquire("default", holder="us", replica="us", lease_ms=LEASE_MS)
    assert mine is not None
    it.writer.renew()
    async with asyncio.timeout(WITHIN_S):
        assert (await it.lost.get()).startswith("fenced")


async def test_a_commit_that_cannot_be_taken_in_ends_the_ownership() -> None:
    it, _ = await rig(lost_answers=0)

    def fail(_batch: Batch, _committed: Committed) -> None:
        raise ValueError("a bug")

    it.writer.commit(batch(1), NO_EVENTS, fail)
    async with asyncio.timeout(WITHIN_S):
        assert await it.lost.get() == "a commit could not be taken in"
