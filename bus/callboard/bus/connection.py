"""The bus: one connection to NATS that is always being kept, and what is sent and received over it.

Rules:
- Nothing is buffered for later: while NATS is away every send is refused at once, because what was true then (an
  assignment above all) may be false when the connection is back.
- A lost connection is dialled again for ever, each failure reported with its reason; subscriptions are made anew before
  anybody hears `reconnected`. Requests in flight end at once as `outcome_unknown`.
- Of several servers each process begins with another one, so that a cluster shares them; after a loss the one that was
  lost comes last, for it may take connections and answer nobody.
- Messages are handed on synchronously as they arrive, so their order holds across subscriptions; a callback
  only enqueues.
- What would make the server close the connection (too large, malformed subject) is refused before it is sent.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from types import TracebackType
from typing import Final, Self

import structlog
from nats.nuid import NUID

from callboard.bus.link import SLOW_BYTES, Link
from callboard.bus.logs import default_to_standard_error
from callboard.bus.messages import BusChange, BusMessage, BusState, NoRespondersError
from callboard.bus.news import BusNews
from callboard.bus.options import BusOptions, address
from callboard.bus.requests import OnEnd, PendingRequests
from callboard.bus.wire import (
    check_pattern,
    check_subject,
    header_block,
    publish_frame,
    read_headers,
    subscribe_frame,
    unsubscribe_frame,
)
from callboard.schemas.errors import (
    ConfigurationError,
    OrchestratorError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    UnavailableError,
)

__all__ = ["Bus", "BusChange", "BusMessage", "BusOptions", "BusState", "BusSubscription", "NoRespondersError"]

log = structlog.get_logger("callboard.bus")

Deliver = Callable[[BusMessage], None]

_ROUND_TRIP_S: Final = 5.0
_LEAVE_S: Final = 1.0
DEFAULT_MAX_PAYLOAD: Final = 1024 * 1024
"""What a NATS server takes unless it is told otherwise, in bytes."""
ASK_LIMIT_AGAIN_S: Final = 30.0
"""A server does not say that a reload has raised its limit again; a new connection hears it. How old the old one must
be for that."""


class BusSubscription:
    """Interest in a pattern of subjects, kept over reconnections until `unsubscribe`."""

    __slots__ = ("_bus", "deliver", "pattern", "queue", "sid")

    def __init__(self, bus: "Bus", sid: int, pattern: str, deliver: Deliver, queue: str) -> None:
        self._bus = bus
        self.sid = sid
        self.pattern = pattern
        self.deliver = deliver
        self.queue = queue

    async def unsubscribe(self) -> None:
        """End it: nothing is delivered after this returns. May be called twice."""
        self._bus._forget(self.sid)  # noqa: SLF001 - the two halves of one idea


class Bus:
    """A kept connection; made by `Bus.connect`."""

    def __init__(self, options: BusOptions, on_change: Callable[[BusChange], None] | None) -> None:
        self._options = options
        self._on_change = on_change
        self._link: Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self._delay_s = options.retry_min_s
        self._max_payload = DEFAULT_MAX_PAYLOAD
        self._largest_limit = 0
        self._news = BusNews()
        self._linked_at = 0.0
        self._sid = 0
        self._subscriptions: dict[int, BusSubscription] = {}
        self._nuid = NUID()
        self._requests = PendingRequests(self.new_inbox())
        self._jitter = random.Random()  # noqa: S311 - spreads connections, hides nothing
        self._servers = deque(self._jitter.sample(options.servers, len(options.servers)))
        """The next one to be dialled comes first."""
        self.malformed = 0
        """Messages dropped because their subject or reply subject is not UTF-8."""

    @classmethod
    async def connect(
        cls,
        options: BusOptions | None = None,
        *,
        on_change: Callable[[BusChange], None] | None = None,
        wait: bool = True,
    ) -> Self:
        """A connected bus.

        Args:
            options: the local server by default.
            on_change: told of every change and of every failed attempt with its reason; must not block.
            wait: try for ever, with back-off; else try each server once.

        Raises:
            ConfigurationError: the options cannot be used; never retried.
            UnavailableError: no server could be reached (only without `wait`).
        """
        default_to_standard_error()
        bus = cls(options or BusOptions(), on_change)
        bus._options.ssl_context()  # a certificate that cannot be read is found here, not in the background
        link = await bus._dial(first=True, wait=wait)
        bus._announce(BusState.CONNECTED, link.address)
        bus._keeper = asyncio.create_task(bus._keep(link), name="callboard-bus")
        return bus

    @property
    def connected(self) -> bool:
        """Whether NATS can be reached, as far as is known; `rtt` asks."""
        return self._link is not None and self._link.usable

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message that NATS takes, headers included; its default before the first connection."""
        return self._max_payload

    def new_inbox(self) -> str:
        """A fresh subject below the inbox prefix."""
        return f"{self._options.inbox_prefix}.{self._nuid.next().decode()}"

    def send(self, subject: str, data: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Publish without waiting: written with all else of this turn of the event loop.

        Raises:
            UnavailableError: not connected, or the server takes nothing; nothing was sent, nothing will be.
            PayloadTooLargeError: larger than the server's `max_payload` with its headers; nothing was sent.
            InvalidRequestError: `subject` or `reply` cannot be published to.
        """
        link = self._require_link()
        check_subject(subject)
        if reply:
            check_subject(reply)
        block = header_block(headers) if headers else b""
        self._check_size(link, len(block) + len(data))
        link.post(publish_frame(subject, reply, block, data))

    def send_ready(self, subject: str, block: bytes, data: bytes, *, reply: str = "") -> None:
        """`send` for who publishes very much: both subjects are known to be some, and `block` is a header block.

        Raises:
            UnavailableError, PayloadTooLargeError: as `send`.
        """
        link = self._require_link()
        self._check_size(link, len(block) + len(data))
        link.post(publish_frame(subject, reply, block, data))

    def _check_size(self, link: Link, size: int) -> None:
        try:
            link.check_size(size)
        except PayloadTooLargeError:
            if size <= self._largest_limit and monotonic() - self._linked_at > ASK_LIMIT_AGAIN_S:
                link.lose(f"a message of {size} bytes would have passed before: asking for the limit again")
            raise

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """`send`, after waiting until a slow server has taken what was sent before; raises the same."""
        link = self._require_link()
        if link.unwritten > SLOW_BYTES:
            await link.round_trip(_ROUND_TRIP_S)
        self.send(subject, data, reply=reply, headers=headers)

    async def subscribe(self, subject: str, deliver: Deliver, *, queue: str = "") -> BusSubscription:
        """Have `deliver` called with every message on `subject`, from now on and after every reconnection.

        Of the members of a `queue` group each message goes to one.

        The server has it once `flush` returns. While NATS is away it is noted, and made with the next connection.

        Raises:
            InvalidRequestError: `subject` cannot be subscribed to.
        """
        check_pattern(subject)
        if queue:
            check_subject(queue)
        self._sid += 1
        if self._link is not None and self._link.usable:
            self._link.post(subscribe_frame(subject, self._sid, queue))
        subscription = BusSubscription(self, self._sid, subject, deliver, queue)
        self._subscriptions[self._sid] = subscription
        return subscription

    async def drain(self, subscriptions: Iterable[BusSubscription]) -> None:
        """End subscriptions, after what the server sends for them before it knows: no message on its way is lost."""
        ending = list(subscriptions)
        # Without a connection nothing is on its way.
        with contextlib.suppress(UnavailableError):
            link = self._require_link()
            for subscription in ending:
                link.post(unsubscribe_frame(subscription.sid))
            await link.round_trip(_LEAVE_S)
        for subscription in ending:
            await subscription.unsubscribe()

    def ask(
        self,
        subject: str,
        data: bytes,
        on_end: OnEnd,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Send a request; `on_end` gets the answer or the error, in the order of the wire. Costs no task, no future.

        Returns:
            Its name for `forget_request`.

        Raises:
            UnavailableError, PayloadTooLargeError, InvalidRequestError: as `send`; `on_end` is not called then.
        """
        self._require_link()
        reply = self._requests.open(timeout_s, on_end)
        try:
            self.send(subject, data, reply=reply, headers=headers)
        except BaseException:
            self._requests.drop(reply)
            raise
        return reply

    def forget_request(self, name: str) -> None:
        """Nobody wants the answer any more."""
        self._requests.drop(name)

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> BusMessage:
        """The answer to a request.

        Raises:
            NoRespondersError: nobody listens to `subject`; nobody has got the request.
            OutcomeUnknownError: no answer within `timeout_s` seconds, or the connection was lost meanwhile.
            UnavailableError, PayloadTooLargeError, InvalidRequestError: as `send`.
        """
        answer: asyncio.Future[BusMessage] = asyncio.get_running_loop().create_future()

        def end(how: BusMessage | OrchestratorError) -> None:
            if answer.done():
                return
            if isinstance(how, BusMessage):
                answer.set_result(how)
            else:
                answer.set_exception(how)

        name = self.ask(subject, data, end, timeout_s=timeout_s, headers=headers)
        try:
            return await answer
        finally:
            self.forget_request(name)

    async def flush(self, timeout_s: float = _ROUND_TRIP_S) -> None:
        """Wait until the server has processed all that was sent.

        Raises:
            UnavailableError: it has not within `timeout_s`, or the connection is lost.
        """
        await self._require_link().round_trip(timeout_s)

    async def rtt(self, timeout_s: float = _ROUND_TRIP_S) -> float:
        """Seconds for a round trip to the server; raises as `flush`. The proof that the bus is not deaf."""
        return await self._require_link().round_trip(timeout_s)

    async def close(self) -> None:
        """Write out what was sent, for a second at most, and leave. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._link is not None:
            await self._link.leave(_LEAVE_S)
        self._requests.fail_all(OutcomeUnknownError("the connection was closed before the answer"))
        self._announce(BusState.CLOSED, "")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _require_link(self) -> Link:
        if self._closed:
            raise UnavailableError("the connection to NATS is closed")
        if self._link is None or not self._link.usable:
            raise UnavailableError("not connected to NATS: nothing was sent")
        return self._link

    def _forget(self, sid: int) -> None:
        if self._subscriptions.pop(sid, None) is not None and self._link is not None:
            # Without a connection, or with a server that reads nothing, being forgotten here is enough.
            with contextlib.suppress(UnavailableError):
                self._link.post(unsubscribe_frame(sid))

    async def _keep(self, link: Link) -> None:
        """Watch the connection and dial again, until `close`."""
        while True:
            connected_at = monotonic()
            reason = await asyncio.shield(link.lost)
            self._link = None
            self._requests.fail_all(OutcomeUnknownError(f"the connection was lost before the answer: {reason}"))
            self._announce(BusState.DISCONNECTED, reason)
            await link.discard()
            if monotonic() - connected_at > self._options.retry_max_s:
                self._delay_s = self._options.retry_min_s
            await self._pause()
            link = await self._dial()
            self._announce(BusState.RECONNECTED, link.address)

    async def _dial(self, *, first: bool = False, wait: bool = True) -> Link:
        """A link that is set up; a configuration that cannot be used ends the first dialling only."""
        while True:
            reasons: list[str] = []
            for _ in range(len(self._servers)):
                url = self._servers[0]
                self._servers.rotate(-1)
                try:
                    return await self._set_up(url)
                except Exception as error:
                    reason = f"{address(url)}: {str(error) or type(error).__name__}"
                    if first and isinstance(error, ConfigurationError):
                        raise ConfigurationError(reason) from None
                    # `wait_for` below nats-py drops a cancellation that comes together with the failure.
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise asyncio.CancelledError from error
                    reasons.append(reason)
            reason = "; ".join(reasons)
            self._announce(BusState.FAILED, reason)
            if not wait:
                raise UnavailableError(f"NATS cannot be reached: {reason}")
            await self._pause()

    async def _pause(self) -> None:
        """Back off with jitter: a thousand agents must not come back in the same instant, nor one in a tight loop."""
        await asyncio.sleep(self._jitter.uniform(self._options.retry_min_s / 2, self._delay_s))
        self._delay_s = min(self._delay_s * 2, self._options.retry_max_s)

    async def _set_up(self, url: str) -> Link:
        """Connect and subscribe to all; the server has confirmed it when this returns."""
        link = Link(self._received, self._refused)
        try:
            await link.dial(url, self._options)
            link.post(subscribe_frame(self._requests.pattern, 0))
            for subscription in self._subscriptions.values():
                link.post(subscribe_frame(subscription.pattern, subscription.sid, subscription.queue))
            # From here `subscribe` writes to this link itself; nothing may be awaited between that loop and this line.
            self._link = link
            self._max_payload = link.max_payload
            self._largest_limit = max(self._largest_limit, link.max_payload)
            self._linked_at = monotonic()
            await link.round_trip(self._options.connect_timeout_s)
        except BaseException:
            await link.discard()
            raise
        return link

    def _announce(self, state: BusState, reason: str) -> None:
        self._news.tell(state, reason)
        if self._on_change is not None:
            try:
                self._on_change(BusChange(state, reason))
            except Exception:
                log.exception("a listener of the bus failed", state=state.value)

    def _refused(self, text: str) -> None:
        self._announce(BusState.REFUSED, text)

    def _received(self, sid: int, subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        try:
            message = BusMessage(
                subject.decode(), reply.decode(), data, *(read_headers(block) if block else (None, None))
            )
        except UnicodeDecodeError:
            self.malformed += 1
            if self.malformed & (self.malformed - 1) == 0:  # at 1, 2, 4, 8 …: a flood must not fill the log
                log.warning(
                    "message dropped: subject is not UTF-8",
                    subject=subject[:200],
                    reply=reply[:200],
                    count=self.malformed,
                )
            return
        if sid == 0:
            self._requests.answer(message)
            return
        subscription = self._subscriptions.get(sid)
        if subscription is None:
            return
        try:
            subscription.deliver(message)
        except Exception:
            log.exception("a delivery failed", subject=message.subject)
