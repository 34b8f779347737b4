"""Reading what was told and is not known to be published; it is written and forgotten with the batches (`batch`)."""

from __future__ import annotations

from typing import Final

from callboard.orchestrator.store.driver import PgConnection
from callboard.orchestrator.store.port import Backlog, OutboxRow, Place

READ: Final = """
SELECT epoch, batch, at_ms, events FROM event_outbox
WHERE pool = $1 AND (epoch, batch) > ($2::bigint, $3::bigint) ORDER BY pool, epoch, batch LIMIT $4
"""
BACKLOG: Final = """
SELECT count(*) AS rows, coalesce(sum(octet_length(events)), 0)::bigint AS bytes, min(at_ms) AS oldest_ms
FROM event_outbox WHERE pool = $1
"""


async def read(pg: PgConnection, pool: str, after: Place, *, limit: int) -> list[OutboxRow]:
    """At most `limit` batches from behind `after` on, in the order of their commits."""
    rows = await pg.fetch(READ, pool, *after, limit)
    return [OutboxRow(Place(row["epoch"], row["batch"]), row["at_ms"], row["events"]) for row in rows]


async def backlog(pg: PgConnection, pool: str) -> Backlog:
    """How much is kept."""
    row = await pg.fetchrow(BACKLOG, pool)
    return Backlog(row["rows"], row["bytes"], row["oldest_ms"])
