"""Traces: spans of OpenTelemetry where a program uses it, and nothing at all where it does not.

Rules:
- OpenTelemetry is never imported here: a program that has spans, or is run by `opentelemetry-instrument`, has imported
  it. Without it a span costs one look into a dictionary.
- What is known of a task's trace is its `traceparent` (W3C): the submit's span, of which all others are children.
- Names and attributes are those of the messaging conventions: the destination is the task's type.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext

SCOPE: Final = "callboard"
SYSTEM: Final = "callboard"
_NS_IN_MS: Final = 1_000_000


def is_on() -> bool:
    """Whether this program uses OpenTelemetry."""
    return "opentelemetry.trace" in sys.modules


def attributes_of(operation: str, kind: str, task_type: str, **more: str | int | None) -> "dict[str, Any]":
    """The attributes of a span of the messaging conventions.

    Args:
        operation: what is done, e.g. `submit`.
        kind: the convention's word for it: `create`, `send`, `process`.
        task_type: the task's type.
        more: other attributes, `_` for `.`; those that are `None` are left out.
    """
    named = {f"messaging.{name.replace('__', '.')}": value for name, value in more.items() if value is not None}
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": task_type,
        **named,
    }


@contextmanager
def submitting(task_type: str, pool: str, *, count: int | None = None) -> "Iterator[Submitting]":
    """A producer's span around the submit of a task, or of `count` of them. Only while `is_on`."""
    from opentelemetry import trace  # noqa: PLC0415 - the program has it already

    attributes = attributes_of("submit", "send", task_type, destination__partition__id=pool, batch__message_count=count)
    tracer = trace.get_tracer(SCOPE)
    with tracer.start_as_current_span(
        f"submit {task_type}", kind=trace.SpanKind.PRODUCER, attributes=attributes
    ) as span:
        yield Submitting(span)


class Submitting:
    """A submit that is traced."""

    def __init__(self, span: "Span") -> None:
        self._span = span
        self.traceparent = traceparent_of(span.get_span_context())
        """What the task is to carry; `None` without a trace."""

    def accepted(self, task_id: str) -> None:
        """The task has its id."""
        self._span.set_attribute("messaging.message.id", task_id)


@contextmanager
def running(task_type: str, task_id: str, attempt: int, agent_id: str, traceparent: str | None) -> "Iterator[Running]":
    """A consumer's span around an attempt, child of the submit. Only while `is_on`."""
    from opentelemetry import trace  # noqa: PLC0415 - the program has it already

    attributes = attributes_of("run", "process", task_type, message__id=task_id, client__id=agent_id)
    attributes["callboard.task.attempt"] = attempt
    span = trace.get_tracer(SCOPE).start_span(
        f"run {task_type}", context=context_of(traceparent), kind=trace.SpanKind.CONSUMER, attributes=attributes
    )
    with trace.use_span(span, end_on_exit=True):
        yield Running(span)


class Running:
    """An attempt that is traced."""

    def __init__(self, span: "Span") -> None:
        self._span = span

    def failed(self, kind: str, message: str) -> None:
        """It ended so."""
        from opentelemetry import trace  # noqa: PLC0415 - the program has it already

        self._span.set_attribute("error.type", kind)
        self._span.set_status(trace.Status(trace.StatusCode.ERROR, message))


def waited(name: str, task_type: str, traceparent: str, *, ended_ms: int, lasted_ms: int, **more: str | int) -> None:
    """A span that is over, of `lasted_ms` until `ended_ms` since the epoch: child of the submit. Only if `is_on`."""
    from opentelemetry import trace  # noqa: PLC0415 - the program has it already

    attributes: Mapping[str, Any] = attributes_of(name, "receive", task_type, **more)
    span = trace.get_tracer(SCOPE).start_span(
        f"{name} {task_type}",
        context=context_of(traceparent),
        attributes=attributes,
        start_time=(ended_ms - lasted_ms) * _NS_IN_MS,
    )
    span.end(ended_ms * _NS_IN_MS)


def traceparent_of(context: "SpanContext") -> str | None:
    """The W3C form of a span's place in its trace; `None` when it has none."""
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def context_of(traceparent: str | None) -> "Context":
    """The place in a trace that a W3C `traceparent` names; an empty one without."""
    from opentelemetry import trace  # noqa: PLC0415 - the program has it already
    from opentelemetry.context import Context  # noqa: PLC0415 - the same

    if traceparent is None:
        return Context()
    _, trace_id, span_id, flags = traceparent.split("-")
    parent = trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(int(flags, 16))
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
