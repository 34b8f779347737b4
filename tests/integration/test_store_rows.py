"""Rows that must not be: the database refuses each, and a batch goes on without the bad one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import structlog
from msgspec.structs import replace
from tests.support.store_postgres import opened_store
from tests.support.store_rows import POOL, T0, S, agent_row, draft, kept_lines, line_of, own, told

from callboard.orchestrator.core.changes import KeyHold
from callboard.schemas.tasks import ListTasks
from callboard.schemas.vocabulary import TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.orchestrator.store.postgres import PostgresStore

pytestmark = pytest.mark.anyio

HELD: dict[str, Any] = {"agent_id": "a", "incarnation": "i", "assigned_ms": T0, "attempt": 1}
IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "a live task in a final state": {"state": S.SUCCEEDED},
    "an unknown state": {"state": "lost"},
    "assigned to nobody": {"state": S.ASSIGNED, "attempt": 1},
    "assigned without an incarnation": {"state": S.ASSIGNED, **HELD, "incarnation": None},
    "assigned at no time": {"state": S.ASSIGNED, **HELD, "assigned_ms": None},
    "assigned without an attempt": {"state": S.ASSIGNED, **HELD, "attempt": 0},
    "running since never": {"state": S.RUNNING, **HELD},
    "queued and held": {"agent_id": "a", "incarnation": "i", "assigned_ms": T0},
    "queued and running": {"started_ms": T0},
    "deferred for ever": {"state": S.DEFERRED},
    "queued until": {"until_ms": T0},
    "no version": {"version": 0},
    "a negative attempt": {"attempt": -1},
    "a negative cost": {"spent": -1},
    "negative crashes": {"crashes": -1},
    "a number that does not fit": {"version": 2**63},
    "text with a NUL": {"reason": "\0"},
    "text with a lone surrogate": {"reason": "\ud800"},
}


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresStore]:
    async with opened_store(database_url) as store:
        yield store


@pytest.mark.parametrize("columns", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
async def test_an_impossible_row_is_left_out_and_reported(store: PostgresStore, columns: dict[str, Any]) -> None:
    owner = await own(store)
    task, bad_new, good = draft(), draft(key="k"), draft()
    await owner.commit(task.insert())
    before = await store.get(POOL, task_id=task.task_id)
    _, change = task.move(S.QUEUED)
    bad_change = replace(change, columns=replace(change.columns, **columns))
    bad_insert = replace(bad_new.insert(), columns=replace(bad_new.columns, **columns))
    with structlog.testing.capture_logs() as logs:
        committed = await owner.commit(bad_insert, good.insert(), bad_change)
    assert committed.refused == frozenset()
    assert committed.stale == {task.task_id, bad_new.task_id}
    assert sorted(log["task_id"][0] for log in logs if log["log_level"] == "critical") == sorted(committed.stale)
    assert await owner.state_of(good.task_id) is S.QUEUED
    assert await owner.state_of(bad_new.task_id) is None
    assert await store.get(POOL, key="k") is None
    assert await store.get(POOL, task_id=task.task_id) == before
    with structlog.testing.capture_logs() as logs:
        again = await owner.again(bad_insert, good.insert(), bad_change)
    assert (again.refused, again.stale) == (committed.refused, committed.stale)
    assert "critical" not in {log["log_level"] for log in logs}  # nothing was written again
    assert (await owner.commit(good.move(S.ASSIGNED)[1])).stale == frozenset()


@pytest.mark.parametrize(
    ("state", "result"), [(S.FAILED, b"1"), (S.SUCCEEDED, None), (S.QUEUED, None), (S.RUNNING, None)]
)
async def test_an_impossible_end_leaves_the_task_as_it_was(
    store: PostgresStore, state: TaskState, result: bytes | None
) -> None:
    owner = await own(store)
    task, fine = draft(key="k"), draft()
    await owner.commit(task.insert(), fine.insert())
    _, change = task.finish(S.CANCELLED)
    assert change.ending is not None
    bad = replace(change, columns=replace(change.columns, state=state), ending=replace(change.ending, result=result))
    committed = await owner.commit(fine.finish()[1], bad)
    assert committed.stale == {task.task_id}
    assert [await owner.state_of(each.task_id) for each in (task, fine)] == [S.QUEUED, S.SUCCEEDED]
    assert (await owner.commit(change)).stale == frozenset()


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": 4},
        {"order_ms": T0 - 1},
        {"key_scope": "other"},
        {"retry_of": "not an id"},
        {"concurrency_key": "k"},
        {"concurrency_limit": 1},
    ],
    ids=str,
)
async def test_an_impossible_new_task_does_not_exist_and_has_no_key(
    store: PostgresStore, fields: dict[str, Any]
) -> None:
    owner = await own(store)
    bad, good, twin = draft(key="k"), draft(), draft(key="k")
    insert = replace(bad.insert(), new=replace(bad.new, **fields))
    assert (await owner.commit(insert, good.insert())).stale == {bad.task_id}
    assert (await owner.commit(twin.insert())).refused == frozenset()
    assert [await owner.state_of(each.task_id) for each in (bad, good, twin)] == [None, S.QUEUED, S.QUEUED]


async def test_a_bad_task_gives_its_key_to_the_next_in_the_batch(store: PostgresStore) -> None:
    owner = await own(store)
    bad, twin = draft(key="k", order_ms=T0 - 1), draft(key="k")
    committed = await owner.commit(bad.insert(), twin.insert())
    assert committed.refused == {bad.task_id}
    assert committed.stale == frozenset()
    assert await owner.state_of(twin.task_id) is S.QUEUED


async def test_the_log_shows_no_contents(store: PostgresStore) -> None:
    owner = await own(store)
    with structlog.testing.capture_logs() as logs:
        await owner.commit(draft(order_ms=T0 - 1, payload=b'"the secret"').insert())
        await owner.commit(draft(retry_of="the secret").insert())
    assert len(logs) == 4
    assert "secret" not in str(logs)
    assert "7468652073656372" not in str(logs)  # the same as Postgres writes bytes


async def test_a_task_inserted_twice_is_left_as_it_is(store: PostgresStore) -> None:
    owner = await own(store)
    task, good = draft(), draft()
    await owner.commit(task.insert())
    await owner.commit(task.move(S.ASSIGNED)[1])
    assert (await owner.commit(task.insert(), good.insert())).stale == {task.task_id}
    assert [await owner.state_of(each.task_id) for each in (task, good)] == [S.ASSIGNED, S.QUEUED]


async def test_a_bad_agent_is_left_out(store: PostgresStore) -> None:
    owner = await own(store)
    good, task = agent_row("good"), draft()
    with structlog.testing.capture_logs() as logs:
        await owner.commit(task.insert(), agents=(agent_row("bad", slots=0), good), forget=("bad", "other"))
    assert [log["agent_id"] for log in logs if log["log_level"] == "critical"] == [["bad"]]
    assert (await store.load(owner.lease)).agents == [good]
    assert await owner.state_of(task.task_id) is S.QUEUED


async def test_a_bad_hold_is_left_out(store: PostgresStore) -> None:
    owner = await own(store)
    good, bad = KeyHold("a", draft().task_id, 1, "k"), KeyHold("a", draft().task_id, 1, "\0")
    before = KeyHold("b", draft().task_id, 1, "k")
    await owner.commit(keep=(before,))
    with structlog.testing.capture_logs() as logs:
        await owner.commit(keep=(bad, good), drop=(before,))
    assert [log["hold"] for log in logs if log["log_level"] == "critical"] == [[bad[:3]]]
    assert (await store.load(owner.lease)).key_holds == [good]


async def test_many_rows_with_a_few_bad_ones(store: PostgresStore) -> None:
    owner = await own(store)
    tasks = [draft() for _ in range(200)]
    bad = {3, 4, 77, 199}
    inserts = [
        replace(task.insert(), columns=replace(task.columns, version=0)) if place in bad else task.insert()
        for place, task in enumerate(tasks)
    ]
    committed = await owner.commit(*inserts, events=told(*inserts, agents=b"agents"))
    assert committed.stale == {tasks[place].task_id for place in bad}
    [(_, lines)] = await kept_lines(store)
    assert lines == sorted([b"agents", *(line_of(insert) for place, insert in enumerate(inserts) if place not in bad)])
    assert (await store.load(owner.lease)).counts[S.QUEUED] == 196


async def test_the_longest_names_fit(store: PostgresStore) -> None:
    owner = await own(store)
    names = [f"{number:064d}" for number in range(256)]
    task = draft(placement="|".join(names), key="\U0001f3ad" * 256)
    task, _ = task.move(S.ASSIGNED, agent_id="a" * 64, crashed_on=("a" * 64, "b" * 64))
    committed = await owner.commit(task.insert(), agents=(agent_row("a" * 64, capabilities=tuple(names)),))
    assert (committed.refused, committed.stale) == (frozenset(), frozenset())
    assert (await store.load(owner.lease)).held[0].columns == task.columns
    assert (await store.page(POOL, ListTasks())).tasks[0].key == "\U0001f3ad" * 256
