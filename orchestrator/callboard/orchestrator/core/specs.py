"""From specifications and rows to the core's records."""

from functools import lru_cache
from typing import Final

import msgspec

from callboard.orchestrator.core.changes import StoredTask
from callboard.orchestrator.core.labels import label_test
from callboard.orchestrator.core.model import Needs, Task
from callboard.schemas.accepted import decoder_of_accepted
from callboard.schemas.tasks import DEFAULT_MAX_ATTEMPTS, Backoff, Requirements, TaskSpec
from callboard.schemas.vocabulary import TaskPriority, TaskState

_SPEC = decoder_of_accepted(TaskSpec)
_json = msgspec.json.Encoder()
_BACKOFF: Final = Backoff()


def needs_of(spec: TaskSpec) -> Needs:
    """The placement class of a specification."""
    return _needs_of_type(spec.type) if spec.requires is None else _needs(spec.type, spec.requires)


@lru_cache(maxsize=256)
def _needs_of_type(task_type: str) -> Needs:
    return _needs(task_type, Requirements())


def _needs(task_type: str, requires: Requirements) -> Needs:
    return Needs(
        type=task_type,
        role=requires.role,
        agent_id=requires.agent_id,
        capabilities=frozenset(requires.capabilities or ()),
        labels=frozenset(map(label_test, requires.labels or ())),
    )


def task_of(task_id: str, spec: TaskSpec, *, created_ms: int, order_ms: int, deadline_ms: int | None) -> Task:
    """A queued task of `spec`; the caller gives it its real state."""
    return Task(
        task_id=task_id,
        needs=needs_of(spec),
        priority=spec.priority or TaskPriority.NORMAL,
        created_ms=created_ms,
        order_ms=order_ms,
        strategy=spec.strategy,
        max_attempts=spec.max_attempts or DEFAULT_MAX_ATTEMPTS,
        backoff=spec.backoff or _BACKOFF,
        run_timeout_ms=spec.run_timeout_ms,
        progress_timeout_ms=spec.progress_timeout_ms,
        deadline_ms=deadline_ms,
        prefers=tuple((label_test(preference), preference.weight) for preference in spec.prefers or ()),
        affinity_key=spec.affinity_key,
        traceparent=spec.traceparent,
        concurrency_key=spec.concurrency_key,
        concurrency_limit=spec.limit_of_key or 0,
        state=TaskState.QUEUED,
        updated_ms=created_ms,
    )


def stored_task(stored: StoredTask) -> Task:
    """A task as it stands in the database.

    Raises:
        ValueError: its specification is none. No limit of today makes it so (see `schemas.accepted`), only damage.
    """
    columns = stored.columns
    try:
        spec = _SPEC.decode(stored.spec)
    except msgspec.DecodeError as error:
        raise ValueError(f"task {columns.task_id}: its stored specification is damaged: {error}") from error
    task = task_of(
        columns.task_id,
        spec,
        created_ms=stored.created_ms,
        order_ms=stored.order_ms,
        deadline_ms=stored.deadline_ms,
    )
    task.state = columns.state
    task.version = columns.version
    task.attempt = columns.attempt
    task.agent_id = columns.agent_id
    task.incarnation = columns.incarnation
    task.assigned_ms = columns.assigned_ms
    task.started_ms = columns.started_ms
    task.updated_ms = columns.updated_ms
    task.until_ms = columns.until_ms
    task.reason = columns.reason
    task.spent = columns.spent
    task.crashes = columns.crashes
    task.crashed_on = columns.crashed_on
    task.progress = columns.progress
    task.scores = columns.scores
    task.last_end = stored.last_end
    task.written = (task.state, task.attempt)
    return task


def placement_text(needs: Needs, key: str | None) -> str:
    """What waits for the same agents and the same concurrency key, as the database's index knows it."""
    # Names hold no such separators, the comparisons, which are JSON, come last, and so is the key, which comes first:
    # the text is unique.
    text = _class_text(needs)
    return text if key is None else f"{_json.encode(key).decode()}{text}"


@lru_cache(maxsize=1024)
def _class_text(needs: Needs) -> str:
    capabilities = ",".join(sorted(needs.capabilities))
    labels = ",".join(sorted(test.text for test in needs.labels))
    return f"{needs.type}|{needs.role or ''}|{needs.agent_id or ''}|{capabilities}|{labels}"
