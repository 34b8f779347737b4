"""What operators ask of agents: drain, resume, shut down. Doing it again is `changed: false`."""

from callboard.orchestrator.core import health
from callboard.orchestrator.core.effects import SendCancel, SendDrain, SendShutdown, StopProcess
from callboard.orchestrator.core.events import DrainRequested, ResumeRequested, ShutdownRequested, Ticket
from callboard.orchestrator.core.liveness import release_attempts, stop
from callboard.orchestrator.core.model import Agent
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.presence import announce
from callboard.orchestrator.core.timers import Clock
from callboard.schemas.agents import AgentChange
from callboard.schemas.errors import AgentNotFoundError
from callboard.schemas.vocabulary import AgentState


def on_drain(pool: Pool, event: DrainRequested, now_ms: int) -> None:
    """Nothing new for this agent, over all its incarnations, until it is resumed."""
    agent = _found(pool, event.ticket, event.agent_id)
    if agent is None:
        return
    changed = not agent.operator_drain
    if changed:
        agent.operator_drain = True
        _changed(pool, agent, now_ms)
        pool.after_commit.append(SendDrain(agent.agent_id))
    if event.grace_ms is not None and not agent.stopping:
        pool.timers.set(Clock.GRACE, agent.agent_id, now_ms + event.grace_ms)
    pool.answer(event.ticket, AgentChange(agent_id=agent.agent_id, state=agent.state, changed=changed))


def on_resume(pool: Pool, event: ResumeRequested, now_ms: int) -> None:
    """The agent may take tasks again, unless it drains by its own will; a quarantine ends, too."""
    agent = _found(pool, event.ticket, event.agent_id)
    if agent is None:
        return
    changed = health.recover(pool, agent, now_ms) or agent.operator_drain
    if agent.operator_drain:
        agent.operator_drain = False
        if not agent.stopping:
            # Else the grace is the shutdown's, which nothing puts off.
            pool.timers.clear(Clock.GRACE, agent.agent_id)
        _changed(pool, agent, now_ms)
    pool.answer(event.ticket, AgentChange(agent_id=agent.agent_id, state=agent.state, changed=changed))


def on_shutdown(pool: Pool, event: ShutdownRequested, now_ms: int) -> None:
    """The agent takes nothing new, finishes within the grace, and leaves; else it is given up."""
    agent = _found(pool, event.ticket, event.agent_id)
    if agent is None:
        return
    changed = agent.liveness is not AgentState.STOPPED and not agent.stopping
    if changed:
        grace_ms = pool.settings.shutdown_grace_ms if event.grace_ms is None else event.grace_ms
        agent.stopping = True
        _changed(pool, agent, now_ms)
        pool.timers.set(Clock.GRACE, agent.agent_id, now_ms + grace_ms)
        pool.after_commit.append(SendShutdown(agent_id=agent.agent_id, grace_ms=grace_ms, reason=event.reason))
        if agent.spawned:
            pool.after_commit.append(StopProcess(agent.agent_id, grace_ms))
    pool.answer(event.ticket, AgentChange(agent_id=agent.agent_id, state=agent.state, changed=changed))


def on_grace_over(pool: Pool, agent: Agent, now_ms: int) -> None:
    """A drain's or a shutdown's grace is over: what the agent still runs is taken from it, free of cost."""
    if not (agent.operator_drain or agent.stopping):
        return
    attempts = list(agent.holds)
    release_attempts(pool, agent, now_ms, "grace over")
    pool.after_commit += [
        SendCancel(agent_id=agent.agent_id, task_id=task_id, attempt=attempt, reason="grace over")
        for task_id, attempt in attempts
    ]
    if agent.stopping:
        stop(pool, agent, now_ms, reason="shut down")


def _changed(pool: Pool, agent: Agent, now_ms: int) -> None:
    pool.queue.update_room(agent)
    pool.touch_agent(agent)
    announce(pool, agent, now_ms)


def _found(pool: Pool, ticket: Ticket, agent_id: str) -> Agent | None:
    agent = pool.agents.get(agent_id)
    if agent is None:
        pool.refuse(ticket, AgentNotFoundError(f"there is no agent {agent_id}", agent_id=agent_id))
    return agent
