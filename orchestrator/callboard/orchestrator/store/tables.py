"""The tables as the queries see them. What they hold is in the migrations; a test compares the two.

Rules:
- `task` holds live tasks only, so that the hot table stays small; a final one moves to `task_history`, partitioned by
  the day (UTC) of its end.
- `*_ms` are milliseconds since the Unix epoch. States are the protocol's words.
- Specifications, payloads, results, progress, scores, dialogues and errors are bytes of UTF-8 JSON; `jsonb` would
  refuse an escaped NUL.
- `epoch` and `batch` name the batch that wrote a row last: so a repeated commit can tell what it did the first time.
"""

from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
)

SCHEMA_REVISION: Final = "0005"
"""The migration that this version needs."""

metadata: Final = MetaData()


def _required(name: str, kind: Any, *, key: bool = False) -> Column[Any]:  # noqa: ANN401 - any SQL type
    return Column(name, kind, nullable=False, primary_key=key)


def _common() -> list[Column[Any]]:
    """What live and final tasks have alike."""
    return [
        _required("pool", Text),
        _required("type", Text),
        _required("priority", SmallInteger),
        _required("state", Text),
        _required("version", BigInteger),
        _required("attempt", BigInteger),
        Column("agent_id", Text),
        Column("incarnation", Text),
        _required("created_ms", BigInteger),
        Column("started_ms", BigInteger),
        _required("updated_ms", BigInteger),
        Column("reason", Text),
        _required("spec", LargeBinary),
        _required("payload", LargeBinary),
        Column("progress", LargeBinary),
        _required("attempts", ARRAY(Text)),
        Column("retry_of", Uuid(as_uuid=False)),
        _required("epoch", BigInteger),
        _required("batch", BigInteger),
    ]


pool_lease: Final = Table(
    "pool_lease",
    metadata,
    _required("pool", Text, key=True),
    Column("holder", Text),
    _required("replica", Text),
    _required("epoch", BigInteger),
    _required("batch", BigInteger),
    _required("since_ms", BigInteger),
    _required("expires_at", DateTime(timezone=True)),
)
"""Who owns a pool; `holder` is null when it was given up."""

task: Final = Table(
    "task",
    metadata,
    _required("id", Uuid(as_uuid=False), key=True),
    *_common(),
    _required("order_ms", BigInteger),
    _required("placement", LargeBinary),
    Column("assigned_ms", BigInteger),
    Column("deadline_ms", BigInteger),
    Column("until_ms", BigInteger),
    _required("spent", BigInteger),
    _required("crashes", BigInteger),
    _required("crashed_on", ARRAY(Text)),
    Column("concurrency_key", Text),
    Column("concurrency_limit", BigInteger),
    Column("scores", LargeBinary),
)
"""Live tasks. `placement` is a digest of the placement class, which may be longer than an index entry can be.

`scores` are those of the attempt in hand, null when there are none.
"""

task_history: Final = Table(
    "task_history",
    metadata,
    _required("id", Uuid(as_uuid=False), key=True),
    *_common(),
    _required("finished_ms", BigInteger, key=True),
    Column("result", LargeBinary),
    Column("error", LargeBinary),
)
"""Final tasks."""

task_key: Final = Table(
    "task_key",
    metadata,
    _required("pool", Text, key=True),
    _required("scope", Text, key=True),
    _required("key", Text, key=True),
    _required("task_id", Uuid(as_uuid=False)),
    _required("digest", LargeBinary),
    _required("claimed_ms", BigInteger),
    Column("finished_ms", BigInteger),
)
"""Which task a key belongs to; `finished_ms` is null while that task lives."""

agent: Final = Table(
    "agent",
    metadata,
    _required("pool", Text, key=True),
    _required("agent_id", Text, key=True),
    _required("state", Text),
    Column("incarnation", Text),
    _required("replaced", LargeBinary),
    Column("role", Text),
    _required("capabilities", LargeBinary),
    _required("labels", LargeBinary),
    _required("metadata", LargeBinary),
    _required("slots", BigInteger),
    Column("version", Text),
    _required("operator_drain", Boolean),
    _required("own_drain", Boolean),
    _required("spawned", Boolean),
    _required("seen_ms", BigInteger),
)
"""The agents of a pool; lists and maps are JSON."""

pool_pause: Final = Table("pool_pause", metadata, _required("pool", Text, key=True), _required("type", Text, key=True))
"""What is paused: types of task; the empty text is the whole pool."""

key_hold: Final = Table(
    "key_hold",
    metadata,
    _required("pool", Text, key=True),
    _required("agent_id", Text, key=True),
    _required("task_id", Uuid(as_uuid=False), key=True),
    _required("attempt", BigInteger, key=True),
    _required("key", Text),
)
"""Attempts that are over and still count for their concurrency key."""

task_dialogue: Final = Table(
    "task_dialogue",
    metadata,
    _required("pool", Text, key=True),
    _required("task_id", Uuid(as_uuid=False), key=True),
    _required("body", LargeBinary),
)
"""What the attempts in hand asked last, of the few that ask anything: apart from `task`, whose rows are written all the
time."""

event_outbox: Final = Table(
    "event_outbox",
    metadata,
    _required("pool", Text, key=True),
    _required("epoch", BigInteger, key=True),
    _required("batch", BigInteger, key=True),
    _required("at_ms", BigInteger),
    _required("events", LargeBinary),
    _required("unwritten", ARRAY(Uuid(as_uuid=False))),
)
"""The events of batches that are not known to be published, compressed; `unwritten` are tasks that they are not of."""
