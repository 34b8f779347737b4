"""Reports on their way out: those that handlers end with at about the same time go together.

Rules:
- How they are gathered and cut into messages: `callboard.bus.gather`. A report that is alone goes as `complete` or
  `fail`.
- Each report is answered for itself. What refuses a batch as such, and for good, says nothing about any one of them:
  they are sent again, each alone.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from callboard.agents.session import events as ev
from callboard.bus.gather import Gathering, gathered
from callboard.schemas.agents import Complete, Fail, Recorded, Report, Reported, ReportMany, ReportManyAnswer
from callboard.schemas.errors import OrchestratorError, from_body
from callboard.schemas.tasks import AttemptRef

M = TypeVar("M")


class Ask(Protocol):
    """Sends a request of this agent; its end is events. `refused` gets `None` when nobody answered."""

    def __call__(  # noqa: D102, PLR0917 - the class says it; a request is what it asks and what becomes of it
        self,
        verb: str,
        message: object,
        answer: type[M],
        timeout_ms: int,
        answered: Callable[[M], Sequence[ev.Event]],
        refused: Callable[[OrchestratorError | None], Sequence[ev.Event]],
    ) -> None: ...


class Pending(msgspec.Struct, frozen=True):
    """A report to send, as the session's call `call`; `size` in bytes, about."""

    ref: AttemptRef
    call: int
    report: Report
    size: int
    timeout_ms: int


class Reports:
    """Sends what is put."""

    def __init__(self, incarnation: str, loop: asyncio.AbstractEventLoop, ask: Ask, log: Any) -> None:  # noqa: ANN401 - structlog's bound loggers have no public type
        self._incarnation = incarnation
        self._ask = ask
        self._log: structlog.stdlib.BoundLogger = log
        self._gathering = Gathering(loop, self._send)

    def put(self, pending: Pending) -> None:
        """Have this report sent."""
        self._gathering.put(pending)

    def flush(self) -> None:
        """Send what was put: nothing of it may come later than what is sent next."""
        self._gathering.flush()

    def _send(self, reports: list[Pending]) -> int:
        batches = list(gathered(reports, lambda pending: pending.size))
        for batch in batches:
            if len(batch) == 1:
                self._send_alone(batch[0], self._gathering.ended)
            else:
                self._send_together(batch)
        return len(batches)

    def _send_together(self, batch: list[Pending]) -> None:
        def answered(answer: ReportManyAnswer) -> list[ev.Event]:
            self._gathering.ended()
            if len(answer.answers) != len(batch):
                return [self._unrecorded(pending, None) for pending in batch]
            return [self._ended(*each) for each in zip(batch, answer.answers, strict=True)]

        def refused(error: OrchestratorError | None) -> list[ev.Event]:
            self._gathering.ended()
            if error is not None and not error.retryable:
                for pending in batch:
                    self._send_alone(pending)
                return []
            return [self._unrecorded(pending, error) for pending in batch]

        body = ReportMany(incarnation=self._incarnation, reports=[pending.report for pending in batch])
        self._ask("report_many", body, ReportManyAnswer, batch[0].timeout_ms, answered, refused)

    def _send_alone(self, pending: Pending, ended: Callable[[], None] = lambda: None) -> None:
        ref, report = pending.ref, pending.report
        body: Complete | Fail = Complete(
            task_id=ref.task_id, attempt=ref.attempt, incarnation=self._incarnation, result=report.result
        )
        if report.error is not None:
            body = Fail(task_id=ref.task_id, attempt=ref.attempt, incarnation=self._incarnation, error=report.error)

        def answered(answer: Recorded) -> list[ev.Event]:
            ended()
            return [self._ended(pending, Reported(recorded=answer.recorded))]

        def refused(error: OrchestratorError | None) -> list[ev.Event]:
            ended()
            return [self._unrecorded(pending, error)]

        self._ask("complete" if report.error is None else "fail", body, Recorded, pending.timeout_ms, answered, refused)

    def _ended(self, pending: Pending, answer: Reported) -> ev.Event:
        if answer.recorded:
            return ev.ReportRecorded(pending.ref)
        return self._unrecorded(pending, None if answer.error is None else from_body(answer.error))

    def _unrecorded(self, pending: Pending, error: OrchestratorError | None) -> ev.Event:
        ref = pending.ref
        if error is None:
            return ev.ReportUnanswered(ref, pending.call)
        self._log.warning(
            "report refused", task_id=ref.task_id, attempt=ref.attempt, code=error.code, why=error.message
        )
        return ev.ReportRefused(ref, pending.call, error.body())
