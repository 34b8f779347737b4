"""What goes together: submits, offers and reports alike are gathered, and cut into messages.

Rules:
- Nobody who is alone waits: with nothing under way, what one turn of the event loop brought goes at its end.
- What comes while messages are under way goes when they are answered, so that messages grow with the load and not in
  number (as Nagle's algorithm has it, RFC 896). An answer that is long in coming holds nothing up for longer than
  `HELD_S`.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, TypeVar

from callboard.schemas.limits import GATHERED

T = TypeVar("T")

BATCH_BYTES: Final = 512 * 1024
"""NATS takes messages of 1 MiB unless configured otherwise."""
HELD_S: Final = 0.02


class Gathering(Generic[T]):
    """Gathers items until they may go.

    Args:
        send: sends these items, in their order, and says in how many messages; `ended` is to be called for each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[list[T]], int]) -> None:
        self._loop = loop
        self._send = send
        self._waiting: list[T] = []
        self._under_way = 0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, item: T) -> None:
        """Have `item` go with what else there is."""
        self._waiting.append(item)
        if len(self._waiting) == 1:
            if self._under_way:
                self._timer = self._loop.call_later(HELD_S, self._go)
            else:
                self._loop.call_soon(self._go)

    def flush(self) -> None:
        """Send what is there, whatever is under way."""
        self._go()

    def ended(self) -> None:
        """A message is answered, or given up."""
        self._under_way -= 1
        if not self._under_way and self._waiting:
            self._loop.call_soon(self._go)

    def _go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            # Not in one statement: it may call `ended` already, and `+=` would start from what was before.
            messages = self._send(waiting)
            self._under_way += messages


def gathered(items: Iterable[T], size_of: Callable[[T], int], *, most_bytes: int = BATCH_BYTES) -> Iterator[list[T]]:
    """`items` in their order, in lists of at most `GATHERED` items and `most_bytes` bytes; a larger item is alone."""
    batch: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if batch and (len(batch) == GATHERED or total + size > most_bytes):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
