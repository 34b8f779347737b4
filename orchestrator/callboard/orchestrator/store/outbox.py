"""What was told and is not known to be published; it is written and forgotten with the batches (`batch`).

Rules:
- A row is what one batch tells, pressed: events repeat one another, and a tenth of the bytes is a tenth of the log.
- Beside it are the tasks of the batch that were not written (a key that was another's). What is told of those is not
  so, and is left out here.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import msgspec

from callboard.orchestrator.store.driver import PgConnection, Record
from callboard.orchestrator.store.port import Backlog, OutboxRow, Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

READ: Final = """
SELECT epoch, batch, at_ms, events, unwritten::text[] AS unwritten FROM event_outbox
WHERE pool = $1 AND (epoch, batch) > ($2::bigint, $3::bigint) ORDER BY pool, epoch, batch LIMIT $4
"""
BACKLOG: Final = """
SELECT count(*) AS rows, coalesce(sum(octet_length(events)), 0)::bigint AS bytes, min(at_ms) AS oldest_ms
FROM event_outbox WHERE pool = $1
"""
_PRESS: Final = (1, zlib.DEFLATED, 12, 5)
"""The fastest level; the best one saves a tenth more, for three times the work. A window and tables that hold a few
events, since one is like the next: to make the default ones ready takes 50 us, to press a task's events 5."""


class _Line(msgspec.Struct):
    """Whose change a line tells; an agent's has no task."""

    task_id: str | None = None


_LINE: Final = msgspec.json.Decoder(_Line)


async def read(pg: PgConnection, pool: str, after: Place, *, limit: int) -> list[OutboxRow]:
    """At most `limit` batches from behind `after` on, in the order of their commits."""
    rows = await pg.fetch(READ, pool, *after, limit)
    return [OutboxRow(Place(row["epoch"], row["batch"]), row["at_ms"], _told(row)) for row in rows]


async def backlog(pg: PgConnection, pool: str) -> Backlog:
    """How much is kept."""
    row = await pg.fetchrow(BACKLOG, pool)
    return Backlog(row["rows"], row["bytes"], row["oldest_ms"])


def pressed(lines: Iterable[bytes]) -> bytes:
    """What a batch tells, as it is written. Several of these behind one another can be read like one."""
    press = zlib.compressobj(*_PRESS)
    return press.compress(b"\n".join(lines)) + press.flush()


def _told(row: Record) -> bytes:
    lines = b"\n".join(_pieces(row["events"]))
    if not row["unwritten"]:
        return lines
    unwritten = set(row["unwritten"])
    return b"\n".join(line for line in lines.split(b"\n") if _LINE.decode(line).task_id not in unwritten)


def _pieces(events: bytes) -> Iterator[bytes]:
    while events:
        reader = zlib.decompressobj()
        yield reader.decompress(events)
        events = reader.unused_data
