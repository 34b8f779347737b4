"""Two holders, lost answers, killed connections, slow databases: what a commit is then, and that it can be repeated."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.support.store_postgres import WITHIN_S, blocked_backend, connected, gone, opened_store
from tests.support.store_rows import POOL, RETENTION_MS, Owner, S, agent_row, draft, ids_of, own

from callboard.orchestrator.store import connections
from callboard.orchestrator.store.port import FencedError, StoreUnavailableError
from callboard.orchestrator.store.postgres import READERS, PostgresStore
from callboard.schemas.tasks import ListTasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

LOCK_LEASE = f"SELECT 1 FROM pool_lease WHERE pool = '{POOL}' FOR UPDATE"  # noqa: S608 - a constant
TAKE_OVER = f"UPDATE pool_lease SET holder = 'other', epoch = epoch + 1, batch = 0 WHERE pool = '{POOL}'"  # noqa: S608 - a constant


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresStore]:
    async with opened_store(database_url) as store:
        yield store


async def test_a_holder_overtaken_while_it_commits_writes_nothing(store: PostgresStore, database_url: str) -> None:
    owner = await own(store)
    old, new = draft(), draft(key="k")
    await owner.commit(old.insert(), agents=(agent_row(),))
    async with connected(database_url) as other, connected(database_url) as observer:
        take_over = other.transaction()
        await take_over.start()
        await other.execute(TAKE_OVER)
        late = asyncio.create_task(
            owner.commit(new.insert(), old.finish()[1], draft().insert_final(), forget=("agent-1",))
        )
        await blocked_backend(observer)
        await take_over.commit()
        with pytest.raises(FencedError):
            await late
    heir = await own(store, holder="other")
    snapshot = await store.load(heir.lease)
    assert ids_of(snapshot.heads) == [old.task_id]
    assert sum(snapshot.counts.values()) == 1
    assert len(snapshot.agents) == 1
    assert await store.key_holders(POOL, "client", ["k"]) == {}
    assert len((await store.page(POOL, ListTasks())).tasks) == 1


async def test_a_commit_whose_answer_was_lost_is_settled_by_a_repetition(
    store: PostgresStore, database_url: str
) -> None:
    owner = await own(store)
    task = draft(key="k")
    async with connected(database_url) as other, connected(database_url) as observer:
        hold = other.transaction()
        await hold.start()
        await other.execute(LOCK_LEASE)
        lost = asyncio.create_task(owner.commit(task.insert()))
        backend = await blocked_backend(observer)
        await store.close()  # the client goes; its backend does not know, and goes on
        with pytest.raises(StoreUnavailableError) as caught:
            await lost
        assert caught.value.handed_over
        await store.open()
        await hold.rollback()
        await gone(observer, backend)
        committed = await owner.again(task.insert())
    assert (committed.refused, committed.stale) == (frozenset(), frozenset())
    assert await owner.state_of(task.task_id) is S.QUEUED
    assert (await owner.commit(task.move(S.ASSIGNED)[1])).stale == frozenset()


async def test_a_commit_that_was_killed_is_applied_by_repeating_it(store: PostgresStore, database_url: str) -> None:
    owner = await own(store)
    task = draft()
    async with connected(database_url) as other, connected(database_url) as observer:
        async with other.transaction():
            await other.execute(LOCK_LEASE)
            lost = asyncio.create_task(owner.commit(task.insert()))
            await observer.execute("SELECT pg_terminate_backend($1)", await blocked_backend(observer))
            with pytest.raises(StoreUnavailableError) as caught:
                await lost
            assert caught.value.handed_over
        assert await owner.state_of(task.task_id) is None
        await owner.again(task.insert())
        assert await owner.state_of(task.task_id) is S.QUEUED


async def test_a_cancelled_commit_leaves_no_connection_in_doubt(store: PostgresStore, database_url: str) -> None:
    owner = await own(store)
    task = draft()
    async with connected(database_url) as other, connected(database_url) as observer:
        async with other.transaction():
            await other.execute(LOCK_LEASE)
            cancelled = asyncio.create_task(owner.commit(task.insert()))
            backend = await blocked_backend(observer)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        await gone(observer, backend)
    await owner.again(task.insert())
    assert await owner.state_of(task.task_id) is S.QUEUED


async def test_a_lock_that_never_comes_ends_the_wait_with_nothing_accepted(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.WRITING, "lock_timeout", "50")
    async with opened_store(database_url) as store, connected(database_url) as other:
        owner = await own(store)
        async with other.transaction():
            await other.execute(LOCK_LEASE)
            with pytest.raises(StoreUnavailableError, match="lock timeout") as caught:
                await owner.commit(draft().insert())
            assert not caught.value.handed_over
        await owner.again(draft().insert())


async def test_a_silent_database_ends_the_wait_with_the_outcome_unknown(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT_S", 0.2)
    async with opened_store(database_url) as store, connected(database_url) as other:
        owner = await own(store)
        async with other.transaction():
            await other.execute(LOCK_LEASE)
            async with asyncio.timeout(WITHIN_S):
                with pytest.raises(StoreUnavailableError, match="in time") as caught:
                    await owner.commit(draft().insert())
            assert caught.value.handed_over


async def test_no_reader_keeps_a_lease_from_being_renewed_or_a_task_from_being_placed(
    store: PostgresStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await own(store)
    async with connected(database_url) as other, connected(database_url) as observer:
        hold = other.transaction()
        await hold.start()
        await other.execute("LOCK TABLE task IN ACCESS EXCLUSIVE MODE")
        async with asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(_look(owner))
            await blocked_backend(observer, count=READERS)
            group.create_task(store.lanes(POOL, []))
            await blocked_backend(observer, count=READERS + 1)  # it waits for the table, not behind the readers
            monkeypatch.setattr(connections, "CONNECT_TIMEOUT_S", 0.05)
            with pytest.raises(StoreUnavailableError, match="busy"):
                await store.look_up(POOL, draft().task_id)
            owner.lease = await store.renew(owner.lease, lease_ms=60_000)
            await store.ping()
            await hold.rollback()


async def test_a_database_that_is_away_is_unavailable_and_nothing_was_handed_over(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    nowhere = f"postgresql://callboard@/postgres?host={tmp_path_factory.mktemp('none')}&port=5432"
    store = PostgresStore(nowhere, key_retention_ms=RETENTION_MS)
    for attempt in (store.open, store.ping):
        with pytest.raises(StoreUnavailableError) as caught:
            await attempt()
        assert not caught.value.handed_over


async def test_a_closed_store_says_so_and_can_be_opened_again(store: PostgresStore) -> None:
    owner = await own(store)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        await owner.commit(draft().insert())
    await store.open()
    await owner.again(draft().insert())


async def test_a_broken_connection_is_replaced(store: PostgresStore, database_url: str) -> None:
    owner = await own(store)
    async with connected(database_url) as other:
        pids = await other.fetch(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'callboard' AND datname = current_database()"
        )
        assert len(pids) == 1
        await gone(other, pids[0]["pid"])
    # The news of the end may have come already, or comes with this statement.
    try:
        await store.ping()
    except StoreUnavailableError:
        await store.ping()
    await owner.commit(draft().insert())


async def _look(owner: Owner) -> None:
    assert await owner.state_of(draft().task_id) is None
