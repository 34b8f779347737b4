"""What is true of a pool between any two events. Tests check it after each one; production code never does.

Every rule is recomputed plainly from the records, so that an index, a counter or a timer that drifted is found where
it drifted and not where it is missed. `check` raises at the first violation, with its story.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Final

from msgspec import UNSET

from callboard.orchestrator.core.filters import mismatch
from callboard.orchestrator.core.model import Agent, Task
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.timers import TASK_CLOCKS, Clock
from callboard.schemas.vocabulary import (
    ACCEPTED_TASK_STATES,
    HELD_TASK_STATES,
    WAITING_TASK_STATES,
    AgentState,
    TaskState,
)

_PRESENT: Final = frozenset({AgentState.ONLINE, AgentState.SUSPECT})
_GONE: Final = frozenset({AgentState.OFFLINE, AgentState.STOPPED})


class BrokenInvariantError(Exception):
    """Something that is always true is not: a bug of ours."""


def check(pool: Pool, *, shrunk: Collection[str] = ()) -> None:
    """Check every rule.

    Args:
        pool: between two events.
        shrunk: agents that registered with fewer slots than they held attempts; those may hold too many.

    Raises:
        BrokenInvariantError: with the story.
    """
    for rule in _RULES:
        for story in rule(pool):
            raise BrokenInvariantError(f"{(rule.__doc__ or '').partition('.')[0]}: {story}")
    for agent in pool.agents.values():
        held = sum(_is_current(pool, agent, task_id, attempt) for task_id, attempt in agent.holds)
        if held > agent.slots and agent.agent_id not in shrunk:
            raise BrokenInvariantError(f"slots are never over-committed: {held} attempts in {_agent(agent)}")


def _held_by_its_agent(pool: Pool) -> Iterator[str]:
    """A held attempt occupies a slot of its agent, under that agent's incarnation."""
    for task in pool.tasks.values():
        if task.state not in HELD_TASK_STATES:
            continue
        agent = pool.agent_of(task)
        if agent is None or task.held not in agent.holds:
            yield f"{_task(task)} is in nobody's slots"
        elif agent.incarnation != task.incarnation:
            yield f"{_task(task)} is of incarnation {task.incarnation}, {_agent(agent)} of {agent.incarnation}"
        elif agent.holds[task.held] != (task.state in ACCEPTED_TASK_STATES):
            yield f"{_task(task)} is accepted or not, {_agent(agent)} says the opposite"
        elif agent.liveness not in _PRESENT:
            yield f"{_task(task)} is held by {_agent(agent)}"


def _columns_fit_the_state(pool: Pool) -> Iterator[str]:
    """What a task carries fits its state."""
    for task in pool.tasks.values():
        owner = (task.agent_id, task.incarnation, task.assigned_ms)
        if task.state in HELD_TASK_STATES and None in owner:
            yield f"{_task(task)} is held, by {owner}"
        if task.state in WAITING_TASK_STATES and any(part is not None for part in owner):
            yield f"{_task(task)} waits, and has {owner}"
        if (task.state is TaskState.DEFERRED) != (task.until_ms is not None):
            yield f"{_task(task)} has until {task.until_ms}"
        if task.state in HELD_TASK_STATES and (task.state in ACCEPTED_TASK_STATES) != (task.started_ms is not None):
            yield f"{_task(task)} started at {task.started_ms}"
        if (task.state is TaskState.SUCCEEDED) != (task.result is not None):
            yield f"{_task(task)} has result {task.result!r}"
        if task.state is TaskState.SUCCEEDED and task.error is not None:
            yield f"{_task(task)} has {task.error}"


def _dialogues_fit_the_state(pool: Pool) -> Iterator[str]:
    """A task waits for input exactly while the question of its current attempt is open, and is answered once."""
    for task in pool.tasks.values():
        dialogue = task.dialogue
        if (task.state is TaskState.WAITING_INPUT) != (dialogue is not None and dialogue.is_open):
            yield f"{_task(task)} has {dialogue}"
        if dialogue is None:
            continue
        if task.state not in ACCEPTED_TASK_STATES or dialogue.attempt != task.attempt:
            yield f"{_task(task)} is asked for another attempt: {dialogue}"
        if dialogue.is_open and dialogue.answer is not UNSET:
            yield f"{_task(task)} waits for an answer that it has: {dialogue}"


def _budgets_hold(pool: Pool) -> Iterator[str]:
    """Attempts are spent within the budget, and crashes are among them."""
    for task in pool.tasks.values():
        if task.spent > task.max_attempts or (task.spent == task.max_attempts and not task.state.is_final):
            # What was spent last may be followed by nothing but an end; a task that is done spent it in time.
            yield f"{_task(task)} spent {task.spent} of {task.max_attempts}"
        if not len(task.crashed_on) <= task.crashes <= task.spent <= task.attempt:
            yield f"{_task(task)}: crashes {task.crashes} on {task.crashed_on}, spent {task.spent}"


def _queued_in_one_lane(pool: Pool) -> Iterator[str]:
    """A queued task is in one lane, its own, and nobody else is in any."""
    places = Counter(
        (task.task_id, placement.needs, lane.strand.key, lane.rank)
        for placement in pool.queue.classes
        for lane in placement.lanes
        for task in lane
    )
    wanted = Counter(
        (task.task_id, task.needs, task.concurrency_key, task.priority.rank)
        for task in pool.tasks.values()
        if task.state is TaskState.QUEUED
    )
    if places != wanted:
        yield f"too many {places - wanted}, too few {wanted - places}"
    for placement in pool.queue.classes:
        for lane in placement.lanes:
            first, head = min((task.order for task in lane), default=None), lane.head()
            if first != (None if head is None else head.order):
                yield f"{head} is first in a lane where {first} should be"


def _index_is_complete(pool: Pool) -> Iterator[str]:
    """The index of eligible and free agents is what the filters say of every agent."""
    for agent in pool.agents.values():
        if agent.has_room != (agent.obstacle is None):
            yield f"has_room is {agent.has_room} for {_agent(agent)}"
    for placement in pool.queue.classes:
        eligible = {a.agent_id for a in pool.agents.values() if mismatch(placement.needs, a) is None}
        if placement.eligible != eligible:
            yield f"eligible for {placement.needs}: {sorted(placement.eligible ^ eligible)} differ"
        free = {agent_id for agent_id in eligible if pool.agents[agent_id].has_room}
        if set(placement.free) != free:
            yield f"free for {placement.needs}: {sorted(set(placement.free) ^ free)} differ"
        paused = pool.queue.is_paused(placement.needs.type)
        if free and not paused and next(placement.firsts(), None) is not None and not pool.queue.is_listed(placement):
            yield f"{placement.needs} has tasks and free agents, and is not listed as ready"


def _timers_fit_the_states(pool: Pool) -> Iterator[str]:
    """Exactly the timers run that the states need."""
    wanted = {key for task in pool.tasks.values() for key in _task_timers(task)}
    found = {key for key in pool.timers if key[0] in TASK_CLOCKS}
    if wanted != found:
        yield f"missing {sorted(wanted - found)}, left over {sorted(found - wanted)}"
    for agent in pool.agents.values():
        for clock, needed in (
            (Clock.LIVENESS, agent.liveness in _PRESENT),
            (Clock.FORGET, agent.liveness in _GONE),
            (Clock.SKIP, agent.skip_until_ms > 0),
            (Clock.GRACE, agent.stopping),
            (Clock.PROBE, agent.quarantines > 0 and not agent.is_probed),
        ):
            if needed and not pool.timers.is_set(clock, agent.agent_id):
                yield f"no {clock.name} for {_agent(agent)}"
    waits = any(pool.lazy) or (bool(pool.dirty_dialogues) and not pool.is_urgent)
    if waits and not pool.timers.is_set(Clock.FLUSH, ""):
        yield "what waits to be written has no flush"


def _task_timers(task: Task) -> Iterator[tuple[Clock, str]]:
    if task.state is TaskState.DEFERRED:
        yield (Clock.DEFERRAL, task.task_id)
    if task.deadline_ms is not None and not task.state.is_final:
        yield (Clock.DEADLINE, task.task_id)
    if task.state is TaskState.ASSIGNED:
        yield (Clock.OFFER, task.task_id)
    if task.state is TaskState.RUNNING and task.run_timeout_ms is not None:
        yield (Clock.RUN_LIMIT, task.task_id)
    if task.state is TaskState.RUNNING and task.progress_timeout_ms is not None:
        yield (Clock.PROGRESS_LIMIT, task.task_id)
    if task.dialogue is not None and task.dialogue.answer is not UNSET:
        yield (Clock.ANSWER, task.task_id)


def _counts_match(pool: Pool) -> Iterator[str]:
    """The counts by state are those of the tasks."""
    found = Counter(task.state for task in pool.tasks.values())
    found.update(pool.absent.counts)
    for state, count in pool.counts.items():
        # Final ones are counted for ever, and leave memory.
        if count != found[state] if not state.is_final else count < found[state]:
            yield f"{state}: counted {count}, found {found[state]}"


def _nothing_is_unwritten(pool: Pool) -> Iterator[str]:
    """What differs from its row is in the batch being decided, with the row's guard, or waits to be."""
    for task in pool.tasks.values():
        is_dirty = task.task_id in pool.dirty
        if (task.written is None) != (task.task_id in pool.new):
            yield f"{_task(task)} is inserted or not, written {task.written}"
        is_written = task.written == (task.state, task.attempt) and not task.unwritten_ends
        if not (is_dirty or is_written or task.task_id in pool.unsaid):
            yield f"{_task(task)} will not be written, last {task.written}"
        if task.written is not None and task.written[0].is_final and is_dirty:
            yield f"{_task(task)} is written again after its end"
        if is_dirty and task.changed_in != pool.number:
            yield f"{_task(task)} is to be written, and says batch {task.changed_in}"
    for task_id, task in pool.dirty.items():
        if pool.tasks.get(task_id) is not task:
            yield f"{_task(task)} is to be written, and unknown"


def _what_waits_is_known(pool: Pool) -> Iterator[str]:
    """What waits to be written is in no batch, and is of a live task; what waits to be told waits with its row."""
    lazy = set(pool.lazy)
    for task_id in lazy & pool.dirty.keys():
        yield f"task {task_id} is to be written, and waits to be"
    for task_id in lazy - pool.tasks.keys():
        yield f"task {task_id} waits to be written, and is unknown"
    for task_id in pool.unsaid.keys() - lazy:
        yield f"task {task_id} has something to be told, and does not wait to be written"
    for task_id in pool.unsaid.keys() & pool.tasks.keys():
        task = pool.tasks[task_id]
        if (task.state, task.written) != (TaskState.RUNNING, (TaskState.ASSIGNED, task.attempt)):
            yield f"{_task(task)} has something to be told, last written {task.written}"


def _final_ones_leave(pool: Pool) -> Iterator[str]:
    """A final task leaves memory with the commit of its end."""
    open_ends = {task.task_id for number, tasks in pool.ending.items() if number > pool.committed for task in tasks}
    for task in pool.tasks.values():
        if task.state.is_final and task.task_id not in open_ends and task.task_id not in pool.dirty:
            yield f"{_task(task)} is still here"
    if any(number <= pool.committed for number in pool.ending):
        yield f"batches {sorted(pool.ending)} are kept, {pool.committed} is committed"


def _keys_are_counted(pool: Pool) -> Iterator[str]:
    """A key is held by the attempts that occupy slots, within its limit, and limited by the tasks that are alive."""
    held = Counter(pool.keyed.values())
    for agent_id, task_id, attempt in pool.keyed:
        agent = pool.agents.get(agent_id)
        if agent is None or (task_id, attempt) not in agent.holds:
            yield f"{agent_id} counts for a key with {task_id}/{attempt}, and not for a slot"
    for task in pool.tasks.values():
        key = task.concurrency_key
        if key is None:
            continue
        if task.state in HELD_TASK_STATES and pool.keyed.get((task.agent_id or "", *task.held)) != key:
            yield f"{_task(task)} does not count for {key}"
        use = pool.queue.keys.find(key)
        if not task.state.is_final and (use is None or (use.limits.lowest() or 0) > task.concurrency_limit):
            yield f"{_task(task)} has limit {task.concurrency_limit} of {key}, which is not known"
        if use is not None and use.held != held[key]:
            yield f"{key} is held {use.held} times, by {held[key]} attempts"
    for place, hold in pool.written_holds.items():
        if pool.keyed.get(place) != hold.key:
            yield f"{hold} is written, and counts no more"


def _window_is_bounded(pool: Pool) -> Iterator[str]:
    """What is absent has an edge, and what has an edge is read when it runs low."""
    edges = [lane for placement in pool.queue.classes for lane in placement.lanes if lane.edge is not None]
    if pool.absent.counts[TaskState.QUEUED] and not edges:
        yield f"{pool.absent.counts} are absent, and no lane knows"
    if any(count < 0 for count in pool.absent.counts.values()):
        yield f"{pool.absent.counts} are absent"
    for lane in pool.queue.wanted:
        if not lane.is_wanted or lane.edge is None:
            yield f"a lane of {lane.strand.needs} is to be read from {lane.edge}"


_RULES: Final[tuple[Callable[[Pool], Iterator[str]], ...]] = (
    _held_by_its_agent,
    _columns_fit_the_state,
    _dialogues_fit_the_state,
    _budgets_hold,
    _queued_in_one_lane,
    _index_is_complete,
    _timers_fit_the_states,
    _counts_match,
    _nothing_is_unwritten,
    _what_waits_is_known,
    _final_ones_leave,
    _keys_are_counted,
    _window_is_bounded,
)


def _is_current(pool: Pool, agent: Agent, task_id: str, attempt: int) -> bool:
    task = pool.tasks.get(task_id)
    return (
        task is not None
        and task.state in HELD_TASK_STATES
        and (task.attempt, task.agent_id) == (attempt, agent.agent_id)
    )


def _task(task: Task) -> str:
    return f"task {task.task_id} ({task.state}, attempt {task.attempt} of {task.agent_id}, version {task.version})"


def _agent(agent: Agent) -> str:
    holds = ", ".join(f"{task_id}/{attempt}" for task_id, attempt in agent.holds)
    return f"agent {agent.agent_id} ({agent.state}, {agent.slots} slots, holds {holds or 'nothing'})"
