"""Raw NATS: what no client library lets one send, and peers that behave as no nats-server should."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1}\r\n'
INFO = b'INFO {"server_id":"x","version":"2.11.0","headers":true,"max_payload":1048576,"proto":1}\r\n'


async def send_raw(url: str, *frames: bytes) -> None:
    """Send frames over a connection of their own; returns once the server has processed them.

    Raises:
        AssertionError: the server complained: the frames did not reach anybody.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"INFO ")
            writer.write(CONNECT + b"".join(frames) + b"PING\r\n")
            answer = await reader.readline()
        assert answer == b"PONG\r\n", answer
    finally:
        writer.close()


def publish(subject: bytes, data: bytes = b"", reply: bytes = b"") -> bytes:
    """A PUB frame, whatever bytes it holds."""
    return b"PUB %s %s %d\r\n%s\r\n" % (subject, reply, len(data), data)


def publish_with_headers(subject: bytes, block: bytes, data: bytes = b"", reply: bytes = b"") -> bytes:
    """An HPUB frame, whatever its header block holds."""
    return b"HPUB %s %s %d %d\r\n%s%s\r\n" % (subject, reply, len(block), len(block) + len(data), block, data)


@asynccontextmanager
async def peer(
    behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    port: int = 0,
) -> AsyncIterator[str]:
    """A TCP server on a port of the loopback, a free one by default, that does to each connection as `behave` says.

    Yields:
        Its URL.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await behave(reader, writer)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"nats://{host}:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def greet(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pings: int = 2, greeting: bytes = INFO
) -> None:
    """The handshake, and the first `pings` PINGs answered: the client's own, and the one that confirms its set-up."""
    writer.write(greeting)
    while pings:
        line = await reader.readuntil(b"\r\n")
        if line == b"PING\r\n":
            writer.write(b"PONG\r\n")
            pings -= 1
