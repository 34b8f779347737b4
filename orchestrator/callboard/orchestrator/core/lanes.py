"""Waiting tasks in order: lanes of one priority, the strands they belong to, and the fronts that compare lanes.

Rules:
- A strand is what waits for the same agents and the same concurrency key. It has a lane for each priority in use.
- Memory holds the first tasks of a lane only. `edge` is a lower bound of those that wait in the database alone: what
  lies beyond it may not be placed before it was read whether something comes first. Without one, memory has them all.
- A lane whose first task is beyond its edge is dry: it stands in the order at its edge, and has nothing to give.
- A front holds the lanes of one placement class and one priority by their first places, those of full keys apart.
  Entries that do not hold any more are dropped when they come up; compaction bounds them.
"""

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Final

from callboard.orchestrator.core.keys import KeyUse
from callboard.orchestrator.core.model import Needs, Task

_COMPACT_FROM: Final = 64

Place = tuple[int, str]
"""`order_ms` and task id: the order within a priority."""


class Lane:
    """The waiting tasks of one strand and one priority, in order; removal is lazy, compaction bounds it."""

    __slots__ = ("_heap", "_waiting", "edge", "is_wanted", "listed", "low", "rank", "strand")

    def __init__(self, strand: "Strand", rank: int) -> None:
        self.strand = strand
        self.rank = rank
        self.edge: Place | None = None
        self.low: Place | None = None
        """The first place that left memory while the lane was being read."""
        self.is_wanted = False
        """Whether it is to be read, or being read."""
        self.listed: Place | None = None
        """The place under which it stands in its front."""
        self._heap: list[Place] = []
        self._waiting: dict[str, Task] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._waiting.values())

    @property
    def is_unused(self) -> bool:
        """Whether nothing waits here, in memory or elsewhere."""
        return not self._waiting and self.edge is None and not self.is_wanted

    def push(self, task: Task) -> None:
        """Have `task` wait here."""
        self._waiting[task.task_id] = task
        self.strand.waiting += 1
        heapq.heappush(self._heap, task.place)
        if len(self._heap) > 2 * len(self._waiting) + _COMPACT_FROM:
            self._heap = [waiting.place for waiting in self._waiting.values()]
            heapq.heapify(self._heap)

    def remove(self, task: Task) -> None:
        """Have `task` wait no longer, if it did."""
        if self._waiting.pop(task.task_id, None) is not None:
            self.strand.waiting -= 1

    def head(self) -> Task | None:
        """The first task in memory."""
        while self._heap:
            task = self._waiting.get(self._heap[0][1])
            if task is not None:
                return task
            heapq.heappop(self._heap)
        return None

    def ready(self) -> Task | None:
        """The first task, unless one that is not in memory may come before it."""
        head = self.head()
        return head if head is not None and (self.edge is None or head.place <= self.edge) else None

    def first(self) -> Place | None:
        """Where the lane stands in the order."""
        task = self.ready()
        return self.edge if task is None else task.place

    def note_absent(self, place: Place) -> None:
        """A task of this place waits in the database only."""
        self.edge = place if self.edge is None else min(self.edge, place)
        self.low = place if self.low is None else min(self.low, place)

    def note_read(self, edge: Place | None) -> None:
        """All that wait before `edge` are in memory, those excepted that have left it meanwhile."""
        known = [place for place in (edge, self.low) if place is not None]
        self.edge = min(known, default=None)
        self.low = None
        self.is_wanted = False


class Strand:
    """The lanes of one placement class and one concurrency key (`None`: those without any)."""

    __slots__ = ("key", "lanes", "needs", "use", "waiting")

    def __init__(self, needs: Needs, key: str | None, use: KeyUse | None) -> None:
        self.needs = needs
        self.key = key
        self.use = use
        self.lanes: dict[int, Lane] = {}
        self.waiting = 0
        """Tasks in memory, over all lanes."""

    @property
    def is_open(self) -> bool:
        """Whether the key allows one more attempt."""
        return self.use is None or self.use.is_open

    @property
    def is_unused(self) -> bool:
        """Whether nothing waits here."""
        return not self.waiting and all(lane.is_unused for lane in self.lanes.values())

    @property
    def is_whole(self) -> bool:
        """Whether memory has all that waits here."""
        return all(lane.edge is None for lane in self.lanes.values())

    def lane(self, rank: int) -> Lane:
        """The lane of a priority, made on first use."""
        found = self.lanes.get(rank)
        if found is None:
            found = self.lanes[rank] = Lane(self, rank)
        return found


class Front:
    """The lanes of one class and priority that may give a task, by their first places."""

    __slots__ = ("_compact_at", "_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[Place, int, Lane]] = []
        self._sequence = count()
        self._compact_at = _COMPACT_FROM

    def note(self, lane: Lane) -> None:
        """`lane` may have a new first place, or its key room."""
        place = lane.first() if lane.strand.is_open else None
        if place is None or lane.listed == place:
            return
        lane.listed = place
        heapq.heappush(self._heap, (place, next(self._sequence), lane))
        if len(self._heap) > self._compact_at:
            self._heap = list({entry[2]: entry for entry in self._heap if entry[2].listed == entry[0]}.values())
            heapq.heapify(self._heap)
            self._compact_at = 2 * len(self._heap) + _COMPACT_FROM

    def first(self) -> Lane | None:
        """The lane that comes first."""
        while self._heap:
            place, _, lane = self._heap[0]
            if lane.listed == place:
                if lane.strand.is_open and lane.first() == place:
                    return lane
                lane.listed = None
                heapq.heappop(self._heap)
                self.note(lane)
            else:
                heapq.heappop(self._heap)
        return None
