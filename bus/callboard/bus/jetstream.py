"""JetStream as far as Callboard needs it, over its plain JSON API: streams, acknowledged publishing, pulling.

What is written here follows the bus over reconnections by itself; nothing is kept between two calls but names.
"""

import asyncio
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

import msgspec

from callboard.bus.connection import Bus
from callboard.bus.messages import BusMessage, NoRespondersError
from callboard.schemas.errors import ConfigurationError, OutcomeUnknownError, PayloadTooLargeError, UnavailableError

_TIMEOUT_S: Final = 5.0
_BURST: Final = 1_000
_NAME_IN_USE: Final = 10058
_MESSAGE_TOO_LARGE: Final = 10054
_NO_STREAM: Final = 10059
_UNAVAILABLE: Final = range(500, 600)
_NS: Final = 1_000_000_000
_OLD_TOKENS: Final = 9
_INACTIVE_S: Final = 60
NO_LIMIT: Final = -1


class ApiError(msgspec.Struct):
    """What JetStream says is wrong."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class ApiAnswer(msgspec.Struct):
    """What every answer may have."""

    error: ApiError | None = None


class StreamInfo(ApiAnswer):
    """A stream as it is configured."""

    config: dict[str, Any] = {}


class StreamNames(ApiAnswer):
    """Names of streams; `null` when there are none."""

    streams: list[str] | None = None


class ConsumerInfo(ApiAnswer):
    """A consumer."""

    name: str = ""
    num_pending: int = 0


A = TypeVar("A", bound=ApiAnswer)


class Sendable(Protocol):
    """A message: a subject to publish to, its header block and its body."""

    @property
    def subject(self) -> str: ...  # noqa: D102 - see the class
    @property
    def block(self) -> bytes: ...  # noqa: D102 - see the class
    @property
    def body(self) -> bytes: ...  # noqa: D102 - see the class


class JetStreamError(UnavailableError):
    """JetStream refused; `reason` is its own error, if it gave one."""

    def __init__(self, message: str, reason: ApiError | None = None) -> None:
        super().__init__(message)
        self.reason = reason or ApiError()


async def call(bus: Bus, verb: str, body: object, answer: type[A]) -> A:
    """Ask JetStream's API for `verb`, e.g. `STREAM.CREATE.events`; some take no `body`.

    Raises:
        ConfigurationError: JetStream is not enabled, or not for this user.
        JetStreamError: it refused.
        UnavailableError, OutcomeUnknownError: NATS is away or does not answer.
    """
    data = b"" if body is None else msgspec.json.encode(body)
    try:
        message = await bus.request(f"$JS.API.{verb}", data, timeout_s=_TIMEOUT_S)
    except NoRespondersError:
        raise ConfigurationError(
            "JetStream is not enabled for this user on the NATS server: start it with -js"
        ) from None
    try:
        found = msgspec.json.decode(message.data, type=answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError(f"JetStream's answer is not understood: {error}") from None
    if found.error is not None:
        raise JetStreamError(f"JetStream refuses {verb}: {found.error.description}", found.error)
    return found


async def ensure_stream(
    bus: Bus, name: str, wanted: dict[str, Any], *, made_with: dict[str, Any] | None = None
) -> None:
    """Have the stream `name` as it is `wanted`: made when missing, changed when it differs in what is wanted.

    `made_with` is how it is made beside that, and of no account when it is there.

    Raises:
        ConfigurationError: JetStream is not enabled, or does not allow such a stream.
        UnavailableError, OutcomeUnknownError: nobody can say now.
    """
    try:
        try:
            await call(bus, f"STREAM.CREATE.{name}", {"name": name, **(made_with or {}), **wanted}, ApiAnswer)
        except JetStreamError as error:
            if error.reason.err_code != _NAME_IN_USE:
                raise
            found = (await call(bus, f"STREAM.INFO.{name}", None, StreamInfo)).config
            if any(found.get(setting) != value for setting, value in wanted.items()):
                await call(bus, f"STREAM.UPDATE.{name}", {**found, **wanted}, ApiAnswer)
    except JetStreamError as error:
        if error.reason.code in _UNAVAILABLE and error.reason.err_code != _NAME_IN_USE:
            raise
        raise ConfigurationError(f"the stream {name}: {error.reason.description}", path="stream") from None


async def stream_of(bus: Bus, subject: str) -> str | None:
    """The name of a stream that keeps messages on `subject`, which may have wildcards.

    Raises:
        ConfigurationError, UnavailableError, OutcomeUnknownError: as `call`.
    """
    found = await call(bus, "STREAM.NAMES", {"subject": subject}, StreamNames)
    return found.streams[0] if found.streams else None


async def publish_all(bus: Bus, messages: Sequence[Sendable]) -> int:
    """Publish these, in order, and wait until a stream has acknowledged each.

    Returns:
        How many are kept nowhere, and would not be if they were sent again: they are too large.

    Raises:
        NoRespondersError: no stream takes them.
        UnavailableError, OutcomeUnknownError: perhaps not all are kept.
    """
    too_large = 0
    for start in range(0, len(messages), _BURST):
        burst = messages[start : start + _BURST]
        too_large += await _Burst(len(burst)).publish(bus, burst)
    return too_large


class _Burst:
    """Messages that are published at once, and what the stream says of them."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._too_large = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def publish(self, bus: Bus, messages: Sequence[Sendable]) -> int:
        """As `publish_all`."""
        inbox = bus.new_inbox()
        answers = await bus.subscribe(inbox, self._answered)
        try:
            for message in messages:
                try:
                    bus.send_ready(message.subject, message.block, message.body, reply=inbox)
                except PayloadTooLargeError:
                    self._settle(is_too_large=True)
            async with asyncio.timeout(_TIMEOUT_S):
                await self._done
        except TimeoutError:
            raise OutcomeUnknownError(f"{self._missing} of {len(messages)} messages were not acknowledged") from None
        finally:
            self._done.cancel()
            await answers.unsubscribe()
        return self._too_large

    def _answered(self, message: BusMessage) -> None:
        refusal = _refusal(message)
        if refusal is None or refusal.err_code == _MESSAGE_TOO_LARGE:
            self._settle(is_too_large=refusal is not None)
        elif self._done.done():
            return
        elif message.status is not None:
            self._done.set_exception(NoRespondersError("no JetStream stream takes what is published"))
        else:
            self._done.set_exception(UnavailableError(f"the stream refuses: {refusal.description}"))

    def _settle(self, *, is_too_large: bool) -> None:
        self._missing -= 1
        self._too_large += is_too_large
        if self._missing == 0 and not self._done.done():
            self._done.set_result(None)


def _refusal(message: BusMessage) -> ApiError | None:
    """Why the stream has not taken what it answers with this; `None` when it has."""
    if message.status is not None:
        return ApiError(code=message.status)
    if b'"error"' not in message.data:
        return None
    try:
        return msgspec.json.decode(message.data, type=ApiAnswer).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ApiError(description=message.data[:300].decode(errors="replace"))


class PullConsumer:
    """Takes messages of a stream, in order; made by `durable` or `since`."""

    def __init__(self, bus: Bus, stream: str, info: ConsumerInfo) -> None:
        self._bus, self._stream, self._name = bus, stream, info.name
        self.pending = info.num_pending
        """How many messages there were to take when the consumer was made."""

    async def take(self, most: int, *, wait_s: float) -> list[BusMessage]:
        """At most `most` messages: those that are there, or else the next one within `wait_s`; none, if none came.

        Raises:
            JetStreamError: the consumer is gone: make it anew.
            UnavailableError, OutcomeUnknownError: NATS is away.
        """
        found = await self._pull({"batch": most, "no_wait": True}, most, _TIMEOUT_S)
        if not found and wait_s > 0:
            found = await self._pull({"batch": 1, "expires": int(wait_s * _NS)}, 1, wait_s + _TIMEOUT_S)
        return found

    async def _pull(self, asked: dict[str, Any], most: int, within_s: float) -> list[BusMessage]:
        arrived: asyncio.Queue[BusMessage] = asyncio.Queue()
        inbox = self._bus.new_inbox()
        subscription = await self._bus.subscribe(inbox, arrived.put_nowait)
        found: list[BusMessage] = []
        try:
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
            self._bus.send(subject, msgspec.json.encode(asked), reply=inbox)
            async with asyncio.timeout(within_s):
                while len(found) < most:
                    message = await arrived.get()
                    if message.status is None:
                        found.append(message)
                    elif message.status in {404, 408}:
                        break
                    else:
                        raise JetStreamError(f"the consumer {self._name} of {self._stream} is gone ({message.status})")
        except TimeoutError:
            if not found:
                raise OutcomeUnknownError(f"the stream {self._stream} does not answer") from None
        finally:
            await subscription.unsubscribe()
        return found


async def durable(bus: Bus, stream: str, name: str, settings: dict[str, Any]) -> PullConsumer:
    """The durable consumer `name` of a stream, made when it is missing, changed when it differs.

    Raises:
        ConfigurationError: there is no such stream, or JetStream is not enabled.
        JetStreamError: JetStream refuses the consumer.
        UnavailableError, OutcomeUnknownError: NATS is away or does not answer.
    """
    return await _consumer(bus, stream, f"CONSUMER.DURABLE.CREATE.{stream}.{name}", {"durable_name": name, **settings})


async def since(bus: Bus, stream: str, subject: str, start: datetime | int) -> PullConsumer:
    """A consumer for one reader: what the stream keeps of `subject`, without acknowledgements.

    `start` is the instant from which on, or the sequence behind which.

    Raises:
        ConfigurationError, JetStreamError, UnavailableError, OutcomeUnknownError: as `durable`.
    """
    name = f"read-{secrets.token_hex(8)}"
    settings = {
        "name": name,
        **_from(start),
        "filter_subject": subject,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": _INACTIVE_S * _NS,
    }
    return await _consumer(bus, stream, f"CONSUMER.CREATE.{stream}.{name}", settings)


def _from(start: datetime | int) -> dict[str, Any]:
    if isinstance(start, int):
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": start + 1}
    return {"deliver_policy": "by_start_time", "opt_start_time": start.isoformat()}


def sequence_of(message: BusMessage) -> int:
    """The place of a pulled message in its stream, from its reply subject (NATS ADR-15): 9 tokens, or more of late."""
    tokens = message.reply.split(".")
    return int(tokens[5] if len(tokens) == _OLD_TOKENS else tokens[7])


async def _consumer(bus: Bus, stream: str, verb: str, config: dict[str, Any]) -> PullConsumer:
    try:
        info = await call(bus, verb, {"stream_name": stream, "config": config}, ConsumerInfo)
    except JetStreamError as error:
        if error.reason.err_code == _NO_STREAM:
            raise ConfigurationError(f"there is no stream {stream}", path="stream") from None
        raise
    return PullConsumer(bus, stream, info)
