"""A world of its own: one clock, one seed, one story. Nothing in it knows the real time.

All randomness of a schedule comes from its plan and from `rng`, and whatever happens later is an entry of one heap; so
a seed replays a schedule to the letter. The world's time is the database's; processes have clocks of their own that
may be fast or slow (`LocalClock`).
"""

import heapq
import random
import re
from collections import Counter, deque
from collections.abc import Callable
from typing import NoReturn

START_MS = 1_700_000_000_000
MOST_EVENTS = 30_000
"""Many times what the busiest schedule needs."""
STORY_LINES = 4_000
TOLD_LINES = 60
_NAMES = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+|b'[^']*'")


class ScheduleError(Exception):
    """A schedule broke a rule. The message has the seed, and how it came about.

    Attributes:
        rule: what was broken, without the names and numbers of this time.
        story: how it came about.
    """

    def __init__(self, seed: int, what: str, story: list[str]) -> None:
        super().__init__(seed, what, story)
        self.seed, self.what, self.story = seed, what, story
        self.rule = _NAMES.sub("#", what.partition(":")[0])[:60]

    def __str__(self) -> str:
        story = "\n".join(self.story)
        return f"seed {self.seed}: {self.what}\n{story}\nagain: python -m tests.simulation --seed {self.seed}"


class World:
    """Time, chance and memory of one schedule."""

    def __init__(self, seed: int, salt: int = 0) -> None:
        self.seed = seed
        self.rng = random.Random(seed * 1_000 + salt)  # noqa: S311 - a replayable schedule
        self.now_ms = START_MS
        self.events = 0
        self.tally: Counter[str] = Counter()
        """How often what happened: each kind of fault, each transition."""
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
            if self.events > MOST_EVENTS:
                self.fail(f"busy with nothing: {self.events} events in {self.now_ms - START_MS} ms")
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

    def story(self, about: str | None = None) -> list[str]:
        """What is remembered, of `about` alone if it is given; the weather concerns everybody."""
        lines = [f"{at - START_MS:>8} ms  {what} {' '.join(map(str, rest))}" for at, what, rest in self._story]
        if about is not None:
            lines = [line for line in lines if about in line or "WEATHER" in line]
        return lines[-TOLD_LINES:]

    def fail(self, message: str, *, about: str | None = None) -> NoReturn:
        """The schedule broke a rule.

        Raises:
            ScheduleError: with the seed and the story, of `about` alone if it is given.
        """
        raise ScheduleError(self.seed, message, self.story(about))


class LocalClock:
    """The clock of one process: nobody sets it, it runs on while the process is stopped, and it is not exact.

    Args:
        rate: its seconds to a second of the world.
    """

    def __init__(self, world: World, rate: float) -> None:
        self._world, self._rate = world, rate

    def s(self) -> float:
        """Seconds; only differences mean anything."""
        return (self._world.now_ms - START_MS) * self._rate / 1000

    def ms(self) -> int:
        """The same in whole ms."""
        return int((self._world.now_ms - START_MS) * self._rate)

    def delay_ms(self, local_ms: float) -> int:
        """How long the world takes for so many ms of this clock; a timer is never early."""
        return max(int(local_ms / self._rate) + 1, 1)
