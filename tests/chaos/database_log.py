"""The database's own account: triggers that log every write of tasks and leases, for these tests only.

Rules:
- A line is in the log exactly if its transaction was committed, and in the order of the commits: all writers of a pool
  queue for its lease.
- Its time is that of the commit (`track_commit_timestamp`), not that of the write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import asyncpg
import msgspec
from tests.chaos.history import End, LeaseRow, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS: Final = {"track_commit_timestamp": "on"}
"""What the server needs beside the tables below."""

_INSTALL: Final = """
CREATE TABLE chaos_log (
    sequence bigserial PRIMARY KEY,
    tx xid8 NOT NULL DEFAULT pg_current_xact_id(),
    what text NOT NULL,
    said jsonb NOT NULL
);

CREATE FUNCTION chaos_log_task() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    spec jsonb;
    said jsonb;
    r record := coalesce(NEW, OLD);
BEGIN
    said := jsonb_build_object(
        'task_id', r.id, 'state', r.state, 'version', r.version, 'attempt', r.attempt, 'agent_id', r.agent_id,
        'incarnation', r.incarnation, 'epoch', r.epoch, 'batch', r.batch
    );
    IF TG_OP = 'INSERT' THEN
        spec := convert_from(r.spec, 'UTF8')::jsonb;
        said := said || jsonb_build_object(
            'key', spec -> 'key', 'max_attempts', coalesce(spec -> 'max_attempts', '3'),
            'type', r.type, 'retry_of', r.retry_of, 'requires', coalesce(spec -> 'requires' -> 'capabilities', '[]'),
            'concurrency_key', spec -> 'concurrency_key', 'concurrency_limit', spec -> 'concurrency_limit',
            'ends', to_jsonb(r.attempts), 'priority', r.priority
        );
    ELSIF TG_OP = 'UPDATE' AND NEW.attempts IS DISTINCT FROM OLD.attempts THEN
        said := said || jsonb_build_object('ends', to_jsonb(r.attempts));
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.progress IS DISTINCT FROM OLD.progress THEN
        said := said || jsonb_build_object('progress', convert_from(r.progress, 'UTF8')::jsonb -> 'data');
    END IF;
    IF TG_ARGV[0] = 'live' THEN
        said := said || jsonb_build_object(
            'order_ms', r.order_ms, 'priority', r.priority, 'placement', encode(r.placement, 'hex'),
            'spent', r.spent, 'crashes', r.crashes
        );
    ELSE
        said := said || jsonb_build_object('result', convert_from(r.result, 'UTF8'));
    END IF;
    INSERT INTO chaos_log (what, said)
    VALUES (CASE TG_ARGV[0] WHEN 'live' THEN lower(TG_OP) ELSE 'final' END, said);
    RETURN NULL;
END $$;

CREATE FUNCTION chaos_log_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_log (what, said) VALUES ('lease', jsonb_build_object(
        'epoch', NEW.epoch, 'batch', NEW.batch, 'replica', NEW.replica, 'held', NEW.holder IS NOT NULL
    ));
    RETURN NULL;
END $$;

CREATE TRIGGER chaos AFTER INSERT OR UPDATE OR DELETE ON task
    FOR EACH ROW EXECUTE FUNCTION chaos_log_task('live');
CREATE TRIGGER chaos AFTER INSERT ON task_history
    FOR EACH ROW EXECUTE FUNCTION chaos_log_task('history');
CREATE TRIGGER chaos AFTER INSERT OR UPDATE ON pool_lease
    FOR EACH ROW EXECUTE FUNCTION chaos_log_lease();
"""
_READ: Final = """
SELECT sequence, tx::text::bigint AS tx, what, said::text AS said,
    (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint AS at_us
FROM chaos_log ORDER BY sequence
"""


class _Said(msgspec.Struct, kw_only=True):
    """One line of the log about a task; what a later line leaves out is as in the first."""

    task_id: str
    state: str
    version: int
    attempt: int
    epoch: int
    batch: int
    agent_id: str | None
    incarnation: str | None
    key: str | None = None
    max_attempts: int | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    ends: list[str] = msgspec.field(default_factory=list[str])
    priority: int = 0
    order_ms: int = 0
    placement: str = ""
    spent: int | None = None
    crashes: int | None = None
    result: str | None = None
    type: str = ""
    retry_of: str | None = None
    requires: tuple[str, ...] = ()
    progress: tuple[str, int, str, str] | None = None


_SAID: Final = msgspec.json.Decoder(_Said)
_LEASE: Final = msgspec.json.Decoder(dict[str, Any])
_END: Final = msgspec.json.Decoder(End)


async def install(connect_args: dict[str, Any]) -> None:
    """Begin to log, in a database whose schema is up to date."""
    connection = await asyncpg.connect(**connect_args)
    try:
        await connection.execute(_INSTALL)
    finally:
        await connection.close()


async def export(connect_args: dict[str, Any]) -> list[Row | LeaseRow]:
    """Everything that was logged."""
    connection = await asyncpg.connect(**connect_args)
    try:
        rows = await connection.fetch(_READ)
    finally:
        await connection.close()
    return list(_events(rows))


def _events(rows: list[Any]) -> Iterator[Row | LeaseRow]:
    first: dict[str, _Said] = {}
    for row in rows:
        at: dict[str, Any] = {"sequence": row["sequence"], "tx": row["tx"], "at_ns": row["at_us"] * 1000}
        if row["what"] == "lease":
            yield LeaseRow(**at, **_LEASE.decode(row["said"]))
            continue
        said = _SAID.decode(row["said"])
        yield _row(row["what"], at, said, first.setdefault(said.task_id, said))


def _row(op: str, at: dict[str, Any], said: _Said, first: _Said) -> Row:
    return Row(
        **at,
        op=op,
        task_id=said.task_id,
        state=said.state,
        version=said.version,
        attempt=said.attempt,
        epoch=said.epoch,
        batch=said.batch,
        agent_id=said.agent_id,
        incarnation=said.incarnation,
        key=first.key,
        type=first.type,
        retry_of=first.retry_of,
        requires=first.requires,
        order=(-first.priority, first.order_ms, said.task_id),
        placement=first.placement,
        max_attempts=first.max_attempts or 3,
        concurrency_key=first.concurrency_key,
        concurrency_limit=first.concurrency_limit,
        spent=said.spent,
        crashes=said.crashes,
        ends=tuple(_END.decode(end) for end in said.ends),
        result=said.result,
        progress=said.progress,
    )
