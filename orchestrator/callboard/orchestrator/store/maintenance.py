"""What the tables need from time to time: partitions ahead, old history dropped, expired keys forgotten.

Rules:
- One replica at a time, by an advisory lock; another finds nothing to do.
- Commits never wait long: locks on the history give up after a moment (and come again next time), deletions are small.
- A partition is made apart, takes the rows that the default partition holds for its day, and is attached.
- Keys go before history does, so that no key leads to nowhere.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog

from callboard.orchestrator.store.driver import PgConnection
from callboard.schemas.times import to_instant, to_ms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

log = structlog.get_logger()

DAYS_AHEAD: Final = 3
CHUNK: Final = 1_000
DAY_MS: Final = 86_400_000
LOCK_TIMEOUT_MS: Final = 500
_LOCK: Final = 0x63616C6C63686F72
"""An arbitrary number that means "Callboard's chores" among this database's advisory locks."""
_PREFIX: Final = "task_history_"
_NAME: Final = re.compile(_PREFIX + r"(\d{8})\Z")

_PARTITIONS: Final = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'task_history'::regclass"
_DROP_KEYS: Final = f"""
DELETE FROM task_key WHERE task_id = ANY(ARRAY(
    SELECT task_id FROM task_key WHERE finished_ms <= $1 ORDER BY finished_ms LIMIT {CHUNK} FOR UPDATE SKIP LOCKED
))
"""  # noqa: S608 - made of the constant above
_MOVE: Final = """
WITH moved AS (DELETE FROM task_history_default WHERE finished_ms >= $1 AND finished_ms < $2 RETURNING *)
INSERT INTO {partition} SELECT * FROM moved
"""
_DROP_STRAYS: Final = f"""
DELETE FROM task_history_default WHERE id = ANY(ARRAY(
    SELECT id FROM task_history_default WHERE finished_ms < $1 LIMIT {CHUNK}
)) AND finished_ms < $1
"""  # noqa: S608 - made of the constant above


async def maintain(pg: PgConnection, *, retention_days: int, key_retention_ms: int) -> None:
    """Do all of it once, by the database's clock."""
    if not await pg.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        return
    now_ms = await pg.fetchval("SELECT (extract(epoch FROM now()) * 1000)::bigint")
    await _delete(pg, _DROP_KEYS, now_ms - key_retention_ms)
    today = to_instant(now_ms).date()
    present = {_day_of(match[1]) for row in await pg.fetch(_PARTITIONS) if (match := _NAME.match(row[0]))}
    for day in _days(today):
        if day not in present:
            await _quickly(pg, _make_partition, day)
    for day in sorted(present):
        # A partition goes when its last moment is past the retention, not its first.
        if day < today - timedelta(days=retention_days):
            await _quickly(pg, _drop_partition, day)
    await _delete(pg, _DROP_STRAYS, now_ms - retention_days * DAY_MS)
    await pg.fetchval("SELECT pg_advisory_unlock($1)", _LOCK)


def _days(today: date) -> Iterator[date]:
    return (today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1))


async def _delete(pg: PgConnection, sql: str, until_ms: int) -> None:
    """Delete in small steps, each its own transaction."""
    tag = f"DELETE {CHUNK}"
    while tag == f"DELETE {CHUNK}":
        tag = await pg.execute(sql, until_ms)


async def _quickly(pg: PgConnection, work: Callable[[PgConnection, date], Awaitable[None]], day: date) -> None:
    """Change a partition in one transaction, unless that would keep commits waiting."""
    try:
        async with pg.transaction():
            await pg.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            await work(pg, day)
    except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError) as error:
        # Rows of a day without a partition are in the default one, where nothing is lost.
        log.warning("history partition left for the next time", day=day.isoformat(), error=str(error))


async def _make_partition(pg: PgConnection, day: date) -> None:
    name, (first_ms, next_ms) = _name(day), _bounds(day)
    # No row of this day may come into the default partition before the new one is there.
    await pg.execute("LOCK TABLE task_history_default IN SHARE ROW EXCLUSIVE MODE")
    await pg.execute(f"CREATE TABLE {name} (LIKE task_history INCLUDING ALL)")
    await pg.execute(_MOVE.replace("{partition}", name), first_ms, next_ms)
    await pg.execute(f"ALTER TABLE task_history ATTACH PARTITION {name} FOR VALUES FROM ({first_ms}) TO ({next_ms})")
    log.info("history partition made", partition=name)


async def _drop_partition(pg: PgConnection, day: date) -> None:
    await pg.execute(f"DROP TABLE {_name(day)}")
    log.info("history partition dropped", partition=_name(day))


def _name(day: date) -> str:
    return f"{_PREFIX}{day:%Y%m%d}"


def _day_of(digits: str) -> date:
    return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))


def _bounds(day: date) -> tuple[int, int]:
    """The first moment of a day (UTC) and of the next, in ms."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return to_ms(midnight), to_ms(midnight + timedelta(days=1))
