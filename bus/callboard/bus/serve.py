"""Serving: decode, hand to the handler, encode, map errors; once, for every subject of the pool.

Rules:
- A request is answered exactly once; a handler may do it later and from anywhere on the event loop.
- An error of the vocabulary is answered as it is. Anything else is a bug: logged with a random id, and nothing of it
  but the id goes over the wire.
- The agent's identity is the token of the subject, never the body (protocol, section 1).
"""

import asyncio
import contextlib
import functools
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Final, Generic, TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from callboard.bus.ask import ERROR_CODE, ERROR_TEXT
from callboard.bus.connection import Bus, BusSubscription
from callboard.bus.messages import BusMessage
from callboard.bus.replies import DEFAULT_REPLY_PREFIXES, DropReason, ReplyGuard
from callboard.schemas.codec import decode, encode
from callboard.schemas.errors import (
    ErrorAnswer,
    InternalError,
    InvalidRequestError,
    OrchestratorError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    UnavailableError,
)
from callboard.schemas.names import is_name

log = structlog.get_logger("callboard.bus")

M = TypeVar("M")
Handle = Callable[[M, "Request"], None]
OnAnswer = Callable[[str, int | None], None]
Spawn = Callable[[Coroutine[Any, Any, None]], object]

_ERROR_TEXT_CHARACTERS: Final = 256


@dataclass(slots=True)
class EndpointStats:
    """What `$SRV.STATS` tells of an endpoint; times in nanoseconds, from arrival to answer."""

    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Generic[M]):
    """A subject and who handles it.

    Attributes:
        name: as the micro service lists it, e.g. `tasks_submit`.
        subject: may hold one `*` token: the agent's id.
        request: the type that the body is decoded as; an empty body is an empty object.
        handle: called synchronously for each request, in the order of arrival; it must not block.
        expects_reply: without it a message needs no reply subject, and answers go nowhere (`progress`).
    """

    name: str
    subject: str
    request: type[M]
    handle: Handle[M]
    description: str
    expects_reply: bool = True


class Request:
    """One request, to be answered exactly once."""

    __slots__ = (
        "_began_ns",
        "_bus",
        "_on_answer",
        "_open",
        "_stats",
        "agent_id",
        "data",
        "headers",
        "reply",
        "subject",
    )

    def __init__(
        self,
        bus: Bus,
        message: BusMessage,
        stats: EndpointStats,
        agent_id: str | None,
        on_answer: Callable[[int | None], None] = lambda _code: None,
    ) -> None:
        self.subject = message.subject
        self.data = message.data
        self.headers: Mapping[str, str] | None = message.headers
        self.reply = message.reply
        self.agent_id = agent_id
        """The `<agent_id>` token of the subject, `None` for a client's request."""
        self._bus = bus
        self._stats = stats
        self._on_answer = on_answer
        self._open = True
        self._began_ns = perf_counter_ns()

    def answer(self, message: object) -> None:
        """Encode and send; never raises: what does not fit is `payload_too_large`, what does not encode is our bug."""
        try:
            data = encode(message)
        except Exception as error:  # noqa: BLE001 - whatever the encoder raises is the same bug; `fail` logs it
            self.fail(error)
            return
        if self._close():
            try:
                self._send(data, None)
            except PayloadTooLargeError as error:
                self._send_error(error)
            else:
                self._on_answer(None)

    def refuse(self, error: OrchestratorError) -> None:
        """Answer with an error: its headers and its body (protocol, section 2)."""
        if self._close():
            self._send_error(error)

    def fail(self, error: BaseException) -> None:
        """Answer for an exception that a handler let out: a bug of ours, of which only the id goes over the wire."""
        incident = secrets.token_hex(8)
        log.error("handler failed", subject=self.subject, incident=incident, exc_info=error)
        self.refuse(InternalError(f"internal error {incident}", id=incident))

    def _close(self) -> bool:
        if not self._open:
            log.error("answered twice", subject=self.subject, stack_info=True)
            return False
        self._open = False
        self._stats.processing_time_ns += perf_counter_ns() - self._began_ns
        return True

    def _send_error(self, error: OrchestratorError) -> None:
        text = header_text(error.message)
        self._stats.num_errors += 1
        self._stats.last_error = f"{error.number}:{text}"
        self._on_answer(error.number)
        headers = {ERROR_TEXT: text, ERROR_CODE: str(error.number)}
        try:
            self._send(encode(ErrorAnswer(error=error.body())), headers)
        except PayloadTooLargeError:
            # Whoever asked must not wait for what cannot be said at length: the code and the beginning of it remain.
            body = replace(error.body(), message=text, details={})
            self._send(encode(ErrorAnswer(error=body)), headers)

    def _send(self, data: bytes, headers: Mapping[str, str] | None) -> None:
        if not self.reply:
            return
        try:
            self._bus.send(self.reply, data, headers=headers)
        except UnavailableError as error:
            # The caller's time-out tells it the same: unknown, ask again.
            log.debug("answer lost", subject=self.subject, reason=error.message)


class Server:
    """Serves endpoints on the bus: one plain subscription each, no queue group (protocol, section 1).

    Args:
        own_root: the first tokens of our own subjects, never answered to, e.g. `callboard.v1.default`.
        reply_prefixes: what a reply subject may start with, dot included.
        on_drop: told of each message dropped by the reply guard.
        on_answer: told of each answer: the endpoint's name, and the error's number or `None`. Must not raise.
    """

    def __init__(
        self,
        bus: Bus,
        endpoints: Sequence[Endpoint[Any]],
        *,
        own_root: str,
        reply_prefixes: tuple[str, ...] = DEFAULT_REPLY_PREFIXES,
        on_drop: Callable[[DropReason], None] | None = None,
        on_answer: OnAnswer | None = None,
    ) -> None:
        self.guard = ReplyGuard(own_root, reply_prefixes, on_drop)
        self.endpoints = tuple(endpoints)
        self.stats = {endpoint.name: EndpointStats() for endpoint in endpoints}
        self._bus = bus
        self._on_answer: OnAnswer = on_answer or (lambda _name, _code: None)
        self._subscriptions: list[BusSubscription] = []

    async def start(self) -> None:
        """Subscribe; the server of NATS has it when this returns. May be called twice."""
        if self._subscriptions:
            return
        for endpoint in self.endpoints:
            self._subscriptions.append(await self._bus.subscribe(endpoint.subject, self._receiver(endpoint)))
        await self._bus.flush()

    async def drain(self) -> None:
        """Take no more requests, after those that are on their way to us. May be called twice."""
        await self._bus.drain(self._subscriptions)
        self._subscriptions.clear()

    async def stop(self) -> None:
        """Take no more requests; those taken may still be answered. May be called twice."""
        while self._subscriptions:
            await self._subscriptions.pop().unsubscribe()

    def _receiver(self, endpoint: Endpoint[M]) -> Callable[[BusMessage], None]:
        decoder = msgspec.json.Decoder(endpoint.request)
        stats = self.stats[endpoint.name]
        on_answer = functools.partial(self._on_answer, endpoint.name)
        tokens = endpoint.subject.split(".")
        agent_token = tokens.index("*") if "*" in tokens else None

        def receive(message: BusMessage) -> None:
            if endpoint.expects_reply:
                if not self.guard.may_answer(message):
                    return
            else:
                message.reply = ""
            stats.num_requests += 1
            agent_id = None if agent_token is None else message.subject.split(".")[agent_token]
            request = Request(self._bus, message, stats, agent_id, on_answer)
            try:
                if agent_id is not None:
                    _check_agent_id(agent_id)
                endpoint.handle(decode(decoder, message.data or b"{}"), request)
            except OrchestratorError as error:
                request.refuse(error)
            except Exception as error:  # noqa: BLE001 - a bug in one handler must not end the serving; `fail` logs it
                request.fail(error)

        return receive


@contextlib.contextmanager
def refusing(request: Request) -> Iterator[None]:
    """Have whatever ends the block early refuse `request`: an error, a bug, or our own end."""
    try:
        yield
    except OrchestratorError as error:
        request.refuse(error)
    except asyncio.CancelledError:
        # Cut short by our own end: how far it came is not known here.
        request.refuse(OutcomeUnknownError("the orchestrator is stopping: ask again"))
        raise
    except Exception as error:  # noqa: BLE001 - a bug in one handler must not end the others; `fail` logs it
        request.fail(error)


def answering(handler: Callable[[M, Request], Awaitable[object]], spawn: Spawn) -> Handle[M]:
    """Make an asynchronous handler a `handle`: what it returns is the answer, what it raises the refusal.

    Args:
        handler: gets the decoded message and its request.
        spawn: starts the coroutine, e.g. a task group's `create_task`.
    """

    async def run(message: M, request: Request) -> None:
        with refusing(request):
            request.answer(await handler(message, request))

    def handle(message: M, request: Request) -> None:
        spawn(run(message, request))

    return handle


def _check_agent_id(agent_id: str) -> None:
    if not is_name(agent_id):
        raise InvalidRequestError(f"not an agent id: {agent_id[:80]!r}", path="agent_id")


def header_text(text: str) -> str:
    """`text` as a header may hold it: one line of printable ASCII, at most 256 characters."""
    line = "".join(c if " " <= c <= "~" else " " if c.isspace() else "?" for c in text)
    return " ".join(line.split())[:_ERROR_TEXT_CHARACTERS] or "error"
