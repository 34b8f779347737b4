"""From a task's row to its document (protocol, section 4, `get` and `list`), for every store alike."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

import msgspec

from callboard.orchestrator.core.model import Dialogue, EndedAttempt
from callboard.schemas.accepted import decoder_of_accepted
from callboard.schemas.errors import InvalidRequestError
from callboard.schemas.names import MAX_INTEGER, TASK_ID_PATTERN
from callboard.schemas.tasks import AttemptRecord, Progress, Question, TaskDocument, TaskError, TaskPage, TaskSpec
from callboard.schemas.times import to_instant, to_instant_or_none, to_ms
from callboard.schemas.vocabulary import HELD_TASK_STATES, TaskPriority, TaskState

DEFAULT_PAGE: Final = 50

_PRIORITIES: Final = tuple(TaskPriority)
_spec = decoder_of_accepted(TaskSpec)
_progress = decoder_of_accepted(Progress)
_error = decoder_of_accepted(TaskError)
_dialogue = decoder_of_accepted(Dialogue)
_ended = decoder_of_accepted(EndedAttempt)


class TaskRow(msgspec.Struct, kw_only=True):
    """A task as it is stored, live or final; a page leaves out what only `get` shows."""

    task_id: str
    type: str
    priority: int
    state: str
    version: int
    attempt: int
    agent_id: str | None
    incarnation: str | None
    created_ms: int
    started_ms: int | None
    updated_ms: int
    reason: str | None
    spec: bytes
    progress: bytes | None
    retry_of: str | None
    assigned_ms: int | None = None
    until_ms: int | None = None
    finished_ms: int | None = None
    error: bytes | None = None
    payload: bytes | None = None
    result: bytes | None = None
    attempts: tuple[EndedAttempt, ...] | None = None
    dialogue: bytes | None = None


def document_of(row: TaskRow) -> TaskDocument:
    """The whole document; without `attempts` in the row, its summary."""
    spec = _spec.decode(row.spec)
    is_summary = row.attempts is None
    return TaskDocument(
        task_id=row.task_id,
        state=TaskState(row.state),
        version=row.version,
        type=row.type,
        priority=_PRIORITIES[row.priority],
        attempt=row.attempt,
        created_at=to_instant(row.created_ms),
        updated_at=to_instant(row.updated_ms),
        description=spec.description,
        payload=msgspec.UNSET if row.payload is None else msgspec.Raw(row.payload),
        metadata=spec.metadata,
        key=spec.key,
        requires=spec.requires,
        prefers=spec.prefers,
        affinity_key=spec.affinity_key,
        traceparent=spec.traceparent,
        concurrency_key=spec.concurrency_key,
        concurrency_limit=spec.concurrency_limit,
        strategy=spec.strategy,
        max_attempts=spec.max_attempts,
        backoff=spec.backoff,
        run_timeout_ms=spec.run_timeout_ms,
        progress_timeout_ms=spec.progress_timeout_ms,
        deadline=spec.deadline,
        ttl_ms=spec.ttl_ms,
        not_before=spec.not_before,
        delay_ms=spec.delay_ms,
        on_unsatisfiable=spec.on_unsatisfiable,
        agent_id=row.agent_id,
        incarnation=row.incarnation,
        started_at=to_instant_or_none(row.started_ms),
        finished_at=to_instant_or_none(row.finished_ms),
        reason=row.reason,
        until=to_instant_or_none(row.until_ms),
        progress=_progress_of(row.progress, is_summary=is_summary),
        question=None if row.dialogue is None else _question_of(_dialogue.decode(row.dialogue)),
        result=msgspec.UNSET if row.result is None else msgspec.Raw(row.result),
        error=None if row.error is None else _error.decode(row.error),
        retry_of=row.retry_of,
        attempts=None if row.attempts is None else _attempts_of(row, row.attempts),
    )


def ended_of(attempts: list[str]) -> tuple[EndedAttempt, ...]:
    """The kept attempts of a row."""
    return tuple(map(_ended.decode, attempts))


def _progress_of(data: bytes | None, *, is_summary: bool) -> Progress | None:
    if data is None:
        return None
    progress = _progress.decode(data)
    return msgspec.structs.replace(progress, data=msgspec.UNSET) if is_summary else progress


def _question_of(dialogue: Dialogue) -> Question | None:
    """The question, while it is open."""
    if not dialogue.is_open:
        return None
    return Question(
        query=dialogue.query, prompt=dialogue.prompt, data=dialogue.data, asked_at=to_instant(dialogue.asked_ms)
    )


def _attempts_of(row: TaskRow, attempts: tuple[EndedAttempt, ...]) -> list[AttemptRecord]:
    """The ended attempts, and the one that an agent holds now."""
    records = [
        AttemptRecord(
            attempt=end.attempt,
            agent_id=end.agent_id,
            started_at=to_instant(end.started_ms),
            ended_at=to_instant(end.ended_ms),
            outcome=end.outcome,
            error=end.error,
        )
        for end in attempts
    ]
    began_ms = row.started_ms or row.assigned_ms
    if row.state in HELD_TASK_STATES and row.agent_id is not None and began_ms is not None:
        records.append(AttemptRecord(attempt=row.attempt, agent_id=row.agent_id, started_at=to_instant(began_ms)))
    return records


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended: the creation and the id of its last task."""

    created_ms: Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
    task_id: Annotated[str, msgspec.Meta(pattern=TASK_ID_PATTERN)]

    def text(self) -> str:
        """As clients get it: opaque, safe in a URL."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor that a client gives back.

        Raises:
            InvalidRequestError: it is not one of ours.
        """
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(text), type=cls)
        except (binascii.Error, UnicodeError, ValueError, msgspec.MsgspecError):
            raise InvalidRequestError("cursor: not one that a page ended with", path="cursor") from None

    @classmethod
    def after(cls, last: TaskDocument) -> Cursor:
        """The cursor of a page that ends with `last`."""
        return cls(created_ms=to_ms(last.created_at), task_id=last.task_id)


def page_of(found: list[TaskRow], limit: int) -> TaskPage:
    """The first `limit` of the rows, with a cursor if there are more."""
    shown = [document_of(row) for row in found[:limit]]
    return TaskPage(tasks=shown, cursor=Cursor.after(shown[-1]).text() if len(found) > limit else None)
