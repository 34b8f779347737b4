"""A new owner's start: the committed state of the pool becomes memory again.

Attempts that were offered are offered again, the same; what runs is left to run. No lease or limit of a held attempt
runs out before its agent had a full lease to be heard.
"""

import msgspec

from callboard.orchestrator.core.attempts import offer, watch_limits
from callboard.orchestrator.core.changes import AgentRow, Snapshot, StoredTask
from callboard.orchestrator.core.liveness import watch
from callboard.orchestrator.core.machine import Machine
from callboard.orchestrator.core.model import Agent, Task
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.tasks import task_of, watch_deadline
from callboard.orchestrator.core.timers import Clock
from callboard.schemas.tasks import TaskSpec
from callboard.schemas.vocabulary import AgentState, TaskState

_SPEC = msgspec.json.Decoder(TaskSpec)


def restore(machine: Machine, snapshot: Snapshot, now_ms: int) -> None:
    """Fill a new machine from what the database holds."""
    pool = machine.pool
    pool.observing_from_ms = now_ms
    for what in snapshot.pauses:
        pool.queue.set_paused(what, paused=True)
    for row in snapshot.agents:
        _restore_agent(pool, row, now_ms)
    for agent in pool.agents.values():
        # The interval depends on how many they are, so it is known only now.
        agent.interval_ms = pool.heartbeat_interval_ms
        if agent.liveness is AgentState.ONLINE:
            watch(pool, agent)
    for stored in snapshot.tasks:
        _restore_task(pool, stored, now_ms)


def _liveness(row: AgentRow) -> AgentState:
    """What to believe of an agent: who was there is there until a lease says otherwise."""
    if row.state is AgentState.STARTING:
        # Its process died with the replica that started it; what it was before, if anything, may still come back.
        return AgentState.STOPPED if row.incarnation is None else AgentState.OFFLINE
    return row.state if row.state in {AgentState.OFFLINE, AgentState.STOPPED} else AgentState.ONLINE


def _restore_agent(pool: Pool, row: AgentRow, now_ms: int) -> None:
    liveness = _liveness(row)
    is_gone = liveness is not AgentState.ONLINE
    agent = Agent(
        agent_id=row.agent_id,
        liveness=liveness,
        incarnation=row.incarnation,
        replaced=row.replaced,
        role=row.role,
        capabilities=frozenset(row.capabilities),
        labels=row.labels,
        metadata=row.metadata,
        slots=row.slots,
        version=row.version,
        operator_drain=row.operator_drain,
        own_drain=row.own_drain,
        # A spawned agent dies with the replica that started it; should it live, it is like any other now.
        spawned=False,
        seen_ms=row.seen_ms if is_gone else now_ms,
    )
    if row.state is AgentState.QUARANTINED:
        agent.quarantines = 1
        pool.timers.set(Clock.PROBE, agent.agent_id, now_ms + pool.settings.probe_after_ms)
    pool.queue.add(agent)
    if is_gone:
        pool.timers.set(Clock.FORGET, agent.agent_id, row.seen_ms + pool.settings.forget_agents_ms)


def _restore_task(pool: Pool, stored: StoredTask, now_ms: int) -> None:
    columns = stored.columns
    task = task_of(
        columns.task_id,
        _SPEC.decode(stored.spec),
        created_ms=stored.created_ms,
        order_ms=stored.order_ms,
        deadline_ms=stored.deadline_ms,
    )
    task.state = columns.state
    task.version = columns.version
    task.attempt = columns.attempt
    task.agent_id = columns.agent_id
    task.incarnation = columns.incarnation
    task.assigned_ms = columns.assigned_ms
    task.started_ms = columns.started_ms
    task.updated_ms = columns.updated_ms
    task.until_ms = columns.until_ms
    task.reason = columns.reason
    task.spent = columns.spent
    task.crashes = columns.crashes
    task.crashed_on = columns.crashed_on
    task.progress = columns.progress
    task.last_end = stored.last_end
    task.written = (task.state, task.attempt)
    pool.tasks[task.task_id] = task
    pool.counts[task.state] += 1
    watch_deadline(pool, task)
    if task.state is TaskState.QUEUED:
        pool.queue.push(task)
    elif task.state is TaskState.DEFERRED:
        pool.timers.set(Clock.DEFERRAL, task.task_id, task.until_ms or now_ms)
    else:
        _restore_attempt(pool, task, now_ms)


def _restore_attempt(pool: Pool, task: Task, now_ms: int) -> None:
    agent = pool.agent_of(task)
    if agent is not None:
        agent.holds[task.held] = task.state is TaskState.RUNNING
        pool.queue.update_room(agent)
    if task.state is TaskState.RUNNING:
        watch_limits(pool, task, now_ms)
    else:
        offer(pool, task, now_ms)
