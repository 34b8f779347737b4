"""No hot statement's plan scans a table or compares all with all, however the tables grew since it was cached."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import asyncpg
import pytest
from tests.support.store_postgres import opened_store
from tests.support.store_rows import S, agent_row, dialogue, draft, own, told

from callboard.orchestrator.core.changes import Changes, KeyHold, TaskDialogue
from callboard.orchestrator.store import loading, reads, waiting
from callboard.orchestrator.store.batch import TAKE, statement
from callboard.orchestrator.store.batch_rows import rows_of
from callboard.orchestrator.store.connections import DISPATCHING, READING, WRITING
from callboard.orchestrator.store.driver import PgConnection
from callboard.orchestrator.store.leases import RELEASE, RENEW
from callboard.orchestrator.store.port import NOWHERE, Place, Published

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.orchestrator.store.postgres import PostgresStore
    from callboard.orchestrator.store.sql import Query

pytestmark = pytest.mark.anyio

BURST = 3_000
DEEP = 100_000
PUBLISHED = Published(NOWHERE, Place(1, 1))
GENERIC_AFTER = 6
"""Executions after which Postgres settles for one plan for all values."""


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresStore]:
    async with opened_store(database_url) as store:
        yield store


def shapes(size: int) -> list[Changes]:
    """Batches of every kind: new, moved and finished tasks, final ones at once, agents."""
    holds = tuple(KeyHold(f"a-{number}", draft().task_id, 1, "key") for number in range(size))
    tasks = [draft(key=f"key-{number}-{size}") for number in range(size)]
    moved = [task.move(S.ASSIGNED) for task in tasks]
    finished = [task.finish() for task, _ in moved]
    return [
        Changes(tasks=tuple(task.insert() for task in tasks)),
        Changes(tasks=tuple(change for _, change in moved)),
        Changes(tasks=tuple(change for _, change in finished)),
        Changes(tasks=tuple(draft(key=f"x-{number}-{size}").insert_final() for number in range(size))),
        Changes(
            agents=tuple(agent_row(f"a-{number}") for number in range(size)),
            forgotten_agents=tuple(f"b-{number}" for number in range(size)),
        ),
        Changes(dialogues=tuple(TaskDialogue(task.task_id, dialogue()) for task in tasks)),
        Changes(dialogues=tuple(TaskDialogue(task.task_id, None) for task in tasks)),
        Changes(kept_holds=holds, dropped_holds=tuple(hold._replace(attempt=2) for hold in holds)),
    ]


async def test_plans_cached_when_the_tables_were_empty_hold_after_a_burst(
    store: PostgresStore, database_url: str
) -> None:
    pg = await asyncpg.connect(database_url, server_settings=WRITING)
    try:
        await prepare(pg)
        owner = await own(store)
        for _ in range(BURST // 500):
            tasks = [draft(key=draft().task_id).insert() for _ in range(500)]
            await owner.commit(*tasks, events=told(*tasks))
            for _ in range(100):
                await owner.commit(events=told(agents=b"{}"))
            await owner.commit(*(draft().insert_final() for _ in range(500)))
            await owner.commit(keep=tuple(KeyHold("a", draft().task_id, 1, "key") for _ in range(500)))
            await owner.commit(asked=tuple(TaskDialogue(draft().task_id, dialogue()) for _ in range(500)))
        for name, arguments in (await prepare(pg)).items():
            plan = [row[0] for row in await pg.fetch(f"EXPLAIN EXECUTE {name}({arguments})")]
            assert not offences(plan), f"{name}:\n" + "\n".join(plan)
    finally:
        await pg.close()


READS = {
    "lanes": (DISPATCHING, waiting._LANES, {"task_queue"}),
    "agenda": (DISPATCHING, waiting._AGENDA, {"task_agenda"}),
    "heads": (DISPATCHING, loading._HEADS, {"task_queue"}),
    "held": (DISPATCHING, loading._HELD, {"task_state"}),
    "counts": (DISPATCHING, loading._COUNTS, {"task_state"}),
    "limits": (DISPATCHING, loading._LIMITS, {"task_concurrency"}),
    "dialogues": (DISPATCHING, loading._DIALOGUES, {"task_dialogue_pkey"}),
    "key_holds": (DISPATCHING, loading._KEY_HOLDS, {"key_hold_pkey"}),
    "queued_before": (READING, waiting._QUEUED_BEFORE, {"task_queue"}),
    "documents": (READING, reads._DOCUMENTS, {"task_pkey", "task_history_default_pkey", "task_dialogue_pkey"}),
    "look_up": (READING, reads._LOOK_UP, {"task_pkey", "task_history_default_pkey"}),
}
"""The reads of a deep queue: under which settings, and along which indexes."""

FILL = """
INSERT INTO task (
    id, pool, type, priority, state, version, attempt, created_ms, updated_ms, spec, payload, attempts, epoch, batch,
    order_ms, placement, deadline_ms, spent, crashes, crashed_on, concurrency_key, concurrency_limit
)
SELECT
    gen_random_uuid(), 'default', 'lint', 1, 'queued', 1, 0, 0, 0, '{}', '{}', '{}', 1, 1,
    n, decode(md5((n % 20)::text), 'hex'), CASE WHEN n % 10 = 0 THEN n END, 0, 0, '{}',
    CASE WHEN n % 10 = 1 THEN 'key-' || n % 100 END, CASE WHEN n % 10 = 1 THEN 1 END
FROM generate_series(1, $1::int) AS n
"""


VALUES = {
    "pool": "'default'",
    "placement": "decode(md5('3'), 'hex')",
    "priority": "1",
    "from_ms": "100000",
    "from_id": "uuid '80000000-0000-0000-0000-000000000000'",
    "order_ms": "100000",
    "id": "uuid '80000000-0000-0000-0000-000000000000'",
    "ids": "ARRAY[uuid '80000000-0000-0000-0000-000000000000']",
    "after": "''",
    "limit": "100",
}


@pytest.mark.usefixtures("store")
async def test_a_deep_queue_is_read_along_its_indexes_by_plans_old_and_new(database_url: str) -> None:
    """The plan for all values, cached when the table was empty, and the plan for these values: both are used."""
    connections = {
        name: await asyncpg.connect(database_url, server_settings=settings) for name, (settings, _, _) in READS.items()
    }
    owner = await asyncpg.connect(database_url)
    try:
        for name, (_, read, _) in READS.items():
            await connections[name].execute(f"PREPARE {name} AS {read.sql}")
            await connections[name].execute("SET plan_cache_mode = force_generic_plan")
            await connections[name].execute(f"EXECUTE {name} {values_of(read)}")
        await owner.execute(FILL, DEEP)
        for mode in ("force_generic_plan", "force_custom_plan"):
            for name, (settings, read, indexes) in READS.items():
                await connections[name].execute(f"SET plan_cache_mode = {mode}")
                lines = await connections[name].fetch(f"EXPLAIN EXECUTE {name} {values_of(read)}")
                plan = "\n".join(line[0] for line in lines)
                found = set(re.findall(r"Index (?:Only )?Scan (?:using|on) (\w+)", plan))
                assert found == indexes, f"{name}, {mode}:\n{plan}"
                detours = "Seq Scan|Sort|Bitmap" if settings is DISPATCHING else "Seq Scan|Sort"
                assert not re.search(detours, plan), f"{name}, {mode}:\n{plan}"
            await owner.execute("ANALYZE task")
    finally:
        for connection in (owner, *connections.values()):
            await connection.close()


def values_of(read: Query) -> str:
    """The values that a read is executed with; `lanes` takes an array of each, but for the pool."""
    is_many = "unnest" in read.sql
    values = [f"ARRAY[{VALUES[name]}]" if is_many and name != "pool" else VALUES[name] for name in read.names]
    return f"({', '.join(values)})"


def offences(plan: list[str]) -> list[str]:
    """Lines that scan a table, or join by a loop over more than the lease's one row."""
    bad = [line for line in plan if re.search(r"Seq Scan|Merge Join", line)]
    for place, line in enumerate(plan):
        if "Nested Loop" in line:
            depth = len(line) - len(line.lstrip(" ->"))
            inner = [below for below in plan[place + 1 :] if len(below) - len(below.lstrip(" ->")) > depth]
            if not any("CTE Scan on lease" in below for below in inner[:4]):
                bad.append(line)
    return bad


async def prepare(pg: PgConnection) -> dict[str, str]:
    """Prepare and run every hot statement until its plan is settled; answers their names and NULL arguments."""
    prepared: dict[str, str] = {}
    known = {row[0] for row in await pg.fetch("SELECT name FROM pg_prepared_statements")}
    parts = [rows_of(changes, told(*changes.tasks, agents=b"{}"), PUBLISHED) for changes in shapes(1)]
    statements = {f"batch_{place}": statement(TAKE, rows.parts) for place, rows in enumerate(parts)}
    statements |= {"offers": reads._OFFERS.sql, "renew": RENEW, "release": RELEASE}
    for name, sql in statements.items():
        numbers = {int(number) for number in re.findall(r"\$(\d+)", sql)}
        prepared[name] = ", ".join(["NULL"] * len(numbers))
        if name not in known:
            await pg.execute(f"PREPARE {name} AS {sql}")
            for _ in range(GENERIC_AFTER):
                await pg.execute(f"EXECUTE {name}({prepared[name]})")
    return prepared
