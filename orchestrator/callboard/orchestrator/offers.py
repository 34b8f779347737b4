"""Offers to agents: one shared inbox for all answers, no future and no timer for each; repeats are the core's.

The reply subject itself says which offer is answered: `<inbox>.<agent_id>.<task_id>.<attempt>`, or which answer to a
question is acknowledged, with its number behind. The inbox is
unguessable, and an agent's user may only publish to the reply subject of what it received (`allow_responses`).
"""

from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from callboard.bus.connection import Bus, BusMessage, BusSubscription
from callboard.orchestrator.batches import Batches
from callboard.orchestrator.core.effects import SendAnswer, SendCancel, SendDrain, SendOffer, SendShutdown
from callboard.orchestrator.core.events import (
    AnswerDelivered,
    Event,
    OfferAnswered,
    OfferUndeliverable,
    OfferUnsendable,
)
from callboard.orchestrator.core.model import Held
from callboard.orchestrator.store.port import OfferContent
from callboard.schemas.accepted import decoder_of_accepted
from callboard.schemas.agents import Assign, AssignAnswer, AssignManyAnswer, CancelAttempt, Drain, GiveAnswer, Shutdown
from callboard.schemas.codec import decode, encode
from callboard.schemas.errors import OrchestratorError, PayloadTooLargeError
from callboard.schemas.subjects import Subjects
from callboard.schemas.tasks import Progress, TaskError, TaskSpec
from callboard.schemas.vocabulary import TaskPriority

log = structlog.get_logger("callboard.orchestrator")

NO_RESPONDERS: Final = 503
UNSENDABLE_MS: Final = 30_000
"""How long a task waits whose offer NATS does not take: until its operator has raised `max_payload` again, perhaps."""
_ACKNOWLEDGED: Final = "ack"
_MANY: Final = "many"
_ANSWER = msgspec.json.Decoder(AssignAnswer)
_ANSWERS = msgspec.json.Decoder(AssignManyAnswer)
_SPEC = decoder_of_accepted(TaskSpec)
_PROGRESS = decoder_of_accepted(Progress)


class AgentLink:
    """What the pool's owner says to its agents."""

    def __init__(self, bus: Bus, subjects: Subjects, *, epoch: int, post: Callable[[Event], None]) -> None:
        self._bus = bus
        self._subjects = subjects
        self._epoch = epoch
        self._post = post
        self._inbox = bus.new_inbox()
        self._batches = Batches()
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
        """Send `assign`, or keep it for `flush` if the agent takes batches; the answer comes back as an event."""
        spec = content.decoded or _SPEC.decode(content.spec)
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
            traceparent=spec.traceparent,
        )
        if effect.batches:
            self._batches.add(effect.agent_id, (effect.task_id, effect.attempt), encode(message))
            return
        self._offer(effect.agent_id, (effect.task_id, effect.attempt), encode(message))

    def flush(self) -> None:
        """Send what was kept: an agent's offers in as few messages as they fit."""
        for agent_id, offers in self._batches.take(self._bus.max_payload):
            if len(offers) == 1:
                self._offer(agent_id, *offers[0])
            else:
                number = self._batches.remember([held for held, _ in offers])
                data = b'{"epoch":%d,"offers":[%b]}' % (self._epoch, b",".join(data for _, data in offers))
                try:
                    self._send(agent_id, "assign_many", data, f"{self._inbox}.{agent_id}.{_MANY}.{number}")
                except PayloadTooLargeError:
                    # The server's limit is lower than it was said to be.
                    for held, offer in offers:
                        self._offer(agent_id, held, offer)

    def answer(self, effect: SendAnswer) -> None:
        """Send `answer`; the core repeats it until it is acknowledged."""
        message = GiveAnswer(
            epoch=self._epoch,
            task_id=effect.task_id,
            attempt=effect.attempt,
            query=effect.query,
            answer=msgspec.Raw(effect.answer),
        )
        reply = f"{self._inbox}.{effect.agent_id}.{effect.task_id}.{effect.attempt}.{effect.query}"
        try:
            self._send(effect.agent_id, "answer", encode(message), reply)
        except PayloadTooLargeError as error:
            # The server's limit is lower than ours: the answer waits until its operator has raised it.
            log.warning("answer not sent", agent_id=effect.agent_id, task_id=effect.task_id, reason=error.message)

    def cancel(self, effect: SendCancel) -> None:
        """Send `cancel`; should it be lost, the next heartbeat's answer says the same."""
        message = CancelAttempt(epoch=self._epoch, task_id=effect.task_id, attempt=effect.attempt, reason=effect.reason)
        self._send(effect.agent_id, "cancel", encode(message), f"{self._inbox}.{_ACKNOWLEDGED}")

    def drain(self, effect: SendDrain) -> None:
        """Send `drain`; should it be lost, the next heartbeat's answer says the same."""
        self._send(effect.agent_id, "drain", encode(Drain(epoch=self._epoch)), f"{self._inbox}.{_ACKNOWLEDGED}")

    def shut_down(self, effect: SendShutdown) -> None:
        """Send `shutdown`; should it be lost, the agent is given up after its grace."""
        message = Shutdown(epoch=self._epoch, grace_ms=effect.grace_ms, reason=effect.reason)
        self._send(effect.agent_id, "shutdown", encode(message), f"{self._inbox}.{_ACKNOWLEDGED}")

    def _offer(self, agent_id: str, held: Held, data: bytes) -> None:
        try:
            self._send(agent_id, "assign", data, f"{self._inbox}.{agent_id}.{held[0]}.{held[1]}")
        except PayloadTooLargeError as error:
            why = TaskError(type=error.code, message=error.message, retry_after_ms=UNSENDABLE_MS)
            self._post(OfferUnsendable(agent_id=agent_id, held=held, error=why))

    def _send(self, agent_id: str, verb: str, data: bytes, reply: str) -> None:
        try:
            self._bus.send(self._subjects.to_agent(agent_id, verb), data, reply=reply)
        except PayloadTooLargeError:
            raise
        except OrchestratorError as error:
            # The core repeats offers, and heartbeats carry the rest: nothing is lost with this message.
            log.info("message to agent not sent", agent_id=agent_id, verb=verb, reason=error.message)

    def _receive(self, message: BusMessage) -> None:
        tokens = message.subject.removeprefix(self._inbox).split(".")
        if len(tokens) == 5 and message.status != NO_RESPONDERS:  # noqa: PLR2004 - "", agent, task, attempt, question
            self._receive_acknowledgement(*tokens[1:])
            return
        if len(tokens) != 4 or not tokens[3].isdecimal():  # noqa: PLR2004 - "", agent, task, attempt
            return
        _, agent_id, task_id, attempt = tokens
        if task_id == _MANY:
            self._receive_many(agent_id, self._batches.held_by(int(attempt)), message)
            return
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

    def _receive_acknowledgement(self, agent_id: str, task_id: str, attempt: str, query: str) -> None:
        if attempt.isdecimal() and query.isdecimal():
            self._post(AnswerDelivered(agent_id=agent_id, held=(task_id, int(attempt)), query=int(query)))

    def _receive_many(self, agent_id: str, offers: list[Held], message: BusMessage) -> None:
        if message.status == NO_RESPONDERS:
            for held in offers:
                self._post(OfferUndeliverable(agent_id=agent_id, held=held))
            return
        try:
            answers = decode(_ANSWERS, message.data).answers
        except OrchestratorError as error:
            log.warning("answer to offers not understood", agent_id=agent_id, reason=error.message)
            return
        if len(answers) != len(offers):
            log.warning("answers do not match offers", agent_id=agent_id, offers=len(offers), answers=len(answers))
            return
        for held, answer in zip(offers, answers, strict=True):
            self._post(OfferAnswered(agent_id=agent_id, held=held, answer=answer))
