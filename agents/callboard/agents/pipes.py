"""Pipes of which a child process gets one end as it is, and we keep the other.

Unlike asyncio's own, they are no part of the transport of the process: waiting for it does not wait for whoever else
inherited a pipe.
"""

import asyncio
import os
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

_READ_BYTES: Final = 64 * 1024


class OutputTooLargeError(Exception):
    """More was written than is allowed."""


class InputPipe:
    """What a child reads; open within `async with`.

    Attributes:
        child_end: the descriptor for the child.
    """

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self.child_end = -1

    async def __aenter__(self) -> Self:
        self.child_end, write_end = os.pipe()
        pipe = os.fdopen(write_end, "wb", buffering=0)
        self._transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, pipe)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_child_end()
        if self._transport is None:
            return
        if self._transport.get_write_buffer_size() > 0:
            # Nobody will read that any more; `close` would wait for it.
            self._transport.abort()
        else:
            self._transport.close()

    def close_child_end(self) -> None:
        """Give up our copy once the child has its own. May be called twice."""
        if self.child_end != -1:
            os.close(self.child_end)
            self.child_end = -1

    def write(self, data: bytes) -> None:
        """All that the child will read; never waits, since a child need not read it."""
        if self._transport is not None:
            self._transport.write(data)
            self._transport.close()


class OutputPipe:
    """What a child writes; open within `async with`.

    Attributes:
        child_end: the descriptor for the child.
    """

    def __init__(self) -> None:
        self._reader = asyncio.StreamReader()
        self._transport: asyncio.ReadTransport | None = None
        self.child_end = -1

    async def __aenter__(self) -> Self:
        read_end, self.child_end = os.pipe()
        protocol = asyncio.StreamReaderProtocol(self._reader)
        pipe = os.fdopen(read_end, "rb", buffering=0)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_child_end()
        if self._transport is not None:
            self._transport.close()

    def close_child_end(self) -> None:
        """Give up our copy once the child has its own, else the pipe would never end. May be called twice."""
        if self.child_end != -1:
            os.close(self.child_end)
            self.child_end = -1

    async def read(self, limit: int) -> bytes:
        """All that is written.

        Raises:
            OutputTooLargeError: it is more than `limit` bytes; the rest is left unread.
        """
        chunks = bytearray()
        while chunk := await self._reader.read(_READ_BYTES):
            chunks += chunk
            if len(chunks) > limit:
                raise OutputTooLargeError
        return bytes(chunks)

    async def read_tail(self, size: int, seen: Callable[[bytes], None]) -> bytes:
        """The last `size` bytes of all that is written; `seen` gets every piece of it."""
        tail = b""
        while chunk := await self._reader.read(_READ_BYTES):
            tail = (tail + chunk)[-size:]
            seen(chunk)
        return tail
