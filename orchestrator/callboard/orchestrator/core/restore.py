"""A new owner's start: the committed state of the pool becomes memory again.

Attempts that were offered are offered again, the same; what runs is left to run; an answer that its agent has not
acknowledged is sent again. No lease or limit of a held attempt
runs out before its agent had a full lease to be heard. Of what waits only the first of each lane is taken in: the
window reads the rest when it is wanted.
"""

from callboard.orchestrator.core import dialogues, holds, window
from callboard.orchestrator.core.attempts import offer, watch_limits
from callboard.orchestrator.core.changes import AgentRow, Snapshot, StoredTask
from callboard.orchestrator.core.liveness import watch
from callboard.orchestrator.core.machine import Machine
from callboard.orchestrator.core.model import Agent, Dialogue
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.specs import stored_task
from callboard.orchestrator.core.timers import Clock
from callboard.schemas.vocabulary import ACCEPTED_TASK_STATES, WAITING_TASK_STATES, AgentState, TaskState


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
    _restore_counts(pool, snapshot)
    for stored in snapshot.held:
        _restore_attempt(pool, stored, snapshot.dialogues.get(stored.columns.task_id), now_ms)
    for hold in snapshot.key_holds:
        holder = pool.agents.get(hold.agent_id)
        if holder is not None:
            holds.restore_lingering(pool, holder, hold)
    _restore_heads(pool, snapshot.heads, now_ms)
    window.begin(pool)


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


def _restore_counts(pool: Pool, snapshot: Snapshot) -> None:
    """Every waiting task is absent, until it is taken in."""
    for state, count in snapshot.counts.items():
        pool.counts[state] += count
        if state in WAITING_TASK_STATES:
            pool.absent.counts[state] += count
    for key, limit, tasks in snapshot.limits:
        pool.queue.add_limit(key, limit, tasks)


def _restore_heads(pool: Pool, heads: list[StoredTask], now_ms: int) -> None:
    """The first task of each lane; behind it others may wait."""
    for stored in heads:
        task = window.adopt(pool, stored, now_ms)
        lane = pool.queue.lane_of(task)
        assert lane is not None  # noqa: S101 - it was pushed there
        if pool.absent.counts[TaskState.QUEUED]:
            lane.note_absent(task.place)


def _restore_attempt(pool: Pool, stored: StoredTask, dialogue: Dialogue | None, now_ms: int) -> None:
    task = stored_task(stored)
    task.dialogue = dialogue
    pool.tasks[task.task_id] = task
    pool.watch_deadline(task)
    agent = pool.agent_of(task)
    if agent is not None:
        holds.take(pool, agent, task, accepted=task.state in ACCEPTED_TASK_STATES)
    if task.state is TaskState.ASSIGNED:
        offer(pool, task, now_ms)
        return
    if task.state is TaskState.RUNNING:
        watch_limits(pool, task, now_ms)
    dialogues.send_answer(pool, task, now_ms)
