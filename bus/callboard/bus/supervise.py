"""Keeps one embedded server running: whenever it ends by itself, it is started again on the same data and address.

Each attempt is reported, whether it succeeded or not; between attempts the wait doubles up to a limit, and starts
over once the server has lived for a while. It never gives up: the owner decides that, by `stop`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from callboard.bus.child import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from callboard.bus.server import EmbeddedServer

FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 5.0
STABLE_S = 30.0
"""A server that lived this long starts with the first back-off again, in seconds."""


@dataclass(frozen=True, slots=True)
class Restart:
    """One attempt to bring a server back."""

    server: str
    """Its name."""
    returncode: int
    """How it had ended: the exit code, `-N` after signal N."""
    attempt: int
    """1 for the first since the server was last stable."""
    error: EmbeddedServerError | None
    """Why the attempt failed; none when the server runs again."""


class Supervisor:
    """Owns the running of a server: `start` starts it and the watch, `stop` ends both. Each may be called twice.

    Args:
        server: The server; nobody else starts or stops it meanwhile.
        on_restart: Called on the event loop after each attempt; it must neither block nor raise.
    """

    def __init__(self, server: EmbeddedServer, on_restart: Callable[[Restart], None]) -> None:
        self._server = server
        self._on_restart = on_restart
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the server and watch it.

        Raises:
            EmbeddedServerError: The first start failed; that is not retried.
        """
        if self._watch is None:
            await self._server.start()
            self._watch = asyncio.create_task(self._keep_running(), name=f"supervise {self._server.name}")

    async def stop(self) -> None:
        """End the watch, then the server.

        Raises:
            Exception: What ended the watch before: a callback that raised, or an error that is no
                `EmbeddedServerError`.
        """
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])
        await self._server.stop()
        if watch is not None and not watch.cancelled():
            watch.result()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            started = loop.time()
            returncode = await self._server.wait_exit()
            if loop.time() - started >= STABLE_S:
                attempt = 0
            failed = True
            while failed:
                await asyncio.sleep(_backoff_s(attempt))
                attempt += 1
                failed = not await self._try_start(returncode, attempt)

    async def _try_start(self, returncode: int, attempt: int) -> bool:
        error: EmbeddedServerError | None = None
        try:
            await self._server.start()
        except EmbeddedServerError as refused:
            error = refused
        self._on_restart(Restart(self._server.name, returncode, attempt, error))
        return error is None


def _backoff_s(attempts: int) -> float:
    # The exponent is capped first: a power of two soon exceeds what a float holds.
    return min(FIRST_BACKOFF_S * 2.0 ** min(attempts, 16), MAX_BACKOFF_S)
