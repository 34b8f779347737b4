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
_HIGHEST: Final = TaskPriority.CRITICAL.rank

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

    def heads(self) -> Iterator[Task]:
        """The first waiting task of each priority, the highest first."""
        for lane in reversed(self.lanes):
            if lane and (task := lane.head()) is not None:
                yield task


WHOLE_POOL: Final = ""
"""Stands for all types of task where one may be paused."""


class Queue:
    """All placement classes of a pool, and the fleet as they see it.

    Args:
        ageing_ms: After so long a waiting task counts as one priority higher, and again; 0: never.
    """

    def __init__(self, ageing_ms: int = 0) -> None:
        self._ageing_ms = ageing_ms
        self._now_ms = 0
        """The time by which tasks have aged: that of the last look at what is ready."""
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
        head = self._head(placement)
        if head is None:
            return False
        wanted = self.order_of(head)
        return any(order == wanted and of is placement for order, _, of in self._ready)

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
        order = self.order_of(task)
        return 1 + sum(self.order_of(other) < order for lane in self.class_of(task.needs).lanes for other in lane)

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

    def order_of(self, task: Task) -> Order:
        """The protocol's order, aged where that is wanted: counted from the same instant as the order itself."""
        if not self._ageing_ms:
            return task.order
        risen = max(self._now_ms - task.order_ms, 0) // self._ageing_ms
        return (-min(task.priority.rank + risen, _HIGHEST), task.order_ms, task.task_id)

    def ready(self, most: int, now_ms: int) -> Iterator[tuple[Task, PlacementClass]]:
        """The first task that can be placed now, again and again, `most` of them.

        The caller takes each from the queue before it asks for the next, and asks until there is none: what is left
        is then listed for another time.
        """
        if self._ageing_ms:
            self._age(now_ms)
        while self._ready and most > 0:
            order, _, placement = heapq.heappop(self._ready)
            if placement.marked == order:
                placement.marked = None
            head = self._head(placement)
            if head is None or not placement.free or self.is_paused(placement.needs.type):
                continue
            if self.order_of(head) == order:
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

    def _age(self, now_ms: int) -> None:
        """List the ready classes anew, in the order of this moment: one entry for each, whatever waits in it."""
        self._now_ms = now_ms
        listed = dict.fromkeys(placement for _, _, placement in self._ready)
        self._ready.clear()
        for placement in listed:
            placement.marked = None
            self._mark_ready(placement)

    def _head(self, placement: PlacementClass) -> Task | None:
        heads = placement.heads()
        return min(heads, key=self.order_of, default=None) if self._ageing_ms else next(heads, None)

    def _mark_ready(self, placement: PlacementClass) -> None:
        head = self._head(placement)
        if head is None or not placement.free:
            return
        order = self.order_of(head)
        if placement.marked == order or (self.paused and self.is_paused(placement.needs.type)):
            return
        self._sequence += 1
        placement.marked = order
        heapq.heappush(self._ready, (order, self._sequence, placement))

    def _rest(self, placement: PlacementClass) -> None:
        """Note an idle class as just used; the longest unused one makes room."""
        self._idle.pop(placement.needs, None)
        self._idle[placement.needs] = placement
        if len(self._idle) > IDLE_CLASSES:
            dropped = self._idle.pop(next(iter(self._idle)))
            del self._classes[dropped.needs]
            for agent_id in dropped.eligible:
                self._classes_of[agent_id].discard(dropped)
