"""What is believed of an agent, changed and announced in one place."""

from callboard.orchestrator.core.effects import PublishAgent
from callboard.orchestrator.core.model import Agent
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.transitions import AGENT_MOVES, IllegalMoveError
from callboard.schemas.agents import AgentEvent
from callboard.schemas.times import to_instant
from callboard.schemas.vocabulary import AgentState


def set_liveness(pool: Pool, agent: Agent, liveness: AgentState, now_ms: int, *, reason: str | None = None) -> None:
    """Change what is believed of an agent, along the table, and announce it.

    Raises:
        IllegalMoveError: the table does not allow it: a bug of ours.
    """
    if liveness not in AGENT_MOVES[agent.liveness]:
        story = f"incarnation {agent.incarnation}, {reason}"
        raise IllegalMoveError(f"agent {agent.agent_id}", agent.liveness, liveness, story)
    agent.liveness = liveness
    announce(pool, agent, now_ms, reason=reason)
    pool.queue.update_room(agent)


def announce(pool: Pool, agent: Agent, now_ms: int, *, reason: str | None = None) -> None:
    """Have the agent's state published with the next write, whether or not its row changes."""
    pool.is_urgent = True
    pool.announcements.append(
        PublishAgent(
            AgentEvent(
                agent_id=agent.agent_id,
                pool=pool.name,
                state=agent.state,
                at=to_instant(now_ms),
                incarnation=agent.incarnation,
                revision="",  # known when the batch is sealed
                reason=reason,
            )
        )
    )
