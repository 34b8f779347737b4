"""No hot statement's plan scans a table or compares all with all, however the tables grew since it was cached."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import asyncpg
import pytest
from tests.support.store_postgres import opened_store
from tests.support.store_rows import S, agent_row, draft, own

from callboard.orchestrator.core.changes import Changes
from callboard.orchestrator.store import reads
from callboard.orchestrator.store.batch import TAKE, statement
from callboard.orchestrator.store.batch_rows import rows_of
from callboard.orchestrator.store.connections import WRITING
from callboard.orchestrator.store.driver import PgConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.orchestrator.store.postgres import PostgresStore

pytestmark = pytest.mark.anyio

BURST = 3_000
GENERIC_AFTER = 6
"""Executions after which Postgres settles for one plan for all values."""


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresStore]:
    async with opened_store(database_url) as store:
        yield store


def shapes(size: int) -> list[Changes]:
    """Batches of every kind: new, moved and finished tasks, final ones at once, agents."""
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
    ]


async def test_plans_cached_when_the_tables_were_empty_hold_after_a_burst(
    store: PostgresStore, database_url: str
) -> None:
    pg = await asyncpg.connect(database_url, server_settings=WRITING)
    try:
        await prepare(pg)
        owner = await own(store)
        for _ in range(BURST // 500):
            await owner.commit(*(draft(key=draft().task_id).insert() for _ in range(500)))
            await owner.commit(*(draft().insert_final() for _ in range(500)))
        for name, arguments in (await prepare(pg)).items():
            plan = [row[0] for row in await pg.fetch(f"EXPLAIN EXECUTE {name}({arguments})")]
            assert not offences(plan), f"{name}:\n" + "\n".join(plan)
    finally:
        await pg.close()


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
    parts = [rows_of(changes) for changes in shapes(1)]
    statements = {f"batch_{place}": statement(TAKE, rows.parts) for place, rows in enumerate(parts)}
    statements["offers"] = reads._OFFERS.sql
    for name, sql in statements.items():
        numbers = {int(number) for number in re.findall(r"\$(\d+)", sql)}
        prepared[name] = ", ".join(["NULL"] * len(numbers))
        if name not in known:
            await pg.execute(f"PREPARE {name} AS {sql}")
            for _ in range(GENERIC_AFTER):
                await pg.execute(f"EXECUTE {name}({prepared[name]})")
    return prepared
