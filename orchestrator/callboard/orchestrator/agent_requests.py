"""Agents' own requests: from decoded message to event. The agent is the token of the subject, never the body."""

from collections.abc import Callable

import msgspec

from callboard.bus.serve import Request
from callboard.orchestrator.config import SizeLimits
from callboard.orchestrator.core.events import (
    AgentLeft,
    AgentRegistered,
    Event,
    FailureReported,
    HeartbeatReceived,
    ProgressReported,
    QuestionAsked,
    ResultReported,
)
from callboard.orchestrator.many import reports
from callboard.orchestrator.owner import PoolOwner
from callboard.orchestrator.reads import RETRY_AFTER_MS
from callboard.orchestrator.tickets import Ticket
from callboard.schemas.agents import (
    Complete,
    Fail,
    Heartbeat,
    HeartbeatAnswer,
    Leave,
    Register,
    Report,
    ReportMany,
    ReportProgress,
    ReportQuery,
)
from callboard.schemas.codec import check_size, checked_json, encode
from callboard.schemas.errors import OrchestratorError, UnavailableError
from callboard.schemas.tasks import Progress
from callboard.schemas.vocabulary import DatabaseHealth


class AgentRequests:
    """Handles `agent.<agent_id>.*` for one owner."""

    def __init__(self, owner: PoolOwner, limits: SizeLimits) -> None:
        self._owner = owner
        self._limits = limits

    def register(self, message: Register, request: Request) -> None:
        """`register`."""
        agent_id = _agent_id(request)
        about = encode([message.capabilities, message.labels, message.metadata])
        check_size(len(about), path="capabilities, labels and metadata", limit=self._limits.text_bytes)
        self._owner.request(request, lambda ticket: AgentRegistered(ticket=ticket, agent_id=agent_id, message=message))

    def heartbeat(self, message: Heartbeat, request: Request) -> None:
        """`heartbeat`: answered at once, while the database is away from memory."""
        agent_id = _agent_id(request)
        if self._owner.is_active:
            ticket = self._owner.tickets.open(request, waits_for_commit=False)
            self._owner.post(HeartbeatReceived(ticket=ticket, agent_id=agent_id, message=message))
            return
        pool = self._owner.machine.pool
        agent = pool.agents.get(agent_id)
        if agent is None or agent.incarnation != message.incarnation:
            # Who is who may have changed in what is not committed yet.
            request.refuse(UnavailableError(retry_after_ms=RETRY_AFTER_MS))
            return
        request.answer(
            HeartbeatAnswer(
                epoch=pool.epoch,
                heartbeat_interval_ms=agent.interval_ms,
                lease_ms=agent.interval_ms * pool.settings.lease_intervals,
                cancel=[],
                drain=False,
                database=DatabaseHealth.DOWN if self._owner.is_database_down else DatabaseHealth.OK,
            )
        )

    def progress(self, message: ReportProgress, request: Request) -> None:
        """`progress`: published, so there is nobody to refuse to; what is too large or too early is dropped."""
        if not self._owner.is_active:
            return
        data = message.data
        if data is not msgspec.UNSET:
            data = msgspec.Raw(checked_json(data, path="data", limit=self._limits.progress_bytes))
        encoded = encode(Progress(percent=message.percent, message=message.message, data=data))
        check_size(len(encoded), path="progress", limit=self._limits.progress_bytes)
        self._owner.post(ProgressReported(agent_id=_agent_id(request), message=message, progress=encoded))

    def query(self, message: ReportQuery, request: Request) -> None:
        """`query`: answered once the question is committed; its own answer comes by `answer`."""
        data = message.data
        if data is not msgspec.UNSET:
            data = msgspec.Raw(checked_json(data, path="data", limit=self._limits.progress_bytes))
            message = msgspec.structs.replace(message, data=data)
        check_size(len(encode(message)), path="query", limit=self._limits.progress_bytes)
        self._owner.request(
            request, lambda ticket: QuestionAsked(ticket=ticket, agent_id=_agent_id(request), message=message)
        )

    def complete(self, message: Complete, request: Request) -> None:
        """`complete`: answered once the result is committed."""
        report = Report(task_id=message.task_id, attempt=message.attempt, result=message.result)
        self._owner.request(request, self._event_of(_agent_id(request), message.incarnation, report))

    def fail(self, message: Fail, request: Request) -> None:
        """`fail`: answered once the failure is committed."""
        report = Report(task_id=message.task_id, attempt=message.attempt, error=message.error)
        self._owner.request(request, self._event_of(_agent_id(request), message.incarnation, report))

    def report_many(self, message: ReportMany, request: Request) -> None:
        """`report_many`: each report is checked for itself, and answered as if it had come alone."""
        self._owner.require_open()
        answers = reports(request, len(message.reports))
        agent_id = _agent_id(request)
        for index, report in enumerate(message.reports):
            item = answers.item(index)
            try:
                event_of = self._event_of(agent_id, message.incarnation, report)
            except OrchestratorError as error:
                item.refuse(error)
                continue
            self._owner.post(event_of(self._owner.tickets.open(item)))

    def _event_of(self, agent_id: str, incarnation: str, report: Report) -> Callable[[Ticket], Event]:
        if report.error is not None:
            check_size(len(encode(report.error)), path="error", limit=self._limits.error_bytes)
            error = report.error
            return lambda ticket: FailureReported(
                ticket=ticket,
                agent_id=agent_id,
                task_id=report.task_id,
                attempt=report.attempt,
                incarnation=incarnation,
                error=error,
            )
        result = checked_json(report.result, path="result", limit=self._limits.result_bytes)
        return lambda ticket: ResultReported(
            ticket=ticket,
            agent_id=agent_id,
            task_id=report.task_id,
            attempt=report.attempt,
            incarnation=incarnation,
            result=result,
        )

    def leave(self, message: Leave, request: Request) -> None:
        """`leave`."""
        agent_id = _agent_id(request)
        self._owner.request(
            request,
            lambda ticket: AgentLeft(
                ticket=ticket, agent_id=agent_id, incarnation=message.incarnation, reason=message.reason
            ),
        )


def _agent_id(request: Request) -> str:
    assert request.agent_id is not None  # noqa: S101 - these subjects have the token, and the server checked it
    return request.agent_id
