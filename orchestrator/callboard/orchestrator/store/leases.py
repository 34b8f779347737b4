"""The row that says who owns a pool, always by the database's clock.

Rules:
- The epoch rises whenever the row is taken, by whomever: an older epoch can never write again.
- A lease that was given up has no holder, so that its last holder cannot write either.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from callboard.orchestrator.store.driver import PgConnection, Record
from callboard.orchestrator.store.port import NOTHING_PUBLISHED, FencedError, Lease, Published

_COLUMNS: Final = "pool, holder, replica, epoch, batch, since_ms, (extract(epoch FROM now()) * 1000)::bigint AS now_ms"
_ACQUIRE: Final = f"""
INSERT INTO pool_lease AS l (pool, holder, replica, epoch, batch, since_ms, expires_at)
VALUES ($1, $2, $3, 1, 0, (extract(epoch FROM now()) * 1000)::bigint, now() + $4::bigint * interval '1 millisecond')
ON CONFLICT (pool) DO UPDATE SET
    holder = excluded.holder, replica = excluded.replica, epoch = l.epoch + 1, batch = 0,
    since_ms = excluded.since_ms, expires_at = excluded.expires_at
WHERE l.holder IS NULL OR l.holder = excluded.holder OR l.expires_at <= now()
RETURNING {_COLUMNS}
"""  # noqa: S608 - made of the constant above
_FORGET: Final = """
published AS (
    DELETE FROM event_outbox
    WHERE pool = (SELECT pool FROM lease)
        AND (epoch, batch) > ($4::bigint, $5::bigint) AND (epoch, batch) <= ($6::bigint, $7::bigint)
)
"""
RENEW: Final = f"""
WITH lease AS (
    UPDATE pool_lease SET expires_at = now() + $8::bigint * interval '1 millisecond'
    WHERE pool = $1 AND epoch = $2 AND holder = $3
    RETURNING {_COLUMNS}
), {_FORGET} SELECT * FROM lease
"""  # noqa: S608 - made of the constants above
RELEASE: Final = f"""
WITH lease AS (
    UPDATE pool_lease SET holder = NULL WHERE pool = $1 AND epoch = $2 AND holder = $3 RETURNING pool
), {_FORGET} SELECT pool FROM lease
"""  # noqa: S608 - made of the constant above
_READ: Final = f"SELECT {_COLUMNS} FROM pool_lease WHERE pool = $1 AND epoch = $2 AND holder = $3"  # noqa: S608 - made of the constant above


async def acquire(pg: PgConnection, pool: str, *, holder: str, replica: str, lease_ms: int) -> Lease | None:
    """Take the pool if it is free, expired or ours; the epoch rises and its batches begin anew."""
    row = await pg.fetchrow(_ACQUIRE, pool, holder, replica, lease_ms)
    return None if row is None else Lease(**row)


async def renew(pg: PgConnection, lease: Lease, *, lease_ms: int, published: Published) -> Lease:
    """Extend a lease that is ours, and forget what is published.

    Raises:
        FencedError: it is not.
    """
    row = await pg.fetchrow(
        RENEW, lease.pool, lease.epoch, lease.holder, *published.after, *published.through, lease_ms
    )
    return _still_ours(lease, row)


async def read(pg: PgConnection, lease: Lease) -> Lease:
    """The lease as it stands.

    Raises:
        FencedError: it is not ours.
    """
    return _still_ours(lease, await pg.fetchrow(_READ, lease.pool, lease.epoch, lease.holder))


async def release(pg: PgConnection, lease: Lease, *, published: Published = NOTHING_PUBLISHED) -> None:
    """Give the lease up, if it is ours, and forget what is published."""
    await pg.execute(RELEASE, lease.pool, lease.epoch, lease.holder, *published.after, *published.through)


def _still_ours(lease: Lease, row: Record) -> Lease:
    if row is None:
        raise FencedError(f"pool {lease.pool} is no longer held by {lease.holder} in epoch {lease.epoch}")
    return replace(lease, batch=row["batch"], now_ms=row["now_ms"])
