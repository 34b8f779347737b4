"""Which tasks wait, in the orders in which they are read: what the database's indexes are to the store in memory.

A queue is read every moment, so it is kept sorted: to look through all tasks for each read would hold up the loop.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from typing import TYPE_CHECKING
from uuid import UUID

from callboard.schemas.vocabulary import WAITING_TASK_STATES, TaskState

if TYPE_CHECKING:
    from callboard.orchestrator.core.changes import AgendaRead, LaneRead, NewTask, TaskColumns

Place = tuple[int, str]
"""An instant in ms and a task id; ids are lower-case, so they sort as text like they do as numbers."""
Lane = tuple[str, str, int]
"""A pool, a placement class and a priority."""


class Waiting:
    """The places of the queued tasks in each lane, and of those that time will change in each pool's agenda."""

    def __init__(self) -> None:
        self._lanes: defaultdict[Lane, list[Place]] = defaultdict(list)
        self._agendas: defaultdict[str, list[Place]] = defaultdict(list)

    def add(self, pool: str, new: NewTask, columns: TaskColumns) -> None:
        """Enter a live task; one that does not wait has no place."""
        if columns.state is TaskState.QUEUED:
            insort(self._lanes[pool, new.placement, new.priority], (new.order_ms, new.task_id))
        instant_ms = _instant_ms(new, columns)
        if instant_ms is not None:
            insort(self._agendas[pool], (instant_ms, new.task_id))

    def remove(self, pool: str, new: NewTask, columns: TaskColumns) -> None:
        """Take out what `add` entered with the same columns."""
        if columns.state is TaskState.QUEUED:
            lane = (pool, new.placement, new.priority)
            _take(self._lanes[lane], (new.order_ms, new.task_id))
            if not self._lanes[lane]:
                del self._lanes[lane]
        instant_ms = _instant_ms(new, columns)
        if instant_ms is not None:
            _take(self._agendas[pool], (instant_ms, new.task_id))

    def heads(self, pool: str) -> list[str]:
        """The first task of each lane, in the queue's order."""
        firsts = [(-lane[2], *places[0]) for lane, places in self._lanes.items() if lane[0] == pool]
        return [task_id for _, _, task_id in sorted(firsts)]

    def lane(self, pool: str, read: LaneRead) -> list[str]:
        """The tasks of a lane from a place on."""
        places = self._lanes.get((pool, read.placement, read.priority), [])
        return _from(places, (read.from_ms, _id(read.from_id)), read.limit)

    def agenda(self, pool: str, read: AgendaRead) -> list[str]:
        """The tasks of a pool's agenda from a place on."""
        return _from(self._agendas.get(pool, []), (read.from_ms, _id(read.from_id)), read.limit)

    def queued_before(self, pool: str, placement: str, priority: int, place: Place) -> int:
        """How many queued tasks of a class come before a place in its lane of `priority`."""
        above = sum(
            len(places) for lane, places in self._lanes.items() if lane[:2] == (pool, placement) and lane[2] > priority
        )
        return above + bisect_left(self._lanes.get((pool, placement, priority), []), place)


def _instant_ms(new: NewTask, columns: TaskColumns) -> int | None:
    """When time changes a waiting task."""
    if columns.state not in WAITING_TASK_STATES:
        return None
    return min((ms for ms in (columns.until_ms, new.deadline_ms) if ms is not None), default=None)


def _take(places: list[Place], place: Place) -> None:
    del places[bisect_left(places, place)]


def _from(places: list[Place], start: Place, limit: int) -> list[str]:
    first = bisect_left(places, start)
    return [task_id for _, task_id in places[first : first + limit]]


def _id(text: str) -> str:
    """A task id as the database would read it: what is none must not work here either."""
    return str(UUID(text))
