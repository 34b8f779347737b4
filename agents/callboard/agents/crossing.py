"""From any thread onto an event loop: what comes while the loop has not looked yet crosses in one go.

A hand-over of its own for each item costs a system call and a wake-up; under load they are most of what an agent does.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Crossing:
    """Calls functions on the loop, in the order in which they were put."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], object]] = deque()
        self._is_scheduled = False

    def put(self, call: Callable[[], object]) -> None:
        """Have `call` called on the loop, soon.

        Raises:
            RuntimeError: the loop is closed.
        """
        self._calls.append(call)
        # Whoever sees the flag set has appended before `_drain` begins to take: nothing is left behind.
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._is_scheduled = False
        while self._calls:
            self._calls.popleft()()


def new_loop() -> asyncio.AbstractEventLoop:
    """A new event loop: uvloop's where that is installed, which spends about half as long on a message."""
    try:
        import uvloop  # noqa: PLC0415 - optional, and unknown on some systems
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
