"""Waiting tasks and eligible agents by placement class: deciding never scans.

A placement class is everything that filters look at (`Needs`). Each class knows its waiting tasks in order (see
`lanes`), the agents that could run them, and which of those have room now. A class that cannot be placed costs
nothing: only those with both a task and an agent are `ready`.

Classes that nobody waits in are dropped, the longest unused first, beyond `IDLE_CLASSES`.
"""

import heapq
from collections.abc import Collection, Iterator
from typing import Final

from callboard.orchestrator.core.classes import Order, PlacementClass
from callboard.orchestrator.core.filters import mismatch
from callboard.orchestrator.core.keys import Keys
from callboard.orchestrator.core.lanes import Lane, Place, Strand
from callboard.orchestrator.core.model import Agent, Needs, Task
from callboard.schemas.vocabulary import TaskPriority

IDLE_CLASSES: Final = 256
_HIGHEST: Final = TaskPriority.CRITICAL.rank

WHOLE_POOL: Final = ""
"""Stands for all types of task where one may be paused."""


class Queue:
    """All placement classes of a pool, and the fleet as they see it.

    Args:
        ageing_ms: After so long a waiting task counts as one priority higher, and again; 0: never.
        window: How many waiting tasks memory holds, about, over all lanes.
        least_lane: How many a lane may hold however many lanes there are.
    """

    def __init__(self, ageing_ms: int = 0, *, window: int, least_lane: int) -> None:
        self._ageing_ms = ageing_ms
        self._window = window
        self._least_lane = least_lane
        self._now_ms = 0
        """The time by which tasks have aged: that of the last look at what is ready."""
        self.agents: dict[str, Agent] = {}
        self._classes: dict[Needs, PlacementClass] = {}
        self._idle: dict[Needs, PlacementClass] = {}
        """The classes in which nobody waits, the longest unused first."""
        self._classes_of: dict[str, set[PlacementClass]] = {}
        self._ready: list[tuple[Order, int, PlacementClass]] = []
        self._sequence = 0
        self._is_stalled = False
        """Whether the first ready lane is dry: nothing is placed before it was read."""
        self.paused: set[str] = set()
        self.keys = Keys()
        self._strands_of: dict[str, set[Strand]] = {}
        """By concurrency key."""
        self._keyed_strands = 0
        self.wanted: dict[Lane, None] = {}
        """Lanes to be read from the database, in the order in which they ran low."""

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
        """Whether `placement` stands among the ready ones, no later than its first task. Scans: for checks only."""
        lane = self._first(placement)
        if lane is None:
            return False
        wanted = self._order_in(lane)
        return any(order <= wanted and of is placement for order, _, of in self._ready)

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

    def strand_of(self, needs: Needs, key: str | None) -> Strand:
        """Where tasks with these needs and this concurrency key wait, made on first use."""
        placement = self.class_of(needs)
        if key is None:
            return placement.plain
        found = placement.keyed.get(key)
        if found is None:
            found = placement.keyed[key] = Strand(needs, key, self.keys.use_of(key))
            self._strands_of.setdefault(key, set()).add(found)
            self._keyed_strands += 1
            self._idle.pop(needs, None)
        return found

    @property
    def capacity(self) -> int:
        """How many tasks a lane is read up to; it may hold twice as many before it is cut."""
        strands = len(self._classes) - len(self._idle) + self._keyed_strands
        return max(self._window // max(strands, 1), self._least_lane)

    def push(self, task: Task) -> None:
        """Have a queued task wait for an agent."""
        lane = self.strand_of(task.needs, task.concurrency_key).lane(task.priority.rank)
        lane.push(task)
        # Behind others, and listed with them, it changes nothing for those who look at the first.
        if len(lane) == 1 or lane.listed is None or task.place < lane.listed:
            self.relist(lane)

    def relist(self, lane: Lane) -> None:
        """The lane's first place may have changed, or its tasks come back."""
        needs = lane.strand.needs
        self._idle.pop(needs, None)
        placement = self._classes[needs]
        placement.fronts[lane.rank].note(lane)
        self._mark_ready(placement)

    def remove(self, task: Task) -> None:
        """Have `task` wait no longer."""
        lane = self.lane_of(task)
        if lane is not None:
            lane.remove(task)
            if lane.edge is not None and 2 * len(lane) <= self.capacity:
                self.want(lane)
            self.drop_if_unused(lane.strand)

    def lane_of(self, task: Task) -> Lane | None:
        """The lane that a queued task waits in."""
        placement = self._classes.get(task.needs)
        if placement is None:
            return None
        key = task.concurrency_key
        strand = placement.plain if key is None else placement.keyed.get(key)
        return None if strand is None else strand.lanes.get(task.priority.rank)

    def want(self, lane: Lane) -> None:
        """Have the lane read, unless it is to be already."""
        if not lane.is_wanted:
            lane.is_wanted = True
            self.wanted[lane] = None

    def note_read(self, lane: Lane, edge: Place | None) -> None:
        """The lane was read: memory has all that waits before `edge`."""
        lane.note_read(edge)
        self._is_stalled = False
        self.relist(lane)
        self.drop_if_unused(lane.strand)

    def drop_if_unused(self, strand: Strand) -> None:
        """Forget a strand that nobody waits in; its class rests when it was the last."""
        if not strand.is_unused:
            return
        placement = self._classes.get(strand.needs)
        if placement is None:
            return
        key = strand.key
        if key is not None and placement.keyed.get(key) is strand:
            del placement.keyed[key]
            self._keyed_strands -= 1
            self._strands_of[key].remove(strand)
            self._settle_key(key)
        if placement.is_idle:
            self._rest(placement)

    # -- concurrency keys --------------------------------------------------------------------------------------------

    def add_limit(self, key: str, limit: int, tasks: int = 1) -> None:
        """`tasks` more live tasks have this key, with this limit."""
        self.keys.use_of(key).limits.add(limit, tasks)

    def remove_limit(self, key: str, limit: int) -> None:
        """One of them is final."""
        self.keys.use_of(key).limits.remove(limit)
        self._reopen(key)

    def hold_key(self, key: str) -> None:
        """One more attempt holds `key`."""
        self.keys.use_of(key).held += 1

    def release_key(self, key: str) -> None:
        """One fewer."""
        self.keys.use_of(key).held -= 1
        self._reopen(key)

    def _reopen(self, key: str) -> None:
        if self.keys.use_of(key).is_open:
            for strand in self._strands_of.get(key, ()):
                for lane in strand.lanes.values():
                    self.relist(lane)
        self._settle_key(key)

    def _settle_key(self, key: str) -> None:
        if not self._strands_of.get(key):
            self._strands_of.pop(key, None)
            self.keys.settle(key)

    # -- looking -----------------------------------------------------------------------------------------------------

    def position(self, task: Task) -> int | None:
        """The place of a waiting task in its strand, from 1; `None` when some of it waits in the database only.

        Scans its lanes: for explanations only.
        """
        lane = self.lane_of(task)
        if lane is None or not lane.strand.is_whole:
            return None
        order = self.order_of(task)
        return 1 + sum(self.order_of(other) < order for lane in lane.strand.lanes.values() for other in lane)

    def oldest_ms(self) -> int | None:
        """The smallest `order_ms` of the tasks that wait."""
        firsts = (lane.first() for placement in self._classes.values() for lane in placement.lanes)
        return min((place[0] for place in firsts if place is not None), default=None)

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

    # -- order -------------------------------------------------------------------------------------------------------

    def order_of(self, task: Task) -> Order:
        """The protocol's order, aged where that is wanted: counted from the same instant as the order itself."""
        return self._order(task.priority.rank, task.place)

    def _order_in(self, lane: Lane) -> Order:
        place = lane.first()
        assert place is not None  # noqa: S101 - a front gives no lane without one
        return self._order(lane.rank, place)

    def _order(self, rank: int, place: Place) -> Order:
        if self._ageing_ms:
            rank = min(rank + max(self._now_ms - place[0], 0) // self._ageing_ms, _HIGHEST)
        return (-rank, *place)

    def ready(self, most: int, now_ms: int) -> Iterator[tuple[Task, PlacementClass]]:
        """The first task that can be placed now, again and again, `most` of them.

        The caller takes each from the queue before it asks for the next, and asks until there is none: what is left
        is then listed for another time. Before a dry lane everything stops, until it was read: whatever comes after it
        in the order may not be placed before it.
        """
        if self._ageing_ms:
            self._age(now_ms)
        while self._ready and most > 0:
            order, _, placement = heapq.heappop(self._ready)
            if placement.marked == order:
                placement.marked = None
            lane = self._first(placement)
            if lane is None or not placement.free or self.is_paused(placement.needs.type):
                continue
            if self._order_in(lane) == order:
                task = lane.ready()
                if task is None:
                    self.want(lane)
                    self._mark_ready(placement)
                    self._is_stalled = True
                    return
                most -= 1
                yield task, placement
            self._mark_ready(placement)

    @property
    def has_ready(self) -> bool:
        """Whether there may be a task to place."""
        return bool(self._ready) and not self._is_stalled

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

    def _first(self, placement: PlacementClass) -> Lane | None:
        firsts = placement.firsts()
        return min(firsts, key=self._order_in, default=None) if self._ageing_ms else next(firsts, None)

    def _mark_ready(self, placement: PlacementClass) -> None:
        if not placement.free or (lane := self._first(placement)) is None:
            return
        order = self._order_in(lane)
        if placement.marked == order or (self.paused and self.is_paused(placement.needs.type)):
            return
        self._sequence += 1
        placement.marked = order
        self._is_stalled = False
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
