"""Deadlines by key: set, replaced and cleared in O(log n); stale heap entries are compacted, never piled up."""

import heapq
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

_COMPACT_FROM: Final = 64


class Clock(IntEnum):
    """What a timer watches."""

    DEFERRAL = 0
    DEADLINE = 1
    RUN_LIMIT = 2
    PROGRESS_LIMIT = 3
    OFFER = 4
    LIVENESS = 5
    SKIP = 6
    GRACE = 7
    FORGET = 8
    PROBE = 9
    FLUSH = 10
    AGENDA = 11
    ANSWER = 12


AGENT_CLOCKS: Final = (Clock.LIVENESS, Clock.SKIP, Clock.GRACE, Clock.FORGET, Clock.PROBE)
TASK_CLOCKS: Final = (
    Clock.DEFERRAL,
    Clock.DEADLINE,
    Clock.RUN_LIMIT,
    Clock.PROGRESS_LIMIT,
    Clock.OFFER,
    Clock.ANSWER,
)

Key = tuple[Clock, str]


class Timers:
    """At most one due time per key."""

    __slots__ = ("_due", "_heap")

    def __init__(self) -> None:
        self._due: dict[Key, int] = {}
        self._heap: list[tuple[int, Key]] = []

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._due)

    def set(self, clock: Clock, subject: str, due_ms: int) -> None:
        """Have `(clock, subject)` fire at `due_ms`, replacing its earlier due time."""
        key = (clock, subject)
        if self._due.get(key) == due_ms:
            return
        self._due[key] = due_ms
        heapq.heappush(self._heap, (due_ms, key))
        if len(self._heap) > 2 * len(self._due) + _COMPACT_FROM:
            self._heap = [(due, key) for key, due in self._due.items()]
            heapq.heapify(self._heap)

    def clear(self, clock: Clock, subject: str) -> None:
        """Forget `(clock, subject)`, if it was set."""
        self._due.pop((clock, subject), None)

    def is_set(self, clock: Clock, subject: str) -> bool:
        """Whether `(clock, subject)` will fire."""
        return (clock, subject) in self._due

    def due_of(self, clock: Clock, subject: str) -> int | None:
        """When `(clock, subject)` will fire, in ms, or `None`."""
        return self._due.get((clock, subject))

    def next_due(self) -> int | None:
        """The earliest due time, in ms, or `None`."""
        while self._heap:
            due, key = self._heap[0]
            if self._due.get(key) == due:
                return due
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now_ms: int) -> Iterator[Key]:
        """Remove and yield what is due at `now_ms`, the earliest first; what fires may set timers again."""
        while (due := self.next_due()) is not None and due <= now_ms:
            _, key = heapq.heappop(self._heap)
            del self._due[key]
            yield key
