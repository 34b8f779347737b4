"""What the pool shows of its agents: documents for `agents.list` and `agents.get`, counts for `status`."""

from collections.abc import Iterator
from dataclasses import dataclass

from callboard.orchestrator.core.attempts import current
from callboard.orchestrator.core.model import Agent
from callboard.orchestrator.core.pool import Pool
from callboard.schemas.agents import AgentDocument
from callboard.schemas.status import AgentCounts
from callboard.schemas.tasks import AttemptRef
from callboard.schemas.times import to_instant
from callboard.schemas.vocabulary import AgentState


def agent_document(pool: Pool, agent: Agent) -> AgentDocument:
    """One agent as the protocol shows it."""
    return AgentDocument(
        agent_id=agent.agent_id,
        state=agent.state,
        role=agent.role,
        capabilities=sorted(agent.capabilities),
        labels=agent.labels,
        slots=agent.slots,
        slots_used=len(agent.holds),
        incarnation=agent.incarnation,
        version=agent.version,
        last_seen_at=to_instant(agent.seen_ms),
        tasks=[
            AttemptRef(task_id=task_id, attempt=attempt)
            for task_id, attempt in agent.holds
            if current(pool, agent.agent_id, (task_id, attempt)) is not None
        ],
        success_rate=pool.performance.success_rate(agent.agent_id),
        draining=agent.operator_drain or agent.own_drain,
        metadata=agent.metadata or None,
        spawned=agent.spawned,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFilter:
    """What `agents.list` asks for; `after` is the agent id that the page before ended with."""

    state: AgentState | None
    capability: str | None
    after: str


def list_agents(pool: Pool, wanted: AgentFilter) -> Iterator[AgentDocument]:
    """Agents that match, by id."""
    for agent_id in sorted(agent_id for agent_id in pool.agents if agent_id > wanted.after):
        agent = pool.agents[agent_id]
        if wanted.state is not None and agent.state is not wanted.state:
            continue
        if wanted.capability is not None and wanted.capability not in agent.capabilities:
            continue
        yield agent_document(pool, agent)


def agent_counts(pool: Pool) -> AgentCounts:
    """The fleet in numbers; slots of agents that are gone do not count."""
    by_state: dict[AgentState, int] = {}
    slots = slots_used = 0
    for agent in pool.agents.values():
        by_state[agent.state] = by_state.get(agent.state, 0) + 1
        if agent.liveness not in {AgentState.OFFLINE, AgentState.STOPPED}:
            slots += agent.slots
            slots_used += len(agent.holds)
    return AgentCounts(total=len(pool.agents), by_state=by_state, slots=slots, slots_used=slots_used)
