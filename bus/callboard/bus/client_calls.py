"""How a client asks: every request is safe to repeat, so what may succeed later is asked again until it does.

Rules: only retryable errors (protocol, section 2) and silence are asked again, with full-jitter back-off, until the
time given is over; then the last error is raised. Nothing but classes of `callboard.schemas.errors` comes out.
"""

import asyncio
import random
from typing import Final, TypeVar

from callboard.bus.ask import ask
from callboard.bus.connection import Bus
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.subjects import DEFAULT_POOL, DEFAULT_PREFIX, Subjects

M = TypeVar("M")

DEFAULT_TIMEOUT_S: Final = 30.0
"""How long a request is tried: longer than a crash fail-over (5 s) and a restart of the servers."""
REPLY_S: Final = 5.0
"""How long one request waits for its answer."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0


class Caller:
    """One pool's requests over one connection."""

    def __init__(self, bus: Bus, *, pool: str = DEFAULT_POOL, prefix: str = DEFAULT_PREFIX) -> None:
        self._bus = bus
        self._subjects = Subjects(pool, prefix)

    @property
    def pool(self) -> str:
        """The pool that this client talks to."""
        return self._subjects.pool

    async def _call(
        self, subject: str, message: object, answer: type[M], *, timeout_s: float, reply_s: float = REPLY_S
    ) -> M:
        """Ask until there is an answer, an error that stays, or `timeout_s` is over (then: the last error).

        Raises:
            OrchestratorError: the class of the answer's code; `UnavailableError` or `OutcomeUnknownError` for silence.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        repeats = 0
        while True:
            left = max(until - loop.time(), 0.001)
            try:
                return await ask(self._bus, subject, message, answer, timeout_s=min(reply_s, left))
            except OrchestratorError as error:
                pause = _pause_s(repeats, error.retry_after_ms)
                if not error.retryable or loop.time() + pause >= until:
                    raise
            repeats += 1
            await asyncio.sleep(pause)


def _pause_s(repeats: int, retry_after_ms: int | None) -> float:
    """Full jitter over a doubling span, on top of what the orchestrator asked for."""
    span = min(_FIRST_PAUSE_S * 2 ** min(repeats, 10), _LONGEST_PAUSE_S)
    return (retry_after_ms or 0) / 1000 + random.uniform(0, span)  # noqa: S311 - jitter is no secret
