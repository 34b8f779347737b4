"""Live tasks as a scheduler reads them: which columns, and a row of them as a `StoredTask`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import Text, cast, func, null

from callboard.orchestrator.core.changes import StoredTask, TaskColumns
from callboard.orchestrator.core.model import EndedAttempt
from callboard.orchestrator.store.driver import Record
from callboard.orchestrator.store.tables import task
from callboard.schemas.accepted import decoder_of_accepted
from callboard.schemas.vocabulary import TaskState
from callboard.schemas.why import AgentScore

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

_ended = decoder_of_accepted(EndedAttempt)
_scores = msgspec.json.Decoder(tuple[AgentScore, ...])

COLUMNS: Final[tuple[ColumnElement[Any], ...]] = (
    cast(task.c.id, Text).label("task_id"),
    *(task.c[name] for name in ("state", "version", "attempt", "agent_id", "incarnation", "assigned_ms")),
    *(task.c[name] for name in ("started_ms", "updated_ms", "until_ms", "reason", "spent", "crashes")),
    *(task.c[name] for name in ("crashed_on", "progress", "scores", "spec", "created_ms", "order_ms", "deadline_ms")),
    task.c.attempts[func.cardinality(task.c.attempts)].label("last_end"),
)
NO_COLUMNS: Final[tuple[ColumnElement[Any], ...]] = tuple(
    cast(null(), column.type).label(column.name) for column in COLUMNS
)
"""The same of a task that is not live."""


def stored_of(row: Record) -> StoredTask:
    """The task of a row that has `COLUMNS`."""
    columns = TaskColumns(
        task_id=row["task_id"],
        state=TaskState(row["state"]),
        version=row["version"],
        attempt=row["attempt"],
        agent_id=row["agent_id"],
        incarnation=row["incarnation"],
        assigned_ms=row["assigned_ms"],
        started_ms=row["started_ms"],
        updated_ms=row["updated_ms"],
        until_ms=row["until_ms"],
        reason=row["reason"],
        spent=row["spent"],
        crashes=row["crashes"],
        crashed_on=tuple(row["crashed_on"]),
        progress=row["progress"],
        scores=() if row["scores"] is None else _scores.decode(row["scores"]),
    )
    return StoredTask(
        columns=columns,
        spec=row["spec"],
        created_ms=row["created_ms"],
        order_ms=row["order_ms"],
        deadline_ms=row["deadline_ms"],
        last_end=None if row["last_end"] is None else _ended.decode(row["last_end"]),
    )
