"""The keyword arguments of `Client.submit`, and the task specification they make (protocol, section 4)."""

import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict

import msgspec

from callboard.schemas.codec import encode_value
from callboard.schemas.errors import InvalidRequestError
from callboard.schemas.labels import LabelMatch, Preference
from callboard.schemas.tasks import Backoff, Requirements, TaskSpec
from callboard.schemas.vocabulary import OnUnsatisfiable, TaskAssignmentStrategy, TaskPriority


class SubmitOptions(TypedDict, total=False):
    """What a task may ask for beside its type and payload; all of it optional, durations in milliseconds.

    Attributes:
        description: text for the agent and for people.
        metadata: text by name; together with the description at most 32 KiB.
        priority: `normal` when absent.
        key: the idempotency key; a new one when absent, so that a repetition finds the same task.
        role: only an agent of this role may take it.
        agent_id: only this agent may take it.
        capabilities: only an agent with all of them may take it.
        labels: only an agent whose labels compare so may take it.
        prefers: comparisons that make an agent more welcome, by their weights.
        affinity_key: rather the agent that ran a task with this key last.
        concurrency_key: at most `concurrency_limit` tasks of this key run at once in the pool.
        concurrency_limit: 1 when absent; among different limits of a key the lowest counts.
        strategy: how the agent is chosen; the pool's when absent.
        max_attempts: how many attempts may fail, time out or crash; 3 when absent.
        backoff: the delay between attempts.
        run_timeout_ms: limit of one attempt.
        progress_timeout_ms: limit of one attempt's silence.
        deadline: aware instant at which an unfinished task expires; not beside `ttl_ms`.
        ttl_ms: the same, counted from the submit.
        not_before: aware instant before which it is not started; not beside `delay_ms`.
        delay_ms: the same, counted from the submit.
        traceparent: the trace that it belongs to; that of the current OpenTelemetry span when absent.
        on_unsatisfiable: wait (default) or be refused when no known agent could ever take it.
    """

    description: str | None
    metadata: Mapping[str, str] | None
    priority: TaskPriority | None
    key: str | None
    role: str | None
    agent_id: str | None
    capabilities: Sequence[str] | None
    labels: Sequence[LabelMatch] | None
    prefers: Sequence[Preference] | None
    affinity_key: str | None
    concurrency_key: str | None
    concurrency_limit: int | None
    strategy: TaskAssignmentStrategy | None
    max_attempts: int | None
    backoff: Backoff | None
    run_timeout_ms: int | None
    progress_timeout_ms: int | None
    deadline: datetime | None
    ttl_ms: int | None
    not_before: datetime | None
    delay_ms: int | None
    on_unsatisfiable: OnUnsatisfiable | None
    traceparent: str | None


def make_spec(task_type: str, payload: object, options: SubmitOptions) -> TaskSpec:
    """The specification to send, with a `key` in every case: that makes its repetition safe.

    Raises:
        InvalidRequestError: the payload has no JSON form, or two options exclude one another.
        TypeError: there is no such option.
    """
    raw = as_raw(payload, path="payload")
    if not options:
        # Most tasks ask for nothing else, and a client may submit thousands a second.
        return TaskSpec(type=task_type, payload=raw, key=new_key())
    fields = dict(options)
    requires = Requirements(
        role=options.get("role"),
        agent_id=options.get("agent_id"),
        capabilities=list(options.get("capabilities") or ()) or None,
        labels=list(options.get("labels") or ()) or None,
    )
    for name in ("role", "agent_id", "capabilities", "labels"):
        fields.pop(name, None)
    fields["requires"] = None if requires == Requirements() else requires
    fields["prefers"] = list(options.get("prefers") or ()) or None
    fields["metadata"] = dict(options.get("metadata") or {}) or None
    fields["key"] = options.get("key") or new_key()
    try:
        return msgspec.structs.replace(TaskSpec(type=task_type, payload=raw), **fields)
    except ValueError as error:
        raise InvalidRequestError(str(error), path="") from None


def new_key() -> str:
    """A key that nobody else has: the time in ms, and 80 random bits.

    The time comes first so that keys made together lie together in the database's index, however large that is.
    """
    return f"{time.time_ns() // 1_000_000:012x}-{os.urandom(10).hex()}"


def with_trace(spec: TaskSpec, traceparent: str | None) -> TaskSpec:
    """The specification in this trace, unless it names its own."""
    if traceparent is None or spec.traceparent is not None:
        return spec
    return msgspec.structs.replace(spec, traceparent=traceparent)


def as_raw(value: object, *, path: str) -> msgspec.Raw:
    """`value` as JSON; `msgspec.Raw` is kept as it is.

    Raises:
        InvalidRequestError: it has no JSON form, as NaN and infinities have none.
    """
    if isinstance(value, msgspec.Raw):
        return value
    try:
        return msgspec.Raw(encode_value(value))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError, InvalidRequestError) as error:
        raise InvalidRequestError(f"{path}: no JSON form: {error}", path=path) from None
