"""What a connection brings, handed on in the call that brings it.

asyncio's reader keeps it for a task to fetch: a copy and a turn of the event loop for each read, and every task of ours
waits for four.
"""

import asyncio
from collections.abc import Callable
from typing import cast


class Arrivals(asyncio.Protocol):
    """Takes over an open transport from a reader; who writes to it goes on as before.

    Args:
        transport: the open transport.
        on_data: gets every read, in order; must not raise.
        on_end: told why there will be no more; perhaps twice.
    """

    def __init__(
        self, transport: asyncio.Transport, on_data: Callable[[bytes], None], on_end: Callable[[str], None]
    ) -> None:
        # Whoever waits until the other side has taken what was written waits there.
        self._writing = cast("asyncio.StreamReaderProtocol", transport.get_protocol())
        self._on_end = on_end
        self.data_received = on_data  # type: ignore[assignment]  # one step less for every read
        transport.set_protocol(self)

    def eof_received(self) -> None:
        """The other side has closed: so do we."""
        self._on_end("the server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._writing.connection_lost(exc)
        self._on_end(str(exc) if exc else "the server closed the connection")

    def pause_writing(self) -> None:
        """The other side does not keep up."""
        self._writing.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._writing.resume_writing()
