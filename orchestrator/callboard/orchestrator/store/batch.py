"""A batch as one SQL statement: the lease first, and everything else only through its row.

Rules:
- `pool_lease` is updated under its lock, and each other part joins the row that comes back: a fenced owner writes
  nothing at all. All parts see the database as it was before the statement.
- A part without rows is left out, so there are few shapes of statement, and each is prepared once.
- Rows arrive as one array for each column, most of them as text (`literals`). `id = ANY(ids)` beside the join is what
  makes the planner use the index (the cached plan of the join alone scans the table; see `connections.WRITING`).
- Updates and deletions carry the state and attempt that the batch before left: what does not match is not written.
- A new task with a key is inserted only if the key was free, or is free again.
- What is told goes in one piece, with the tasks beside it that were not written: what is told of those is not so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

KEPT_ATTEMPTS_SQL: Final = """CASE WHEN x.ended IS NULL THEN t.attempts ELSE
            (t.attempts || string_to_array(x.ended, E'\\n'))
            [cardinality(t.attempts) + cardinality(string_to_array(x.ended, E'\\n')) - 19 :] END"""
"""The last 20 ended attempts (protocol, section 3); `x.ended` are the new ones, a JSON object on each line."""

HISTORY_COLUMNS: Final = (
    "id, pool, type, priority, created_ms, spec, payload, retry_of, state, version, attempt, agent_id, incarnation, "
    "started_ms, updated_ms, reason, progress, attempts, finished_ms, result, error, epoch, batch"
)


@dataclass(frozen=True, eq=False)
class Head:
    """The part that yields the lease's row, from the first `parameters` parameters of the statement."""

    parameters: int
    sql: str


@dataclass(frozen=True, eq=False)
class Part:
    """Rows to write. `{rows}` stands for the arrays unnested as `x`, `{ids}` for the array of the first column.

    `written` is the name of the sub-statement that returns the `id` of each task written. `{unwritten}` stands for the
    ids of all the others.
    """

    columns: tuple[tuple[str, str], ...]
    sql: str
    written: str | None = None

    @cached_property
    def literals(self) -> tuple[bool, ...]:
        """Which columns arrive as text: not the first, by which rows are found, and nothing that is bytes anyway."""
        return tuple(place > 0 and kind != "bytea" for place, (_, kind) in enumerate(self.columns))


TAKE: Final = Head(
    6,  # pool, epoch, holder, number, key retention in ms, lease in ms
    """
lease AS (
    UPDATE pool_lease SET batch = $4, expires_at = now() + $6::bigint * interval '1 millisecond'
    WHERE pool = $1 AND epoch = $2 AND holder = $3 AND batch = $4::bigint - 1
    RETURNING pool, epoch, batch, (extract(epoch FROM now()) * 1000)::bigint AS now_ms, $5::bigint AS key_retention_ms
)""",
)
"""The lease check: the batch follows the last one of this holder's epoch."""

TAKEN: Final = Head(
    5,
    """
lease AS (
    SELECT pool, epoch, batch, (extract(epoch FROM now()) * 1000)::bigint AS now_ms, $5::bigint AS key_retention_ms
    FROM pool_lease WHERE pool = $1 AND epoch = $2 AND holder = $3 AND batch = $4::bigint
)""",
)
"""The same row, after an earlier statement of this transaction took it."""

_FOR_LIFE: Final = (
    ("id", "uuid"),
    ("type", "text"),
    ("priority", "smallint"),
    ("created_ms", "bigint"),
    ("order_ms", "bigint"),
    ("placement", "bytea"),
    ("deadline_ms", "bigint"),
    ("spec", "bytea"),
    ("payload", "bytea"),
    ("retry_of", "uuid"),
    ("concurrency_key", "text"),
    ("concurrency_limit", "bigint"),
    ("is_keyed", "boolean"),
)
_STANDING: Final = (
    ("state", "text"),
    ("version", "bigint"),
    ("attempt", "bigint"),
    ("agent_id", "text"),
    ("incarnation", "text"),
    ("started_ms", "bigint"),
    ("updated_ms", "bigint"),
    ("reason", "text"),
    ("progress", "bytea"),
    ("ended", "text"),
)
"""What changes over a task's life."""
_LIVING: Final = (
    ("assigned_ms", "bigint"),
    ("until_ms", "bigint"),
    ("spent", "bigint"),
    ("crashes", "bigint"),
    ("crashed_on", "text"),
    ("scores", "bytea"),
)
"""The same, of a live task alone; no number is 0, no text is nobody: a column of nulls costs nothing."""
_GUARD: Final = (("id", "uuid"), ("was_state", "text"), ("was_attempt", "bigint"))
_ENDING: Final = (("finished_ms", "bigint"), ("result", "bytea"), ("error", "bytea"))

CLAIMS: Final = Part(
    (
        ("id", "uuid"),
        ("scope", "text"),
        ("key", "text"),
        ("digest", "bytea"),
        ("claimed_ms", "bigint"),
        ("finished_ms", "bigint"),
    ),
    """
claimed AS (
    INSERT INTO task_key AS k (pool, scope, key, task_id, digest, claimed_ms, finished_ms)
    SELECT lease.pool, x.scope, x.key, x.id, x.digest, x.claimed_ms, x.finished_ms FROM lease, {rows}
    -- A key whose retention is over is free, whether or not maintenance has forgotten it yet.
    ON CONFLICT (pool, scope, key) DO UPDATE SET
        task_id = excluded.task_id, digest = excluded.digest, claimed_ms = excluded.claimed_ms,
        finished_ms = excluded.finished_ms
    WHERE k.finished_ms + (SELECT key_retention_ms FROM lease) <= excluded.claimed_ms
    RETURNING task_id
)""",
)

_NO_CLAIMS: Final = """
claimed AS (SELECT NULL::uuid AS task_id WHERE false)"""

INSERTS: Final = Part(
    _FOR_LIFE + _STANDING + _LIVING,
    """
born AS (
    SELECT x.* FROM {rows} WHERE NOT x.is_keyed OR x.id IN (SELECT task_id FROM claimed)
),
inserted AS (
    INSERT INTO task (
        id, pool, type, priority, created_ms, order_ms, placement, deadline_ms, spec, payload, retry_of,
        concurrency_key, concurrency_limit,
        state, version, attempt, agent_id, incarnation, assigned_ms, started_ms, updated_ms, until_ms, reason,
        spent, crashes, crashed_on, progress, scores, attempts, epoch, batch
    )
    SELECT
        x.id, lease.pool, x.type, x.priority, x.created_ms, x.order_ms, x.placement, x.deadline_ms, x.spec, x.payload,
        x.retry_of, x.concurrency_key, x.concurrency_limit,
        x.state, x.version, x.attempt, x.agent_id, x.incarnation, x.assigned_ms, x.started_ms, x.updated_ms, x.until_ms,
        x.reason, coalesce(x.spent, 0), coalesce(x.crashes, 0), coalesce(string_to_array(x.crashed_on, ','), '{}'),
        x.progress, x.scores,
        coalesce(string_to_array(x.ended, E'\\n'), '{}'), lease.epoch, lease.batch
    FROM lease, born AS x
    RETURNING id
)""",
    written="inserted",
)

BIRTHS_AND_DEATHS: Final = Part(
    _FOR_LIFE + _STANDING + _ENDING,
    """
brief AS (
    SELECT x.* FROM {rows} WHERE NOT x.is_keyed OR x.id IN (SELECT task_id FROM claimed)
),
passed AS (
    INSERT INTO task_history ({history})
    SELECT
        x.id, lease.pool, x.type, x.priority, x.created_ms, x.spec, x.payload, x.retry_of, x.state, x.version,
        x.attempt, x.agent_id, x.incarnation, x.started_ms, x.updated_ms, x.reason, x.progress,
        coalesce(string_to_array(x.ended, E'\\n'), '{}'), x.finished_ms, x.result, x.error, lease.epoch, lease.batch
    FROM lease, brief AS x
    RETURNING id
)""",
    written="passed",
)
"""Tasks that are new and final at once."""

UPDATES: Final = Part(
    _GUARD + _STANDING + _LIVING,
    """
updated AS (
    UPDATE task t SET
        state = x.state, version = x.version, attempt = x.attempt, agent_id = x.agent_id, incarnation = x.incarnation,
        assigned_ms = x.assigned_ms, started_ms = x.started_ms, updated_ms = x.updated_ms, until_ms = x.until_ms,
        reason = x.reason, spent = coalesce(x.spent, 0), crashes = coalesce(x.crashes, 0),
        crashed_on = coalesce(string_to_array(x.crashed_on, ','), '{}'),
        progress = x.progress, scores = x.scores, attempts = {attempts}, epoch = lease.epoch, batch = lease.batch
    FROM lease, {rows}
    WHERE t.id = ANY({ids}) AND t.id = x.id AND t.pool = lease.pool
        AND t.state = x.was_state AND t.attempt = x.was_attempt
    RETURNING t.id
)""",
    written="updated",
)

FINISHES: Final = Part(
    _GUARD + _STANDING + _ENDING,
    """
finished AS (
    DELETE FROM task t USING lease, {rows}
    WHERE t.id = ANY({ids}) AND t.id = x.id AND t.pool = lease.pool
        AND t.state = x.was_state AND t.attempt = x.was_attempt
    RETURNING
        t.id, t.pool, t.type, t.priority, t.created_ms, t.spec, t.payload, t.retry_of, x.state, x.version, x.attempt,
        x.agent_id, x.incarnation, x.started_ms, x.updated_ms, x.reason, x.progress, {attempts} AS attempts,
        x.finished_ms, x.result, x.error, lease.epoch, lease.batch
),
kept AS (
    INSERT INTO task_history ({history}) SELECT {history} FROM finished
),
released AS (
    UPDATE task_key k SET finished_ms = finished.finished_ms FROM finished
    WHERE k.task_id = ANY({ids}) AND k.task_id = finished.id
)""",
    written="finished",
)

AGENTS: Final = Part(
    (
        ("agent_id", "text"),
        ("state", "text"),
        ("incarnation", "text"),
        ("replaced", "bytea"),
        ("role", "text"),
        ("capabilities", "bytea"),
        ("labels", "bytea"),
        ("metadata", "bytea"),
        ("slots", "bigint"),
        ("version", "text"),
        ("operator_drain", "boolean"),
        ("own_drain", "boolean"),
        ("spawned", "boolean"),
        ("seen_ms", "bigint"),
    ),
    """
known AS (
    INSERT INTO agent (
        pool, agent_id, state, incarnation, replaced, role, capabilities, labels, metadata, slots, version,
        operator_drain, own_drain, spawned, seen_ms
    )
    SELECT
        lease.pool, x.agent_id, x.state, x.incarnation, x.replaced, x.role, x.capabilities, x.labels, x.metadata,
        x.slots, x.version, x.operator_drain, x.own_drain, x.spawned, x.seen_ms
    FROM lease, {rows}
    ON CONFLICT (pool, agent_id) DO UPDATE SET
        state = excluded.state, incarnation = excluded.incarnation, replaced = excluded.replaced, role = excluded.role,
        capabilities = excluded.capabilities, labels = excluded.labels, metadata = excluded.metadata,
        slots = excluded.slots, version = excluded.version, operator_drain = excluded.operator_drain,
        own_drain = excluded.own_drain, spawned = excluded.spawned, seen_ms = excluded.seen_ms
)""",
)

FORGOTTEN_AGENTS: Final = Part(
    (("agent_id", "text"),),
    """
forgotten AS (
    DELETE FROM agent a USING lease WHERE a.pool = lease.pool AND a.agent_id = ANY({ids})
)""",
)


PAUSES: Final = Part(
    (("type", "text"),),
    """
paused AS (
    INSERT INTO pool_pause (pool, type) SELECT lease.pool, x.type FROM lease, {rows} ON CONFLICT DO NOTHING
)""",
)

RESUMES: Final = Part(
    (("type", "text"),),
    """
resumed AS (
    DELETE FROM pool_pause p USING lease WHERE p.pool = lease.pool AND p.type = ANY({ids})
)""",
)

KEPT_DIALOGUES: Final = Part(
    (("task_id", "uuid"), ("body", "bytea")),
    """
asked AS (
    INSERT INTO task_dialogue (pool, task_id, body) SELECT lease.pool, x.task_id, x.body FROM lease, {rows}
    ON CONFLICT (pool, task_id) DO UPDATE SET body = excluded.body
)""",
)

ENDED_DIALOGUES: Final = Part(
    (("task_id", "uuid"),),
    """
unasked AS (
    DELETE FROM task_dialogue d USING lease WHERE d.pool = lease.pool AND d.task_id = ANY({ids})
)""",
)

_HOLD: Final = (("agent_id", "text"), ("task_id", "uuid"), ("attempt", "bigint"), ("key", "text"))

KEPT_HOLDS: Final = Part(
    _HOLD,
    """
held AS (
    INSERT INTO key_hold (pool, agent_id, task_id, attempt, key)
    SELECT lease.pool, x.agent_id, x.task_id, x.attempt, x.key FROM lease, {rows} ON CONFLICT DO NOTHING
)""",
)

DROPPED_HOLDS: Final = Part(
    _HOLD[:-1],
    """
dropped AS (
    DELETE FROM key_hold h USING lease, {rows}
    WHERE h.pool = lease.pool AND h.agent_id = ANY({ids})
        AND h.agent_id = x.agent_id AND h.task_id = x.task_id AND h.attempt = x.attempt
)""",
)

TOLD: Final = Part(
    (("events", "bytea"),),
    """
told AS (
    INSERT INTO event_outbox AS o (pool, epoch, batch, at_ms, events, unwritten)
    SELECT lease.pool, lease.epoch, lease.batch, lease.now_ms, x.events, {unwritten} FROM lease, {rows}
    -- A batch that is halved for a bad row tells what it has to tell in pieces.
    ON CONFLICT (pool, epoch, batch) DO UPDATE SET
        events = o.events || excluded.events, unwritten = o.unwritten || excluded.unwritten
)""",
)
"""The outbox's row of this batch: all that it tells, see `outbox.pressed`."""

PUBLISHED: Final = Part(
    (("places", "bigint"),),
    """
published AS (
    DELETE FROM event_outbox
    WHERE pool = (SELECT pool FROM lease)
        AND (epoch, batch) > (({ids})[1], ({ids})[2]) AND (epoch, batch) <= (({ids})[3], ({ids})[4])
)""",
)
"""What need not be kept any more. Its one array is epoch and batch twice: after which, and through which one.

The lower bound is only there so that the index is not searched through what was deleted before.
"""


@lru_cache(maxsize=256)
def statement(head: Head, parts: tuple[Part, ...]) -> str:
    """The SQL of one shape of batch; it returns `now_ms` and how many tasks it wrote, or no row when fenced."""
    texts = [head.sql]
    if CLAIMS not in parts and (INSERTS in parts or BIRTHS_AND_DEATHS in parts):
        texts.append(_NO_CLAIMS)
    first = head.parameters + 1
    ids: list[str] = []
    for part in parts:
        if part.written is not None:
            ids.append(f"${first}::uuid[]")
        texts.append(_numbered(part, first).replace("{unwritten}", _unwritten(ids, parts)))
        first += len(part.columns)
    counts = [f"(SELECT count(*) FROM {part.written})" for part in parts if part.written is not None]  # noqa: S608 - names from the parts above
    return f"WITH{','.join(texts)}\nSELECT now_ms, {' + '.join(counts) or '0'} AS written FROM lease"


def _unwritten(ids: list[str], parts: tuple[Part, ...]) -> str:
    """Those of `ids`, which are arrays, that no part has written."""
    if not ids:
        return "'{}'::uuid[]"
    written = " UNION ALL ".join(f"SELECT id FROM {part.written}" for part in parts if part.written is not None)  # noqa: S608 - names from the parts above
    return f"ARRAY(SELECT u.id FROM unnest({' || '.join(ids)}) AS u(id) WHERE u.id NOT IN ({written}))"  # noqa: S608 - the same


def _numbered(part: Part, first: int) -> str:
    arrays = ", ".join(
        f"${first + place}::{'text::' if is_literal else ''}{kind}[]"
        for place, ((_, kind), is_literal) in enumerate(zip(part.columns, part.literals, strict=True))
    )
    names = ", ".join(name for name, _ in part.columns)
    return (
        part.sql.replace("{rows}", f"unnest({arrays}) AS x({names})")
        .replace("{ids}", f"${first}::{part.columns[0][1]}[]")
        .replace("{attempts}", KEPT_ATTEMPTS_SQL)
        .replace("{history}", HISTORY_COLUMNS)
    )
