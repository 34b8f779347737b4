"""Intake: the messages of a JetStream stream become tasks of the pool, each once.

Rules (protocol, section 4):
- A message is a task's specification. Its key is its `key`, else its header `Nats-Msg-Id`, else its place in the
  stream: whoever takes it again, after a redelivery or a change of the owner, finds the task that it became.
- It is acknowledged after the commit only. What was in doubt, or has no room now, comes again after a pause.
- A message that can never become a task goes to the dead letters with the reason, and comes no more.
- Only the pool's owner takes messages, and no more at a time than it has room to decide on.
"""

import asyncio
from typing import Any, Final

import msgspec
import structlog

from callboard.bus.connection import Bus
from callboard.bus.jetstream import NO_LIMIT, PullConsumer, durable, ensure_stream, sequence_of
from callboard.bus.messages import BusMessage
from callboard.orchestrator.config import IntakeSettings
from callboard.orchestrator.owner import PoolOwner
from callboard.orchestrator.submissions import Submissions, traced
from callboard.schemas.codec import decode
from callboard.schemas.errors import InvalidRequestError, OrchestratorError, PayloadTooLargeError
from callboard.schemas.names import Key, in_words
from callboard.schemas.tasks import TaskSpec

log = structlog.get_logger("callboard.orchestrator")

AT_ONCE: Final = 256
"""Messages taken together, and at most so many undecided."""
WAIT_S: Final = 5.0
ACK_WAIT_S: Final = 10
"""After so long without a word a message comes again: longer than a take-over and a commit together."""
AGAIN_S: Final = 1.0
_NS: Final = 1_000_000_000
_SPEC: Final = msgspec.json.Decoder(TaskSpec)
_ACK: Final = b"+ACK"
_TERM: Final = b"+TERM"
_NAK: Final = b"-NAK"
_LONGEST_REASON: Final = 1_000
_ROOM_FOR_HEADERS: Final = 16 * 1024
"""More than our own headers of a dead letter take: a reason, and a subject, which has at most 4 KiB."""


class Intake:
    """Takes messages for one owner."""

    def __init__(
        self, bus: Bus, owner: PoolOwner, submissions: Submissions, settings: IntakeSettings, *, stream: str
    ) -> None:
        self._bus, self._owner, self._submissions, self._settings = bus, owner, submissions, settings
        self._stream = stream
        root = owner.subjects.root
        self._dead_letters = settings.dead_letters or f"{root}.intake.dead"
        self._open = 0
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Take and submit, whatever is away meanwhile, for as long as the owner decides."""
        consumer: PullConsumer | None = None
        while not self._owner.is_leaving:
            try:
                self._owner.require_open()
                consumer = consumer or await self._consumer()
                for message in await consumer.take(AT_ONCE, wait_s=WAIT_S):
                    if self._owner.is_leaving:
                        self._say(message, _NAK)
                    else:
                        self._submit(message)
                await self._until_decided()
            except OrchestratorError as error:
                # A consumer that was removed is made anew, as is one of a server that was away.
                consumer = None
                log.info("intake waits", pool=self._owner.lease.pool, stream=self._stream, reason=error.message)
                await asyncio.sleep(AGAIN_S)

    async def _consumer(self) -> PullConsumer:
        if self._settings.subjects:
            wanted = {"subjects": list(self._settings.subjects)}
            await ensure_stream(self._bus, self._stream, wanted, made_with={"retention": "workqueue"})
        return await durable(
            self._bus,
            self._stream,
            self._settings.consumer,
            {
                "ack_policy": "explicit",
                "ack_wait": ACK_WAIT_S * _NS,
                "max_ack_pending": 4 * AT_ONCE,
                "max_deliver": NO_LIMIT,
            },
        )

    async def _until_decided(self) -> None:
        while self._open:
            self._room.clear()
            await self._room.wait()

    def _submit(self, message: BusMessage) -> None:
        taken = _Taken(message, self)
        try:
            spec = self._spec_of(message)
            self._owner.request(taken, *self._submissions.of(spec))
        except OrchestratorError as error:
            self._open += 1
            taken.refuse(error)
        else:
            self._open += 1

    def _spec_of(self, message: BusMessage) -> TaskSpec:
        """The specification, with a key.

        Raises:
            InvalidRequestError: it is none.
        """
        data = message.data
        if self._settings.type is not None:
            data = _with_type(data, self._settings.type)
        spec = decode(_SPEC, data)
        if message.headers and spec.traceparent is None:
            spec = traced(spec, message.headers)
        if spec.key is not None:
            return spec
        named = (message.headers or {}).get("Nats-Msg-Id")
        return msgspec.structs.replace(spec, key=_key(named or f"{self._stream}:{sequence_of(message)}"))

    # How a message ends.

    def settle(self, message: BusMessage, error: OrchestratorError | None) -> None:
        """It is a task now, or it is refused."""
        self._open -= 1
        self._room.set()
        if error is None:
            self._say(message, _ACK)
        elif error.retryable:
            pause_s = max((error.retry_after_ms or 0) / 1000, AGAIN_S)
            self._say(message, _NAK + b" " + msgspec.json.encode({"delay": int(pause_s * _NS)}))
        else:
            self._owner.spawn(self._bury(message, error))

    def _say(self, message: BusMessage, word: bytes) -> None:
        try:
            self._bus.send(message.reply, word)
        except OrchestratorError as lost:
            # Without a word it comes again, and finds its task.
            log.info("a message of the intake comes again", stream=self._stream, reason=lost.message)

    async def _bury(self, message: BusMessage, error: OrchestratorError) -> None:
        sequence = sequence_of(message)
        log.warning("a message is no task", stream=self._stream, sequence=sequence, reason=error.message)
        headers = {
            "Callboard-Error-Code": error.code,
            "Callboard-Error": error.message[:_LONGEST_REASON],
            "Callboard-Stream": self._stream,
            "Callboard-Sequence": str(sequence),
            "Callboard-Subject": message.subject,
        }
        try:
            self._send_letter(message, headers)
            await self._bus.flush()
        except OrchestratorError as lost:
            log.info("a dead letter comes again", stream=self._stream, sequence=sequence, reason=lost.message)
            return
        self._say(message, _TERM)

    def _send_letter(self, message: BusMessage, headers: dict[str, str]) -> None:
        try:
            self._bus.send(self._dead_letters, message.data, headers={**(message.headers or {}), **headers})
        except (InvalidRequestError, PayloadTooLargeError):
            # Headers that cannot be sent again, or no room beside ours: what can be told is; it must not come again.
            room = max(self._bus.max_payload - _ROOM_FOR_HEADERS, 0)
            cut = {"Callboard-Cut": str(len(message.data))} if len(message.data) > room else {}
            self._bus.send(self._dead_letters, message.data[:room], headers={**headers, **cut})


class _Taken:
    """A message that waits for its task's commit."""

    __slots__ = ("_intake", "_message")

    def __init__(self, message: BusMessage, intake: Intake) -> None:
        self._message, self._intake = message, intake

    def answer(self, message: object) -> None:  # noqa: ARG002 - whatever the answer is, there is a task
        """It is committed."""
        self._intake.settle(self._message, None)

    def refuse(self, error: OrchestratorError) -> None:
        """It is not, or nobody knows."""
        self._intake.settle(self._message, error)


def _key(text: str) -> str:
    """`text` as a key, by the rules for keys.

    Raises:
        InvalidRequestError: it is none.
    """
    try:
        return msgspec.convert(text, Key)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"Nats-Msg-Id: {in_words(str(error))}", path="Nats-Msg-Id") from None


def _with_type(data: bytes, kind: str) -> bytes:
    """The specification with a type, if it is an object without one; else as it is, to be refused for what it is."""
    try:
        found: Any = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return data
    return data if "type" in found else msgspec.json.encode({"type": kind, **found})
