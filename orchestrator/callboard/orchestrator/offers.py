"""Offers to agents: one shared inbox for all answers, no future and no timer for each; repeats are the core's.

The reply subject itself says which offer is answered: `<inbox>.<agent_id>.<task_id>.<attempt>`. The inbox is
unguessable, and an agent's user may only publish to the reply subject of what it received (`allow_responses`).
"""

from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from callboard.bus.connection import Bus, BusMessage, BusSubscription
from callboard.orchestrator.core.effects import SendCancel, SendDrain, SendOffer, SendShutdown
from callboard.orchestrator.core.events import Event, OfferAnswered, OfferUndeliverable
from callboard.orchestrator.store.port import OfferContent
from callboard.schemas.agents import Assign, AssignAnswer, CancelAttempt, Drain, Shutdown
from callboard.schemas.codec import decode, encode
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.subjects import Subjects
from callboard.schemas.tasks import Progress, TaskSpec
from callboard.schemas.vocabulary import TaskPriority

log = structlog.get_logger("callboard.orchestrator")

NO_RESPONDERS: Final = 503
_ACKNOWLEDGED: Final = "ack"
_ANSWER = msgspec.json.Decoder(AssignAnswer)
_SPEC = msgspec.json.Decoder(TaskSpec)
_PROGRESS = msgspec.json.Decoder(Progress)


class AgentLink:
    """What the pool's owner says to its agents."""

    def __init__(self, bus: Bus, subjects: Subjects, *, epoch: int, post: Callable[[Event], None]) -> None:
        self._bus = bus
        self._subjects = subjects
        self._epoch = epoch
        self._post = post
        self._inbox = bus.new_inbox()
        self._subscription: BusSubscription | None = None

    async def start(self) -> None:
        """Listen for answers. May be called twice."""
        if self._subscription is None:
            self._subscription = await self._bus.subscribe(f"{self._inbox}.>", self._receive)

    async def stop(self) -> None:
        """Listen no more. May be called twice."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    def offer(self, effect: SendOffer, content: OfferContent) -> None:
        """Send `assign`; the answer comes back as an event."""
        spec = _SPEC.decode(content.spec)
        message = Assign(
            epoch=self._epoch,
            task_id=effect.task_id,
            attempt=effect.attempt,
            type=spec.type,
            payload=msgspec.Raw(content.payload),
            priority=spec.priority or TaskPriority.NORMAL,
            metadata=spec.metadata or {},
            description=spec.description,
            remaining_ms=effect.remaining_ms,
            run_timeout_ms=effect.run_timeout_ms,
            progress=None if content.progress is None else _PROGRESS.decode(content.progress),
        )
        reply = f"{self._inbox}.{effect.agent_id}.{effect.task_id}.{effect.attempt}"
        self._send(effect.agent_id, "assign", message, reply)

    def cancel(self, effect: SendCancel) -> None:
        """Send `cancel`; should it be lost, the next heartbeat's answer says the same."""
        message = CancelAttempt(epoch=self._epoch, task_id=effect.task_id, attempt=effect.attempt, reason=effect.reason)
        self._send(effect.agent_id, "cancel", message, f"{self._inbox}.{_ACKNOWLEDGED}")

    def drain(self, effect: SendDrain) -> None:
        """Send `drain`; should it be lost, the next heartbeat's answer says the same."""
        self._send(effect.agent_id, "drain", Drain(epoch=self._epoch), f"{self._inbox}.{_ACKNOWLEDGED}")

    def shut_down(self, effect: SendShutdown) -> None:
        """Send `shutdown`; should it be lost, the agent is given up after its grace."""
        message = Shutdown(epoch=self._epoch, grace_ms=effect.grace_ms, reason=effect.reason)
        self._send(effect.agent_id, "shutdown", message, f"{self._inbox}.{_ACKNOWLEDGED}")

    def _send(self, agent_id: str, verb: str, message: object, reply: str) -> None:
        try:
            self._bus.send(self._subjects.to_agent(agent_id, verb), encode(message), reply=reply)
        except OrchestratorError as error:
            # The core repeats offers, and heartbeats carry the rest: nothing is lost with this message.
            log.info("message to agent not sent", agent_id=agent_id, verb=verb, reason=error.message)

    def _receive(self, message: BusMessage) -> None:
        tokens = message.subject.removeprefix(self._inbox).split(".")
        if len(tokens) != 4 or not tokens[3].isdecimal():  # noqa: PLR2004 - "", agent, task, attempt
            return
        _, agent_id, task_id, attempt = tokens
        held = (task_id, int(attempt))
        if message.status == NO_RESPONDERS:
            self._post(OfferUndeliverable(agent_id=agent_id, held=held))
            return
        try:
            answer = decode(_ANSWER, message.data)
        except OrchestratorError as error:
            # Neither yes nor no: the offer is repeated, and given up like one never answered.
            log.warning("answer to an offer not understood", agent_id=agent_id, task_id=task_id, reason=error.message)
            return
        self._post(OfferAnswered(agent_id=agent_id, held=held, answer=answer))
