"""What a migration leaves for after its transaction, because a table may be large: indexes, and the look at old rows.

Rules:
- Nobody waits for it: an index is built `CONCURRENTLY`, and a constraint that holds for new rows from the migration on
  (`NOT VALID`) is looked up in the old ones beside the work. Both wait for transactions that are older, however long.
- It can be done again: what was cut short leaves an index that is invalid; that is dropped, and built anew.
- One does it at a time. The others wait outside of any transaction, for the one would wait for theirs.
"""

from __future__ import annotations

import asyncio
from typing import Final

from callboard.orchestrator.store.driver import PgConnection

INDEXES: Final = {
    # Equal entries share their place in an index: this one stays small however deep the queue is.
    "task_state": "task (pool, state)",
    "task_concurrency": "task (pool, concurrency_key, concurrency_limit) WHERE concurrency_key IS NOT NULL",
    # The waiting tasks that time will change, the next one first.
    "task_agenda": (
        "task (pool, LEAST(until_ms, deadline_ms), id)"
        " WHERE state IN ('queued', 'deferred') AND LEAST(until_ms, deadline_ms) IS NOT NULL"
    ),
}
"""Those that came with a migration of a table that had rows: name and definition."""
_LOCK: Final = 0x6C61726765
"""An arbitrary number among this database's advisory locks, apart from that of the migrations."""
_PAUSE_S: Final = 0.5
_IS_VALID: Final = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)"
_NOT_VALIDATED: Final = """
SELECT format('ALTER TABLE %s VALIDATE CONSTRAINT %I', conrelid::regclass, conname)
FROM pg_constraint WHERE NOT convalidated AND conrelid = 'task'::regclass ORDER BY conname
"""


async def catch_up(pg: PgConnection) -> None:
    """Build the indexes that are missing and look at the rows that no constraint has seen; on a connection of its own.

    Raises:
        asyncpg.PostgresError: it failed; what is done is done, and the rest can be done again.
    """
    await pg.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    while not await pg.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110 - waiting for it in the database would be a transaction
        await asyncio.sleep(_PAUSE_S)
    for name, definition in INDEXES.items():
        is_valid = await pg.fetchval(_IS_VALID, name)
        if is_valid is False:
            await pg.execute(f"DROP INDEX CONCURRENTLY {name}")
        if not is_valid:
            await pg.execute(f"CREATE INDEX CONCURRENTLY {name} ON {definition}")
    for row in await pg.fetch(_NOT_VALIDATED):
        await pg.execute(row[0])
