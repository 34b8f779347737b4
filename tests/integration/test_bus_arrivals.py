"""The moment in which a connection passes from nats-py's handshake to us; a server that says what it is told to."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from callboard.bus.link import Link
from callboard.bus.options import BusOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio

WITHIN_S = 5.0
INFO = b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"headers":true,"proto":1}\r\n'
MESSAGE = b"MSG a 1 5\r\nhello\r\n"


@asynccontextmanager
async def server(with_pong: bytes, end: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[str]:
    """A server that answers the handshake's PING by `with_pong` in one write, and then ends the connection or not."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        while await reader.readline() != b"PING\r\n":
            pass
        writer.write(with_pong)
        end(writer)
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"nats://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def linked(url: str, got: list[bytes]) -> AsyncIterator[Link]:
    link = Link(lambda _sid, _subject, _reply, _block, data: got.append(data), lambda _text: None)
    await link.dial(url, BusOptions(servers=(url,)))
    try:
        yield link
    finally:
        await link.discard()


async def lost(link: Link) -> str:
    async with asyncio.timeout(WITHIN_S):
        return await asyncio.shield(link.lost)


@pytest.mark.parametrize("count", [1, 20_000], ids=["one", "more than a read"])
async def test_what_came_with_the_end_of_the_handshake_is_handed_on_first(count: int) -> None:
    got: list[bytes] = []
    last = b"MSG a 1 4\r\nlast\r\n"
    told = b"PONG\r\n" + count * MESSAGE + last
    async with server(told, lambda writer: writer.write_eof()) as url, linked(url, got) as link:
        assert await lost(link) == "the server closed the connection"
    assert got == [b"hello"] * count + [b"last"]


async def test_an_end_together_with_the_handshakes_is_noticed() -> None:
    async with server(b"PONG\r\n", lambda writer: writer.write_eof()) as url, linked(url, []) as link:
        assert await lost(link) == "the server closed the connection"
        assert not link.usable


async def test_a_reset_is_noticed() -> None:
    async with server(b"PONG\r\n", lambda writer: writer.transport.abort()) as url, linked(url, []) as link:
        await lost(link)
        assert not link.usable


async def test_what_is_not_the_protocol_loses_the_link_with_its_reason() -> None:
    async with server(b"PONG\r\nMSG broken\r\n", lambda _writer: None) as url, linked(url, []) as link:
        assert "not a message's line" in await lost(link)
