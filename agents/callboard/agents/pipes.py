"""A pipe whose writing end a child process gets as it is, and whose reading end is read here, bounded.

Unlike asyncio's own, it is no part of the process's transport: waiting for the process does not wait for whoever else
inherited the pipe.
"""

import asyncio
import os
from types import TracebackType
from typing import Final, Self

_READ_BYTES: Final = 64 * 1024


class OutputTooLargeError(Exception):
    """More was written than is allowed."""


class Pipe:
    """Open within `async with`.

    Attributes:
        writer: the descriptor for the child.
    """

    def __init__(self) -> None:
        self._reader = asyncio.StreamReader()
        self._transport: asyncio.ReadTransport | None = None
        self.writer = -1

    async def __aenter__(self) -> Self:
        read_end, self.writer = os.pipe()
        protocol = asyncio.StreamReaderProtocol(self._reader)
        pipe = os.fdopen(read_end, "rb", buffering=0)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_writer()
        if self._transport is not None:
            self._transport.close()

    def close_writer(self) -> None:
        """Give up our copy once the child has its own, else the pipe would never end. May be called twice."""
        if self.writer != -1:
            os.close(self.writer)
            self.writer = -1

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

    async def read_tail(self, size: int) -> bytes:
        """The last `size` bytes of all that is written."""
        tail = b""
        while chunk := await self._reader.read(_READ_BYTES):
            tail = (tail + chunk)[-size:]
        return tail
