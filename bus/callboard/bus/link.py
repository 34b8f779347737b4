"""One connection to one server, used once: when it is lost it says why and is thrown away.

nats-py does the handshake (TLS, nkeys, credentials), the pings and the waiting for a slow server. What it does after
that is replaced, each for a reason found by running it:

- its read loop ends in silence on one malformed message, and on a PONG whose waiter gave up, while `is_connected`
  stays true: we cut and deliver frames ourselves, and whatever ends the loop loses the link;
- it closes the client for ever on most `-ERR` lines: the server closes the connection when it means it;
- it replays what was published while the server was away, long after it was true: nothing here reconnects, so nothing
  can be replayed; `connection.py` dials again with a fresh link;
- its `flush` overtakes what was published before it, since the PING skips the queue;
- its flusher, a task behind a queue, takes turns of the event loop of which a task's way has a dozen;
- it sends credentials in the clear to a server that does not insist on TLS, whatever the address says, and notes the
  addresses that servers gossip: we refuse the one and ignore the other.

`tests/unit/test_bus_canaries.py` fails when the internals that this rests on change.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
import structlog
from nats.aio.client import PING_PROTO, PONG_PROTO, Client
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError

from callboard.bus.arrivals import Arrivals
from callboard.bus.options import BusOptions, address, dial_target
from callboard.bus.refusals import in_words
from callboard.bus.wire import BrokenFrameError, FrameReader, OnMessage
from callboard.schemas.errors import ConfigurationError, PayloadTooLargeError, UnavailableError

log = structlog.get_logger("callboard.bus")

SLOW_BYTES: Final = 4 * 1024 * 1024
"""With more than this unwritten, whoever can wait does."""
FULL_BYTES: Final = 64 * 1024 * 1024
"""With more than this unwritten, nothing more is taken."""


class Link(Client):
    """A connection from handshake to loss.

    Args:
        on_message: gets every message, as it arrives, in the order of the wire.
        on_refused: told what the server refuses without closing the connection, permission violations mostly.
    """

    def __init__(self, on_message: OnMessage, on_refused: Callable[[str], None]) -> None:
        super().__init__()
        self._frames = FrameReader(on_message, self._control)
        self._on_refused = on_refused
        self._last_complaint = ""
        self._is_due = False
        """Whether what is posted is written at the end of this turn."""
        self._must_upgrade = False
        self.address = ""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """The reason, once there is no connection any more."""

    async def dial(self, url: str, options: BusOptions) -> None:
        """Connect, once, within `connect_timeout_s`.

        Raises:
            ConfigurationError: credentials cannot be used, or TLS is asked for and the server offers none; it has been
                told nothing then.
            UnavailableError: the server does not take our credentials, or we not its certificate.
            Exception: the server cannot be reached or does not want us; it has said why.
        """
        target = dial_target(url)
        self.address = address(url)
        # With `tls_first` the very greeting is encrypted: what it offers does not matter then.
        self._must_upgrade = options.wants_tls and not options.tls_first
        try:
            async with asyncio.timeout(options.connect_timeout_s):
                await self.connect(
                    [target.url],
                    error_cb=_ignore,  # whatever fails is raised or ends the link, and is reported there
                    name=options.name,
                    allow_reconnect=False,
                    connect_timeout=options.connect_timeout_s,  # type: ignore[arg-type]  # a number of seconds
                    ping_interval=options.ping_interval_s,  # type: ignore[arg-type]  # the same
                    user=target.user or options.user,
                    password=target.password or options.password,
                    token=target.token or options.token,
                    user_credentials=options.creds,
                    nkeys_seed=None if options.nkey is None else str(options.nkey),
                    tls=options.ssl_context(),
                    tls_handshake_first=options.tls_first,
                )
        except ModuleNotFoundError as error:
            message = f"credentials and nkeys need the package {error.name!r}: pip install 'nats-py[nkeys]'"
            raise ConfigurationError(message) from None
        except TimeoutError:
            raise TimeoutError(f"no answer within {options.connect_timeout_s:g} s") from None
        except (NatsError, ssl.SSLCertVerificationError) as error:
            if refusal := in_words(error, target, options):
                raise UnavailableError(refusal) from None
            raise

    @property
    def usable(self) -> bool:
        """Whether what is written now has a chance to arrive."""
        return self.is_connected and not self.lost.done()

    @property
    def unwritten(self) -> int:
        """Bytes that the server has not taken yet."""
        return self._pending_data_size

    def post(self, frame: bytes) -> None:
        """Write a frame, after all that was posted before.

        Raises:
            UnavailableError: the connection is lost or the server does not take what is sent; nothing was written.
        """
        if self.lost.done():
            raise UnavailableError("not connected to NATS: nothing was sent")
        if self._pending_data_size > FULL_BYTES:
            raise UnavailableError(f"NATS has left {self._pending_data_size} bytes unread: nothing was sent")
        self._pending.append(frame)
        self._pending_data_size += len(frame)
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._write_out)

    def _write_out(self) -> None:
        """Write what a turn of the event loop has posted; a slow server is left to the flusher, which waits for it."""
        self._is_due = False
        if not self._pending:
            return
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and not writer.transport.get_write_buffer_size():
            frames, self._pending = self._pending, []
            self._pending_data_size = 0
            writer.write(b"".join(frames))
        elif self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    def check_size(self, size: int) -> None:
        """Refuse a message of `size` bytes, headers included, that would make the server close the connection.

        Raises:
            PayloadTooLargeError: it is larger than the server's `max_payload`.
        """
        if size > self.max_payload:
            message = f"the message has {size} bytes with its headers; NATS allows {self.max_payload}"
            raise PayloadTooLargeError(message, path="", bytes=size, limit=self.max_payload)

    def lose(self, reason: str) -> None:
        """The connection is of no use any more; the first reason counts."""
        if not self.lost.done():
            self._status = Client.DISCONNECTED
            self.lost.set_result(self._last_complaint or reason)

    async def round_trip(self, timeout_s: float) -> float:
        """Seconds until the server has answered a PING that follows all that was posted.

        Raises:
            UnavailableError: it has not within `timeout_s`, or the connection is lost.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        pong: asyncio.Future[bool] = loop.create_future()
        await self._send_ping(pong)
        await asyncio.wait((pong, self.lost), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if pong.done():
            return loop.time() - began
        pong.cancel()
        raise UnavailableError(self.lost.result() if self.lost.done() else f"NATS is silent for {timeout_s:g} s")

    async def leave(self, timeout_s: float) -> None:
        """Write out what was posted, for `timeout_s` at most, and go."""
        with contextlib.suppress(UnavailableError):  # lost or stalled: going is all that is left
            await self.round_trip(timeout_s)
        await self.discard()

    async def discard(self) -> None:
        """Let go of socket and tasks at once, also of a peer that takes nothing."""
        self.lose("closed")
        tasks = [task for task in (self._reading_task, self._ping_interval_task, self._flusher_task) if task]
        for task in tasks:
            task.cancel()
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What nats-py calls, replaced.

    async def _select_next_server(self) -> None:
        """One try at the one server, its error raised; the parent's loops for ever."""
        server = self._server_pool[0]
        await self._connect_to_server(server)
        self._current_server = server

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the parent's
        """The greeting, before anything is answered: TLS as it was asked for, or nothing."""
        if not self._must_upgrade:
            return
        if not (info.get("tls_required") or info.get("tls_available")):
            message = (
                "the server offers no TLS, so nothing was sent to it: turn TLS on there,"
                " or write nats:// in all addresses and give neither NATS_CA nor NATS_CERT"
            )
            raise ConfigurationError(message)
        info["tls_required"] = True  # what nats-py looks at next

    async def _read_loop(self) -> None:
        """Take what has come since the handshake, and have the rest handed on as it comes."""
        tcp = self._transport
        assert isinstance(tcp, TcpTransport)  # noqa: S101 - no other scheme is dialled
        reader, writer = tcp._io_reader, tcp._io_writer  # noqa: SLF001 - nats-py's, see the canaries
        assert reader is not None  # noqa: S101 - it is connected
        assert writer is not None  # noqa: S101 - it is connected
        transport = cast("asyncio.Transport", writer.transport)
        Arrivals(transport, self._arrived, self.lose)
        # What the reader was told, nobody will be told again.
        error = reader.exception()
        has_ended = error is not None or transport.is_closing() or reader._eof  # type: ignore[attr-defined]  # noqa: SLF001 - `at_eof` is not yet, with data
        # At its end a reader gives what it holds without waiting, so that nothing can overtake this.
        reader.feed_eof()
        if error is None:
            self._arrived(await reader.read())
        if has_ended:
            self.lose(str(error or "the server closed the connection"))

    def _arrived(self, data: bytes) -> None:
        if self.lost.done():
            return
        try:
            self._frames.feed(data)
        except BrokenFrameError as error:
            self.lose(str(error))
        except Exception as error:
            self.lose(f"reading failed: {error!r}")
            log.exception("reading from NATS failed")

    def _control(self, line: bytes) -> None:
        if line == b"PING":
            # A link lost within this very read has nobody left to answer.
            with contextlib.suppress(UnavailableError):
                self.post(PONG_PROTO)
        elif line == b"PONG":
            self._pong()
        elif line.startswith(b"-ERR"):
            self._complaint(line[4:].decode(errors="replace").strip(" '"))
        elif line.startswith(b"INFO "):
            self._info(line[5:])

    def _pong(self) -> None:
        self._pings_outstanding = 0
        if self._pongs:
            waiter = self._pongs.pop(0)
            if not waiter.done():
                waiter.set_result(True)

    def _complaint(self, text: str) -> None:
        if text.lower().startswith("permissions violation"):
            self._on_refused(text)
        else:
            self._last_complaint = f"the server said: {text}"
            log.warning("NATS complains", text=text)

    def _info(self, data: bytes) -> None:
        try:
            info = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BrokenFrameError(f"not an INFO line: {error}") from None
        self._server_info.update(info)
        self._max_payload = info.get("max_payload", self._max_payload)

    async def _process_op_err(self, e: Exception) -> None:
        self.lose(str(e))

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        self.post(PING_PROTO)
        self._pongs.append(future or asyncio.get_running_loop().create_future())


async def _ignore(_error: Exception) -> None:
    """Nothing: see `Link.dial`."""
