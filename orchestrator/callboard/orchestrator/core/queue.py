"""Waiting tasks and eligible agents by placement class: deciding never scans.

A placement class is everything that filters look at (`Needs`). Each class knows its waiting tasks in order, the
agents that could run them, and which of those have room now. A class that cannot be placed costs nothing: only those
with both a task and an agent are `ready`.

Classes that nobody waits in are dropped, the longest unused first, beyond `IDLE_CLASSES`.
"""

import heapq
from collections.abc import Collection, Iterator
from typing import Final

from callboard.orchestrator.core.filters import mismatch
from callboard.orchestrator.core.model import Agent, Needs, Task
from callboard.orchestrator.core.sampling import SampleSet
from callboard.schemas.vocabulary import TaskPriority

IDLE_CLASSES: Final = 256
_COMPACT_FROM: Final = 64

Order = tuple[int, int, str]


class Lane:
    """The waiting tasks of one class and one priority, in order; removal is lazy, compaction bounds it."""

    __slots__ = ("_heap", "_waiting")

    def __init__(self) -> None:
        self._heap: list[Order] = []
        self._waiting: dict[str, Task] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._waiting.values())

    def push(self, task: Task) -> None:
        """Have `task` wait here."""
        self._waiting[task.task_id] = task
        heapq.heappush(self._heap, task.order)
        if len(self._heap) > 2 * len(self._waiting) + _COMPACT_FROM:
            self._heap = [waiting.order for waiting in self._waiting.values()]
            heapq.heapify(self._heap)

    def remove(self, task: Task) -> None:
        """Have `task` wait no longer, if it did."""
        self._waiting.pop(task.task_id, None)

    def head(self) -> Task | None:
        """The first waiting task."""
        while self._heap:
            task = self._waiting.get(self._heap[0][2])
            if task is not None:
                return task
            heapq.heappop(self._heap)
        return None


class PlacementClass:
    """The tasks of one class and the agents for them."""

    __slots__ = ("eligible", "free", "lanes", "marked", "needs")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.eligible: set[str] = set()
        self.free = SampleSet()
        self.lanes = tuple(Lane() for _ in TaskPriority)
        self.marked: Order | None = None
        """The order under which it stands in the queue's list of ready classes."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits here."""
        return not any(self.lanes)

    def head(self) -> Task | None:
        """The first waiting task: highest priority, then oldest."""
        for lane in reversed(self.lanes):
            if lane and (task := lane.head()) is not None:
                return task
        return None


WHOLE_POOL: Final = ""
"""Stands for all types of task where one may be paused."""


class Queue:
    """All placement classes of a pool, and the fleet as they see it."""

    def __init__(self) -> None:
        self.agents: dict[str, Agent] = {}
        self._classes: dict[Needs, PlacementClass] = {}
        self._idle: dict[Needs, PlacementClass] = {}
        """The classes in which nobody waits, the longest unused first."""
        self._classes_of: dict[str, set[PlacementClass]] = {}
        self._ready: list[tuple[Order, int, PlacementClass]] = []
        self._sequence = 0
        self.paused: set[str] = set()

    def is_paused(self, task_type: str) -> bool:
        """Whether no task of this type may be assigned."""
        return WHOLE_POOL in self.paused or task_type in self.paused

    def set_paused(self, what: str, *, paused: bool) -> bool:
        """Pause or resume a type of task, or the whole pool; whether that changed anything."""
        if (what in self.paused) is paused:
            return False
        if paused:
            self.paused.add(what)
        else:
            self.paused.remove(what)
            for placement in self._classes.values():
                self._mark_ready(placement)
        return True

    @property
    def classes(self) -> Collection[PlacementClass]:
        """Every class that is kept."""
        return self._classes.values()

    def is_listed(self, placement: PlacementClass) -> bool:
        """Whether `placement` stands among the ready ones under its first task. Scans: for checks only."""
        head = placement.head()
        return head is not None and any(order == head.order and of is placement for order, _, of in self._ready)

    def class_of(self, needs: Needs) -> PlacementClass:
        """The class of `needs`, made and filled on first use."""
        found = self._classes.get(needs)
        if found is None:
            found = self._classes[needs] = PlacementClass(needs)
            for agent in self.agents.values():
                self._enter(found, agent)
        if found.is_idle:
            self._rest(found)
        return found

    def push(self, task: Task) -> None:
        """Have a queued task wait for an agent."""
        placement = self.class_of(task.needs)
        placement.lanes[task.priority.rank].push(task)
        self._idle.pop(task.needs, None)
        self._mark_ready(placement)

    def remove(self, task: Task) -> None:
        """Have `task` wait no longer."""
        placement = self._classes.get(task.needs)
        if placement is not None:
            placement.lanes[task.priority.rank].remove(task)
            if placement.is_idle:
                self._rest(placement)

    def position(self, task: Task) -> int:
        """The place of a waiting task among those of its class, from 1. Scans its lane: for explanations only."""
        lanes = self.class_of(task.needs).lanes
        before = sum(len(lane) for lane in lanes[task.priority.rank + 1 :])
        return before + 1 + sum(other.order < task.order for other in lanes[task.priority.rank])

    def oldest_ms(self) -> int | None:
        """The smallest `order_ms` of the tasks that wait."""
        heads = (lane.head() for placement in self._classes.values() for lane in placement.lanes if lane)
        return min((task.order_ms for task in heads if task is not None), default=None)

    def is_satisfiable(self, needs: Needs) -> bool:
        """Whether any known agent, free or not, could ever take a task with `needs`."""
        return bool(self.class_of(needs).eligible)

    def add(self, agent: Agent) -> None:
        """Enter a new agent."""
        self.agents[agent.agent_id] = agent
        self._classes_of[agent.agent_id] = set()
        self.refit(agent)

    def refit(self, agent: Agent) -> None:
        """Enter an agent into every class anew: its role, capabilities or unsupported types changed."""
        agent.has_room = agent.obstacle is None
        for placement in self._classes.values():
            self._enter(placement, agent)

    def update_room(self, agent: Agent) -> None:
        """Tell the classes of an agent that may have got room, or lost it."""
        has_room = agent.obstacle is None
        if has_room == agent.has_room:
            return
        agent.has_room = has_room
        for placement in self._classes_of[agent.agent_id]:
            if has_room:
                placement.free.add(agent.agent_id)
                self._mark_ready(placement)
            else:
                placement.free.discard(agent.agent_id)

    def forget(self, agent: Agent) -> None:
        """Take an agent out of everything."""
        for placement in self._classes_of.pop(agent.agent_id):
            placement.eligible.discard(agent.agent_id)
            placement.free.discard(agent.agent_id)
        del self.agents[agent.agent_id]

    def ready(self, most: int) -> Iterator[tuple[Task, PlacementClass]]:
        """The first task that can be placed now, again and again, `most` of them.

        The caller takes each from the queue before it asks for the next, and asks until there is none: what is left
        is then listed for another time.
        """
        while self._ready and most > 0:
            order, _, placement = heapq.heappop(self._ready)
            if placement.marked == order:
                placement.marked = None
            head = placement.head()
            if head is None or not placement.free or self.is_paused(placement.needs.type):
                continue
            if head.order == order:
                most -= 1
                yield head, placement
            self._mark_ready(placement)

    @property
    def has_ready(self) -> bool:
        """Whether there may be a task to place."""
        return bool(self._ready)

    def _enter(self, placement: PlacementClass, agent: Agent) -> None:
        if mismatch(placement.needs, agent) is None:
            placement.eligible.add(agent.agent_id)
            self._classes_of[agent.agent_id].add(placement)
            if agent.has_room:
                placement.free.add(agent.agent_id)
                self._mark_ready(placement)
                return
        else:
            placement.eligible.discard(agent.agent_id)
            self._classes_of[agent.agent_id].discard(placement)
        placement.free.discard(agent.agent_id)

    def _mark_ready(self, placement: PlacementClass) -> None:
        head = placement.head()
        if head is None or not placement.free or placement.marked == head.order:
            return
        if self.paused and self.is_paused(placement.needs.type):
            return
        self._sequence += 1
        placement.marked = head.order
        heapq.heappush(self._ready, (head.order, self._sequence, placement))

    def _rest(self, placement: PlacementClass) -> None:
        """Note an idle class as just used; the longest unused one makes room."""
        self._idle.pop(placement.needs, None)
        self._idle[placement.needs] = placement
        if len(self._idle) > IDLE_CLASSES:
            dropped = self._idle.pop(next(iter(self._idle)))
            del self._classes[dropped.needs]
            for agent_id in dropped.eligible:
                self._classes_of[agent_id].discard(dropped)
