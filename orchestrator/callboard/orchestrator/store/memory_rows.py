"""A task in memory, and what readers get of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from callboard.orchestrator.core.changes import Ending, NewTask, StoredTask, TaskColumns
from callboard.orchestrator.store.documents import TaskRow

if TYPE_CHECKING:
    from callboard.orchestrator.core.model import EndedAttempt


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A task as the last commit about it left it; final with `ending`."""

    pool: str
    new: NewTask
    columns: TaskColumns
    ended: tuple[EndedAttempt, ...]
    ending: Ending | None


def stored_of(kept: Kept) -> StoredTask:
    """A live task as a scheduler reads it."""
    return StoredTask(
        columns=kept.columns,
        spec=kept.new.spec,
        created_ms=kept.new.created_ms,
        order_ms=kept.new.order_ms,
        deadline_ms=kept.new.deadline_ms,
        last_end=kept.ended[-1] if kept.ended else None,
    )


def place_of(kept: Kept) -> tuple[int, str]:
    """Where a task comes in a page."""
    return (kept.new.created_ms, kept.new.task_id)


def summary_of(kept: Kept) -> TaskRow:
    """A task as a page shows it."""
    new, columns, ending = kept.new, kept.columns, kept.ending
    error = None if ending is None or ending.error is None else msgspec.json.encode(ending.error)
    return TaskRow(
        task_id=new.task_id,
        type=new.type,
        priority=new.priority,
        state=columns.state,
        version=columns.version,
        attempt=columns.attempt,
        agent_id=columns.agent_id,
        incarnation=columns.incarnation,
        created_ms=new.created_ms,
        started_ms=columns.started_ms,
        updated_ms=columns.updated_ms,
        reason=columns.reason,
        spec=new.spec,
        progress=columns.progress,
        retry_of=new.retry_of,
        assigned_ms=columns.assigned_ms,
        until_ms=columns.until_ms if ending is None else None,
        finished_ms=None if ending is None else ending.finished_ms,
        error=error,
    )


def whole_of(kept: Kept) -> TaskRow:
    """A task as `get` shows it."""
    row = summary_of(kept)
    row.payload = kept.new.payload
    row.result = None if kept.ending is None else kept.ending.result
    row.attempts = kept.ended
    return row
