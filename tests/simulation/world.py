"""A world of its own: one clock, one seed, one story. Nothing in it knows the real time.

All randomness of a schedule comes from `rng`, and whatever happens later is an entry of one heap; so a seed replays
a schedule to the letter.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import NoReturn

START_MS = 1_700_000_000_000
STORY_LINES = 4_000
TOLD_LINES = 60


class ScheduleError(Exception):
    """A schedule broke a rule. The message has the seed, and how it came about."""


class World:
    """Time, chance and memory of one schedule."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311 - a replayable schedule
        self.now_ms = START_MS
        self.events = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._entries = 0
        self._story: deque[tuple[int, str, tuple[object, ...]]] = deque(maxlen=STORY_LINES)

    def after(self, delay_ms: int, what: Callable[[], None]) -> None:
        """Have `what` happen in so many ms."""
        self._entries += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._entries, what))

    def run_until(self, end_ms: int, *, done: Callable[[], bool] | None = None) -> bool:
        """Let things happen until `end_ms`, or until `done`, asked once a second; whether it was done."""
        asked_ms = self.now_ms
        while self._heap and self._heap[0][0] <= end_ms:
            self.now_ms, _, what = heapq.heappop(self._heap)
            self.events += 1
            what()
            if done is not None and self.now_ms >= asked_ms + 1_000:
                asked_ms = self.now_ms
                if done():
                    return True
        self.now_ms = max(self.now_ms, end_ms)
        return done is not None and done()

    def chance(self, share: float) -> bool:
        """Whether something of this probability happens."""
        return share > 0 and self.rng.random() < share

    def between(self, low: int, high: int) -> int:
        """An integer from `low` to `high`."""
        return low + int(self.rng.random() * (high - low + 1))

    def note(self, what: str, *about: object) -> None:
        """Remember what happened."""
        self._story.append((self.now_ms, what, about))

    def fail(self, message: str, *, about: str | None = None) -> NoReturn:
        """The schedule broke a rule.

        Raises:
            ScheduleError: with the seed and the story, of `about` alone if it is given.
        """
        lines = [f"{at - START_MS:>8} ms  {what} {' '.join(map(str, rest))}" for at, what, rest in self._story]
        if about is not None:
            lines = [line for line in lines if about in line or "WEATHER" in line]
        story = "\n".join(lines[-TOLD_LINES:])
        raise ScheduleError(
            f"seed {self.seed}: {message}\n{story}\nagain: python -m tests.simulation --seed {self.seed}"
        )
