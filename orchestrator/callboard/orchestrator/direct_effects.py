"""Effects that need no database: answers, messages to agents, and what is noted of changes (`publisher` tells others).

Everything here happens after the commit, and only while the owner trusts its lease (`owner`). What cannot be sent
because NATS is away is not kept: offers are repeated by the core, the rest is carried by heartbeats and queries.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

import structlog

from callboard.bus import tracing
from callboard.orchestrator.core.effects import (
    Announcement,
    Answer,
    Effect,
    PublishAgent,
    PublishTask,
    Refuse,
    SendAnswer,
    SendCancel,
    SendDrain,
    SendOffer,
    SendShutdown,
    StopProcess,
)
from callboard.orchestrator.offers import AgentLink
from callboard.orchestrator.store.port import OfferContent
from callboard.orchestrator.telemetry import Telemetry
from callboard.orchestrator.tickets import Ticket
from callboard.schemas.tasks import SubmitAnswer
from callboard.schemas.times import to_ms
from callboard.schemas.vocabulary import AgentState, TaskState

log = structlog.get_logger("callboard.orchestrator")


class DirectEffects:
    """Does those effects of one pool that need no database."""

    def __init__(
        self,
        *,
        telemetry: Telemetry,
        link: AgentLink,
        on_agent: Callable[[str, AgentState], None],
        on_stop_process: Callable[[str, int], None],
    ) -> None:
        # Bound once: a logger that is not looks its settings up at every event.
        self._log = log.bind()
        self._is_debugging = self._log.is_enabled_for(logging.DEBUG)
        self._telemetry = telemetry
        self._link = link
        self._on_agent = on_agent
        self._on_stop_process = on_stop_process
        self._verbs: Final[dict[type[Any], Callable[[Any], None]]] = {
            Answer: self._answer,
            Refuse: self._refuse,
            SendAnswer: link.answer,
            SendCancel: link.cancel,
            SendDrain: link.drain,
            SendShutdown: link.shut_down,
            StopProcess: self._stop_process,
            PublishTask: self._note_task,
            PublishAgent: self._note_agent,
        }

    def do(self, effect: Effect | Announcement) -> None:
        """Do one effect; those that need the database are done by `effects`."""
        self._verbs[type(effect)](effect)

    def offer(self, effect: SendOffer, content: OfferContent) -> None:
        """Send an offer."""
        self._telemetry.offered()
        self._link.offer(effect, content)

    def flush(self) -> None:
        """Send the offers that were kept to go together."""
        self._link.flush()

    def _answer(self, effect: Answer) -> None:
        ticket = effect.ticket
        assert isinstance(ticket, Ticket)  # noqa: S101 - this shell makes every ticket
        if isinstance(effect.message, SubmitAnswer):
            self._telemetry.submit_answered(ticket.age_ms)
        ticket.answer(effect.message)

    def _refuse(self, effect: Refuse) -> None:
        assert isinstance(effect.ticket, Ticket)  # noqa: S101 - this shell makes every ticket
        effect.ticket.refuse(effect.error)

    def _stop_process(self, effect: StopProcess) -> None:
        self._on_stop_process(effect.agent_id, effect.grace_ms)

    def _note_task(self, effect: PublishTask) -> None:
        event = effect.event
        self._measure(effect)
        if event.traceparent is not None and tracing.is_on():
            _trace(effect, event.traceparent)
        if self._is_debugging:
            self._log.debug(
                "task changed",
                task_id=event.task_id,
                pool=event.pool,
                state=event.state.value,
                attempt=event.attempt,
                agent_id=event.agent_id,
                reason=event.reason,
            )

    def _measure(self, effect: PublishTask) -> None:
        event, telemetry = effect.event, self._telemetry
        if event.version == 1:
            telemetry.submitted(effect.priority)
        if event.outcome is not None:
            telemetry.attempt_ended(event.outcome, effect.run_ms)
        if event.state is TaskState.ASSIGNED and effect.queued_ms is not None:
            telemetry.dispatched(effect.queued_ms)
        if event.state.is_final and effect.total_ms is not None:
            telemetry.finished(event.state, effect.total_ms)

    def _note_agent(self, effect: PublishAgent) -> None:
        event = effect.event
        log.info(
            "agent changed", agent_id=event.agent_id, pool=event.pool, state=event.state.value, reason=event.reason
        )
        self._on_agent(event.agent_id, event.state)


def _trace(effect: PublishTask, traceparent: str) -> None:
    """Record what a change shows to be over: the wait for an agent, and the way of the offer."""
    event, ended_ms = effect.event, to_ms(effect.event.at)
    if event.state is TaskState.ASSIGNED and effect.queued_ms is not None:
        tracing.waited(
            "queue", event.type, traceparent, ended_ms=ended_ms, lasted_ms=effect.queued_ms, message__id=event.task_id
        )
    elif event.state is TaskState.RUNNING and effect.offered_ms is not None:
        tracing.waited(
            "dispatch",
            event.type,
            traceparent,
            ended_ms=ended_ms,
            lasted_ms=effect.offered_ms,
            message__id=event.task_id,
            client__id=event.agent_id or "",
        )
