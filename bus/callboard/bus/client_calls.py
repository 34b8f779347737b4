"""How a client asks: every request is safe to repeat, so what may succeed later is asked again until it does.

Rules: what is not answered soon is sent again while it is waited for (`ask_again`). Retryable errors (protocol,
section 2) and silence are asked again, with full-jitter back-off, until the time given is over; then the last error is
raised. Nothing but classes of `callboard.schemas.errors` comes out.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from callboard.bus.ask import ask
from callboard.bus.ask_again import Patience, ask_again
from callboard.bus.connection import Bus
from callboard.schemas.errors import OrchestratorError, OutcomeUnknownError
from callboard.schemas.subjects import DEFAULT_POOL, DEFAULT_PREFIX, Subjects

M = TypeVar("M")

DEFAULT_TIMEOUT_S: Final = 30.0
"""How long a request is tried: longer than a crash fail-over (5 s) and a restart of the servers."""
REPLY_S: Final = 5.0
"""How long one request waits for its answer."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0
_STRETCH_S: Final = 15.0
"""Errors farther apart belong to different outages: longer than any one request waits for its answer."""


class Caller:
    """One pool's requests over one connection."""

    def __init__(self, bus: Bus, *, pool: str = DEFAULT_POOL, prefix: str = DEFAULT_PREFIX) -> None:
        self._bus = bus
        self._patience = Patience()
        self._subjects = Subjects(pool, prefix)

    @property
    def pool(self) -> str:
        """The pool that this client talks to."""
        return self._subjects.pool

    async def _call(
        self, subject: str, message: object, answer: type[M], *, timeout_s: float, reply_s: float | None = None
    ) -> M:
        """Ask until there is an answer, an error that stays, or `timeout_s` is over (then: the last error).

        With `reply_s` each request is sent once, and waited for so long.

        Raises:
            OrchestratorError: the class of the answer's code; `UnavailableError` or `OutcomeUnknownError` for silence.
        """

        def once(left_s: float) -> Awaitable[M]:
            if reply_s is None:
                return self._ask(subject, message, answer, timeout_s=min(REPLY_S, left_s))
            return ask(self._bus, subject, message, answer, timeout_s=min(reply_s, left_s))

        return await self._repeat(once, timeout_s=timeout_s)

    async def _ask(self, subject: str, message: object, answer: type[M], *, timeout_s: float = REPLY_S) -> M:
        """One question; raises as `_call`."""
        return await ask_again(self._bus, self._patience, subject, message, answer, timeout_s=timeout_s)

    async def _repeat(self, once: Callable[[float], Awaitable[M]], *, timeout_s: float) -> M:
        """Do `once`, which is given the seconds that are left, until it succeeds; raises as `_call`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        repeats = 0
        while True:
            try:
                return await once(max(until - loop.time(), 0.001))
            except OrchestratorError as error:
                pause = pause_s(repeats, error.retry_after_ms)
                if not error.retryable or loop.time() + pause >= until:
                    raise
            repeats += 1
            await asyncio.sleep(pause)


def pause_s(repeats: int, retry_after_ms: int | None) -> float:
    """Full jitter over a doubling span, on top of what the orchestrator asked for."""
    span = min(_FIRST_PAUSE_S * 2 ** min(repeats, 10), _LONGEST_PAUSE_S)
    return (retry_after_ms or 0) / 1000 + random.uniform(0, span)  # noqa: S311 - jitter is no secret


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Give up after so long; what was asked goes on.

    Raises:
        OutcomeUnknownError: it took longer.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise OutcomeUnknownError(f"no answer within {seconds:g} s") from None


class Outage:
    """How long nobody has answered, at a stretch."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._began_s: float | None = None
        self._seen_s = 0.0
        self._repeats = 0

    async def endure(self, error: OrchestratorError, until_s: float | None) -> None:
        """Pause after an error that may pass.

        Raises:
            OrchestratorError: `error`, when it has gone on for too long.
        """
        now_s = asyncio.get_running_loop().time()
        if self._began_s is None or now_s - self._seen_s > _STRETCH_S:
            self._began_s, self._repeats = now_s, 0
        self._seen_s = now_s
        pause = pause_s(self._repeats, error.retry_after_ms)
        self._repeats += 1
        if now_s + pause - self._began_s > self._patience_s:
            raise error
        await asyncio.sleep(pause if until_s is None else min(pause, max(until_s - now_s, 0)))
