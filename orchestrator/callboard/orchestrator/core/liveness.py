"""Agents as their messages and their silence show them: register, heartbeat, leave, suspicion, lease.

No expiry without observation: after a take-over, or the return of database or bus, every lease begins anew.
"""

from callboard.orchestrator.core import health, holds
from callboard.orchestrator.core.attempts import current, undeliver
from callboard.orchestrator.core.effects import Answer, Refuse
from callboard.orchestrator.core.events import (
    AgentLeft,
    AgentRegistered,
    AgentSpawned,
    HeartbeatReceived,
    SpawnAbandoned,
)
from callboard.orchestrator.core.listing import listed_by, reconcile, unwanted
from callboard.orchestrator.core.model import Agent
from callboard.orchestrator.core.moves import end_attempt
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.presence import announce, set_liveness
from callboard.orchestrator.core.timers import AGENT_CLOCKS, Clock
from callboard.schemas.agents import HeartbeatAnswer, Register, RegisterAnswer
from callboard.schemas.base import Nothing
from callboard.schemas.errors import IncarnationReplacedError, ResourceLimitError, UnknownIncarnationError
from callboard.schemas.limits import REMEMBERED_INCARNATIONS
from callboard.schemas.times import to_instant
from callboard.schemas.vocabulary import AgentState, DatabaseHealth, Outcome, TaskState

S = AgentState


def on_spawned(pool: Pool, event: AgentSpawned, now_ms: int) -> None:
    """A process was started: the agent is known, and silent yet."""
    agent = pool.agents.get(event.agent_id)
    if agent is None:
        agent = Agent(agent_id=event.agent_id, liveness=S.STARTING, spawned=True, seen_ms=now_ms)
        pool.queue.add(agent)
    pool.timers.clear(Clock.FORGET, agent.agent_id)
    agent.spawned = True
    agent.stopping = False
    if agent.liveness in {S.STOPPED, S.OFFLINE}:
        set_liveness(pool, agent, S.STARTING, now_ms)
    else:
        announce(pool, agent, now_ms)


def on_spawn_abandoned(pool: Pool, event: SpawnAbandoned, now_ms: int) -> None:
    """The process is gone for good, and with it what it held; one that never registered leaves no trace."""
    agent = pool.agents.get(event.agent_id)
    if agent is None or agent.liveness is S.STOPPED:
        return
    if agent.incarnation is None and not agent.replaced and not agent.operator_drain:
        forget(pool, agent)
        return
    lose_attempts(pool, agent, now_ms, "process ended")
    stop(pool, agent, now_ms, reason="process ended")


def on_registered(pool: Pool, event: AgentRegistered, now_ms: int) -> None:
    """An agent signs in; a new incarnation replaces the old one at once."""
    message = event.message
    agent = pool.agents.get(event.agent_id)
    if agent is None:
        if len(pool.agents) >= pool.settings.max_agents and not _make_room(pool):
            limit = pool.settings.max_agents
            error = ResourceLimitError(f"{limit} agents are registered", retry_after_ms=5_000, limit=limit)
            pool.at_once.append(Refuse(event.ticket, error))
            return
        agent = Agent(agent_id=event.agent_id, liveness=S.STARTING)
        pool.queue.add(agent)
    if message.incarnation in agent.replaced:
        pool.refuse(event.ticket, IncarnationReplacedError())
        return
    is_new = agent.incarnation != message.incarnation
    if is_new:
        # What the process before has reported, this one may take for unfinished.
        agent.reported.clear()
    listed = listed_by(agent, message.running or ())
    if is_new:
        _replace(pool, agent, message.incarnation, listed, now_ms)
    _describe(agent, message)
    agent.seen_ms = now_ms
    pool.timers.clear(Clock.FORGET, agent.agent_id)
    pool.queue.refit(agent)
    if agent.liveness is not S.ONLINE:
        set_liveness(pool, agent, S.ONLINE, now_ms)
    elif is_new:
        # It was back before anybody missed it; who started it waits to hear of this one.
        announce(pool, agent, now_ms, reason="a new process")
    if message.running is not None:
        reconcile(pool, agent, listed, now_ms)
    pool.touch_agent(agent)
    _dictate(pool, agent)
    pool.answer(
        event.ticket,
        RegisterAnswer(
            agent_id=agent.agent_id,
            pool=pool.name,
            epoch=pool.epoch,
            heartbeat_interval_ms=agent.interval_ms,
            lease_ms=agent.interval_ms * pool.settings.lease_intervals,
            cancel=unwanted(pool, agent, listed),
            drain=agent.operator_drain or agent.stopping,
            server_time=to_instant(now_ms),
        ),
    )


def _make_room(pool: Pool) -> bool:
    """Forget the agent that is gone the longest, so that those who come and go do not use up the limit."""
    gone = [agent for agent in pool.agents.values() if agent.liveness in {S.OFFLINE, S.STOPPED}]
    if not gone:
        return False
    on_forget(pool, min(gone, key=lambda agent: agent.seen_ms))
    return True


def _replace(pool: Pool, agent: Agent, incarnation: str, listed: list[tuple[str, int]], now_ms: int) -> None:
    """A new process has this id: it keeps the current attempts that it claims; the others are lost with the old one."""
    if agent.incarnation is not None:
        agent.replaced = (*agent.replaced, agent.incarnation)[-REMEMBERED_INCARNATIONS:]
    agent.incarnation = incarnation
    if agent.stopping:
        # The shutdown was meant for the process that is gone, and so was its grace.
        agent.stopping = False
        pool.timers.clear(Clock.GRACE, agent.agent_id)
    agent.seq = -1
    agent.skip_until_ms = 0
    agent.unsupported.clear()
    health.probe(pool, agent)
    claimed = set(listed)
    for held in list(agent.holds):
        task = current(pool, agent.agent_id, held)
        if task is not None and held in claimed:
            task.incarnation = incarnation
            pool.touch(task)
        elif task is not None:
            outcome = Outcome.UNDELIVERED if task.state is TaskState.ASSIGNED else Outcome.CRASHED
            end_attempt(pool, task, outcome, now_ms, reason="incarnation replaced")
    holds.keep_only(pool, agent, listed)


def _describe(agent: Agent, message: Register) -> None:
    agent.role = message.role
    agent.capabilities = frozenset(message.capabilities or ())
    agent.labels = message.labels or {}
    agent.metadata = message.metadata or {}
    agent.slots = message.slots or 1
    agent.version = message.version
    agent.own_drain = message.draining or False
    agent.batches = message.batches or False


def _dictate(pool: Pool, agent: Agent) -> None:
    """Fix the interval that the answer tells, and watch by it."""
    agent.interval_ms = pool.heartbeat_interval_ms
    watch(pool, agent)


def watch(pool: Pool, agent: Agent) -> None:
    """Wait for the agent's next sign of life."""
    if not pool.timers.is_set(Clock.LIVENESS, agent.agent_id):
        pool.timers.set(Clock.LIVENESS, agent.agent_id, agent.seen_ms + agent.interval_ms * 3 // 2)


def on_heartbeat(pool: Pool, event: HeartbeatReceived, now_ms: int) -> None:
    """A sign of life; answered at once, from committed state."""
    message = event.message
    agent = pool.agents.get(event.agent_id)
    if agent is None or agent.incarnation != message.incarnation:
        replaced = agent is not None and message.incarnation in agent.replaced
        pool.at_once.append(Refuse(event.ticket, IncarnationReplacedError() if replaced else UnknownIncarnationError()))
        return
    listed = listed_by(agent, message.running)
    if message.seq > agent.seq:
        agent.seq = message.seq
        agent.seen_ms = now_ms
        agent.batches = message.batches or False
        if message.draining is not None and message.draining != agent.own_drain:
            agent.own_drain = message.draining
            pool.touch_agent(agent)
            announce(pool, agent, now_ms)
        if agent.liveness is not S.ONLINE:
            if agent.liveness is S.OFFLINE:
                pool.timers.clear(Clock.FORGET, agent.agent_id)
                pool.touch_agent(agent)
            set_liveness(pool, agent, S.ONLINE, now_ms)
        reconcile(pool, agent, listed, now_ms)
        _dictate(pool, agent)
    pool.at_once.append(
        Answer(
            event.ticket,
            HeartbeatAnswer(
                epoch=pool.epoch,
                heartbeat_interval_ms=agent.interval_ms,
                lease_ms=agent.interval_ms * pool.settings.lease_intervals,
                cancel=unwanted(pool, agent, listed),
                drain=(agent.operator_drain or agent.stopping) and pool.is_committed(agent.changed_in),
                database=DatabaseHealth.OK,
            ),
        )
    )


def on_silence(pool: Pool, agent: Agent, now_ms: int) -> None:
    """The agent's next sign of life may be overdue: suspect it, then let its lease run out."""
    if agent.liveness not in {S.ONLINE, S.SUSPECT}:
        return
    heard_ms = max(agent.seen_ms, pool.observing_from_ms)
    suspect_ms = heard_ms + agent.interval_ms * 3 // 2
    offline_ms = heard_ms + agent.interval_ms * pool.settings.lease_intervals
    if now_ms >= offline_ms:
        lose_attempts(pool, agent, now_ms, "lease over")
        holds.release_keys(pool, agent)
        set_liveness(pool, agent, S.OFFLINE, now_ms, reason="lease over")
        pool.touch_agent(agent)
        pool.timers.set(Clock.FORGET, agent.agent_id, now_ms + pool.settings.forget_agents_ms)
        return
    if now_ms >= suspect_ms and agent.liveness is S.ONLINE:
        set_liveness(pool, agent, S.SUSPECT, now_ms, reason="silent")
    pool.timers.set(Clock.LIVENESS, agent.agent_id, offline_ms if now_ms >= suspect_ms else suspect_ms)


def lose_attempts(pool: Pool, agent: Agent, now_ms: int, reason: str) -> None:
    """The agent died, as far as one can tell: what it ran is crashed, what it never accepted was never delivered."""
    for held in list(agent.holds):
        task = current(pool, agent.agent_id, held)
        if task is not None and task.state is TaskState.ASSIGNED:
            undeliver(pool, task, now_ms)
        elif task is not None:
            end_attempt(pool, task, Outcome.CRASHED, now_ms, reason=reason)


def on_left(pool: Pool, event: AgentLeft, now_ms: int) -> None:
    """A clean goodbye: what the agent held is released."""
    agent = pool.agents.get(event.agent_id)
    if agent is not None and event.incarnation in agent.replaced:
        # It is gone already, by an earlier goodbye perhaps whose answer was lost: asked again, the same answer.
        pool.answer(event.ticket, Nothing())
        return
    if agent is None or agent.incarnation != event.incarnation:
        pool.refuse(event.ticket, UnknownIncarnationError())
        return
    release_attempts(pool, agent, now_ms, "agent left")
    stop(pool, agent, now_ms, reason=event.reason)
    pool.answer(event.ticket, Nothing())


def release_attempts(pool: Pool, agent: Agent, now_ms: int, reason: str) -> None:
    """Requeue what the agent holds, free of cost."""
    for held in list(agent.holds):
        task = current(pool, agent.agent_id, held)
        if task is not None:
            end_attempt(pool, task, Outcome.RELEASED, now_ms, reason=reason)


def stop(pool: Pool, agent: Agent, now_ms: int, *, reason: str | None) -> None:
    """The agent is gone, and known to be."""
    holds.keep_only(pool, agent, ())
    if agent.incarnation is not None:
        agent.replaced = (*agent.replaced, agent.incarnation)[-REMEMBERED_INCARNATIONS:]
    agent.incarnation = None
    agent.stopping = False
    pool.timers.clear(Clock.LIVENESS, agent.agent_id)
    pool.timers.clear(Clock.GRACE, agent.agent_id)
    set_liveness(pool, agent, S.STOPPED, now_ms, reason=reason)
    pool.touch_agent(agent)
    pool.timers.set(Clock.FORGET, agent.agent_id, now_ms + pool.settings.forget_agents_ms)


def on_forget(pool: Pool, agent: Agent) -> None:
    """Long gone."""
    if agent.liveness in {S.OFFLINE, S.STOPPED}:
        forget(pool, agent)


def forget(pool: Pool, agent: Agent) -> None:
    """Drop an agent that holds nothing from memory and database."""
    pool.queue.forget(agent)
    for clock in AGENT_CLOCKS:
        pool.timers.clear(clock, agent.agent_id)
    pool.dirty_agents.pop(agent.agent_id, None)
    pool.forgotten_agents.add(agent.agent_id)
    pool.performance.forget(agent.agent_id)
    pool.is_urgent = True
