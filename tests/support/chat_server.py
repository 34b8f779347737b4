"""A server of OpenAI's chat API on loopback, which answers as a test scripts it: byte by byte, and into the middle."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

MODEL = "tiny-1"
DRIP_S = 0.02
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@dataclass(frozen=True)
class Request:
    line: str
    headers: dict[str, str]
    body: Any


class Exchange:
    """One request, and what is written for it."""

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer
        self.ended = False

    async def begin(self, status: str = "200 OK", kind: str = "text/event-stream", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.write("\r\n".join([*lines, "", ""]).encode())

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        await self.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.write(b"0\r\n\r\n")
        self.ended = True

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass


Script = Callable[[Exchange], Awaitable[None]]


def event(data: object) -> bytes:
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n".encode()


def delta(finish_reason: str | None = None, **fields: object) -> dict[str, Any]:
    return {"model": MODEL, "choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def said(*texts: str) -> bytes:
    """The events of an answer, as a server sends them."""
    parts = [delta(role="assistant"), *(delta(content=text) for text in texts), delta("stop")]
    return b"".join(event(part) for part in (*parts, {"model": MODEL, "choices": [], "usage": USAGE}, "[DONE]"))


def streamed(*pieces: bytes) -> Script:
    """An answer in these pieces of the body."""

    async def answer(exchange: Exchange) -> None:
        await exchange.begin()
        for piece in pieces:
            await exchange.chunk(piece)
        await exchange.end()

    return answer


def broken(*pieces: bytes) -> Script:
    """The same, but the connection breaks instead of ending."""

    async def answer(exchange: Exchange) -> None:
        await exchange.begin()
        for piece in pieces:
            await exchange.chunk(piece)

    return answer


def whole(body: object, status: str = "200 OK", **headers: str) -> Script:
    """An answer in one."""

    async def answer(exchange: Exchange) -> None:
        await exchange.begin(status, "application/json", **headers)
        await exchange.chunk(body if isinstance(body, bytes) else json.dumps(body).encode())
        await exchange.end()

    return answer


class ChatServer:
    """Answers with its scripts in their order, with the last for ever; without one it repeats what it is asked.

    Attributes:
        requests: what came.
        hung_up: set when a client has closed a connection that `hanging` keeps.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.hung_up = asyncio.Event()
        self._scripts: list[Script] = [repeat]
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()

    @property
    def origin(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    def on(self, *scripts: Script) -> Self:
        self._scripts = list(scripts)
        return self

    def hanging(self, *pieces: bytes, begins: bool = True) -> Script:
        """Says this much, and then nothing until the client hangs up."""

        async def answer(exchange: Exchange) -> None:
            if begins:
                await exchange.begin()
            for piece in pieces:
                await exchange.chunk(piece)
            await exchange.gone()
            self.hung_up.set()

        return answer

    def dripping(self, pieces: Iterable[bytes]) -> Script:
        """Says one piece after the other, slowly, until it has said them all or the client hangs up."""

        async def answer(exchange: Exchange) -> None:
            await exchange.begin()
            try:
                for piece in pieces:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(DRIP_S):
                            return await exchange.gone()
                    await exchange.chunk(piece)
                await exchange.end()
            finally:
                self.hung_up.set()

        return answer

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            while (head := await _head(reader)) is not None:
                line, headers = head
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                request = Request(line, headers, json.loads(body or b"null"))
                self.requests.append(request)
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                exchange = Exchange(request, reader, writer)
                await script(exchange)
                if not exchange.ended:
                    return
        except ConnectionError:
            pass  # the client need not read all
        except asyncio.CancelledError:
            pass  # the end of the server; asyncio would report it as an error of this callback
        finally:
            self._open.discard(task)
            writer.close()


async def repeat(exchange: Exchange) -> None:
    words = str(exchange.request.body["messages"][-1]["content"]).split(" ")
    await streamed(said(*(f"{word} " for word in words[:-1]), words[-1]))(exchange)


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    line, *rest = text.strip().split("\r\n")
    pairs = (one.partition(": ") for one in rest)
    return line, {name.lower(): value for name, _, value in pairs}
