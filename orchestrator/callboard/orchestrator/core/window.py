"""The window: which waiting tasks memory holds, so that a deep queue costs no more than a short one.

Rules:
- Of each lane memory holds the first tasks (see `lanes`); of those that wait for a time all that are due soon, and
  the others while they are few.
- A task leaves memory only when it is committed as it stands. It comes back by a read of its lane, by the agenda when
  time is about to change it, or because somebody asks for it.
- One read is under way at a time. What left memory meanwhile is not taken from it (see `absent`).
"""

from callboard.orchestrator.core.absent import AGENDA_START, AgendaPlace
from callboard.orchestrator.core.changes import AgendaRead, LaneRead, StoredTask, WindowAsked
from callboard.orchestrator.core.events import WindowRead
from callboard.orchestrator.core.lanes import Lane, Place
from callboard.orchestrator.core.model import Task
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.specs import placement_text, stored_task
from callboard.orchestrator.core.timers import Clock
from callboard.schemas.vocabulary import WAITING_TASK_STATES, TaskState

AGENDA_LEAD_MS = 2_000
"""How long before its instant a task is read: a read that takes longer makes it late."""
MOST_LANES = 64
"""Lanes in one read."""


def settle(pool: Pool, tasks: list[Task], now_ms: int) -> None:
    """These waiting tasks were written: those that need not be in memory leave it."""
    lanes: set[Lane] = set()
    for task in tasks:
        if not _may_leave(pool, task):
            continue
        if task.state is TaskState.QUEUED:
            lane = pool.queue.lane_of(task)
            assert lane is not None  # noqa: S101 - a queued task is in its lane
            if lane.edge is not None and task.place > lane.edge:
                _leave(pool, task)
            else:
                lanes.add(lane)
        elif pool.deferred_in_memory > pool.settings.window and (task.until_ms or 0) > now_ms + pool.settings.far_ms:
            _leave(pool, task)
    most = pool.queue.capacity
    for lane in lanes:
        if len(lane) > 2 * most:
            _cut(pool, lane, most)


def _may_leave(pool: Pool, task: Task) -> bool:
    is_known = pool.tasks.get(task.task_id) is task
    return is_known and task.state in WAITING_TASK_STATES and pool.is_committed(task.changed_in)


def _cut(pool: Pool, lane: Lane, most: int) -> None:
    """Keep the first `most` of a lane."""
    for task in sorted(lane, key=lambda task: task.place)[most:]:
        if _may_leave(pool, task):
            _leave(pool, task)


def _leave(pool: Pool, task: Task) -> None:
    """`task` waits in the database only, from now on."""
    del pool.tasks[task.task_id]
    pool.absent.counts[task.state] += 1
    pool.absent.departures.note(task.task_id)
    if task.state is TaskState.QUEUED:
        lane = pool.queue.lane_of(task)
        assert lane is not None  # noqa: S101 - a queued task is in its lane
        lane.note_absent(task.place)
        pool.queue.remove(task)
    instant = _instant(task)
    if instant is not None:
        pool.absent.agenda.note_absent((instant, task.task_id))
        watch_agenda(pool)
    pool.timers.clear(Clock.DEADLINE, task.task_id)
    pool.timers.clear(Clock.DEFERRAL, task.task_id)


def adopt(pool: Pool, stored: StoredTask, now_ms: int) -> Task:
    """Take a waiting task into memory as the database has it; the one that is there already stays."""
    task_id = stored.columns.task_id
    known = pool.tasks.get(task_id)
    if known is not None:
        return known
    task = stored_task(stored)
    pool.tasks[task_id] = task
    pool.absent.counts[task.state] -= 1
    pool.watch_deadline(task)
    if task.state is TaskState.QUEUED:
        pool.queue.push(task)
    else:
        pool.timers.set(Clock.DEFERRAL, task_id, task.until_ms or now_ms)
    return task


def begin(pool: Pool) -> None:
    """A new owner: any of the absent tasks may be changed by time soon."""
    if pool.absent.counts.total():
        pool.absent.agenda.note_absent(AGENDA_START)
        watch_agenda(pool)


def watch_agenda(pool: Pool) -> None:
    """Have the agenda read in time for the first absent task that time changes."""
    edge = pool.absent.agenda.edge
    if edge is None:
        pool.timers.clear(Clock.AGENDA, "")
    elif not pool.absent.agenda.is_wanted:
        pool.timers.set(Clock.AGENDA, "", edge[0] - AGENDA_LEAD_MS)


def on_agenda_due(pool: Pool) -> None:
    """An absent task may be changed by time soon."""
    pool.absent.agenda.is_wanted = True


def wanted_read(pool: Pool) -> WindowAsked | None:
    """What is to be read now, if anything is and no read is under way."""
    agenda = pool.absent.agenda
    if pool.reading is not None or not (pool.queue.wanted or agenda.is_wanted):
        return None
    most = pool.queue.capacity
    wanted = list(pool.queue.wanted)[:MOST_LANES]
    reads: list[LaneRead] = []
    for lane in wanted:
        del pool.queue.wanted[lane]
        reads.append(_lane_read(lane, most))
    agenda_read = None
    if agenda.is_wanted and agenda.edge is not None:
        agenda.note_asked()
        from_ms, from_id = agenda.edge
        agenda_read = AgendaRead(from_ms=from_ms, from_id=from_id, limit=most)
    pool.reading = tuple(wanted)
    pool.absent.departures.is_pinned = True
    return WindowAsked(lanes=tuple(reads), agenda=agenda_read, stamp=pool.absent.departures.count)


def _lane_read(lane: Lane, most: int) -> LaneRead:
    lane.low = None
    strand = lane.strand
    assert lane.edge is not None  # noqa: S101 - only what is absent is wanted
    from_ms, from_id = lane.edge
    return LaneRead(
        placement=placement_text(strand.needs, strand.key),
        priority=lane.rank,
        from_ms=from_ms,
        from_id=from_id,
        limit=most,
    )


def on_read(pool: Pool, event: WindowRead, now_ms: int) -> None:
    """What was read becomes memory, less what memory has seen since."""
    asked, lanes = event.asked, pool.reading or ()
    for lane, read, rows in zip(lanes, asked.lanes, event.lanes, strict=True):
        places = _taken(pool, rows, asked.stamp, now_ms)
        pool.queue.note_read(lane, places[-1] if len(places) == read.limit else None)
    if asked.agenda is not None:
        _taken(pool, event.agenda, asked.stamp, now_ms)
        pool.absent.agenda.note_read(_last_instant(event.agenda) if len(event.agenda) == asked.agenda.limit else None)
        watch_agenda(pool)
    pool.reading = None
    pool.absent.departures.is_pinned = False


def _taken(pool: Pool, rows: tuple[StoredTask, ...], stamp: int, now_ms: int) -> list[Place]:
    """Take in what is not outdated; the places of all rows."""
    for stored in rows:
        if not pool.absent.departures.since(stored.columns.task_id, stamp):
            adopt(pool, stored, now_ms)
    return [(stored.order_ms, stored.columns.task_id) for stored in rows]


def _last_instant(rows: tuple[StoredTask, ...]) -> AgendaPlace:
    last = rows[-1]
    instants = [at for at in (last.columns.until_ms, last.deadline_ms) if at is not None]
    return (min(instants), last.columns.task_id)


def _instant(task: Task) -> int | None:
    return min((at for at in (task.until_ms, task.deadline_ms) if at is not None), default=None)
