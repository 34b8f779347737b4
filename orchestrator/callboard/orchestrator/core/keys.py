"""Concurrency keys: how many attempts of each key occupy a slot, and how many may (protocol, section 4).

Rules:
- An attempt counts for its key exactly as long as it occupies its agent's slot, and no longer than its agent's lease:
  what a dead agent may still run must not keep the key for ever.
- Among different limits of one key the lowest of those alive counts. A task is alive until it is final.
- A key that nobody uses is forgotten.
"""

import heapq
from typing import Final

_COMPACT_FROM: Final = 64


class Limits:
    """The limits of the live tasks of one key; the lowest is known at once."""

    __slots__ = ("_heap", "_tasks")

    def __init__(self) -> None:
        self._tasks: dict[int, int] = {}
        self._heap: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def add(self, limit: int, tasks: int = 1) -> None:
        """`tasks` more live tasks have this limit."""
        if limit not in self._tasks:
            heapq.heappush(self._heap, limit)
            if len(self._heap) > 2 * len(self._tasks) + _COMPACT_FROM:
                self._heap = sorted({*self._tasks, limit})
        self._tasks[limit] = self._tasks.get(limit, 0) + tasks

    def remove(self, limit: int) -> None:
        """One of them is final."""
        self._tasks[limit] -= 1
        if not self._tasks[limit]:
            del self._tasks[limit]

    def lowest(self) -> int | None:
        """The limit that counts, or `None` when no task is alive."""
        while self._heap and self._heap[0] not in self._tasks:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None


class KeyUse:
    """One key: its limits, and how many attempts hold it."""

    __slots__ = ("held", "limits")

    def __init__(self) -> None:
        self.limits = Limits()
        self.held = 0

    @property
    def is_open(self) -> bool:
        """Whether one more attempt may hold it."""
        limit = self.limits.lowest()
        return limit is None or self.held < limit


class Keys:
    """The keys that are in use."""

    def __init__(self) -> None:
        self._uses: dict[str, KeyUse] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def use_of(self, key: str) -> KeyUse:
        """The use of `key`; the caller counts something in it."""
        return self._uses.setdefault(key, KeyUse())

    def find(self, key: str) -> KeyUse | None:
        """The use of `key`, if there is any."""
        return self._uses.get(key)

    def settle(self, key: str) -> None:
        """Forget `key` if nobody uses it."""
        use = self._uses.get(key)
        if use is not None and not use.held and not use.limits:
            del self._uses[key]
