"""Who may run a task at all: the filters of placement, in one place.

A filter is complete and no scorer can weaken it. `mismatch` names the first filter that an agent fails; placement
asks only whether there is one.
"""

from callboard.orchestrator.core.model import Agent, Needs


def mismatch(needs: Needs, agent: Agent) -> str | None:
    """Why `agent` could never run a task with `needs` as it is registered now, or `None` when it could."""
    if needs.agent_id is not None and needs.agent_id != agent.agent_id:
        return "agent_id"
    if needs.role is not None and needs.role != agent.role:
        return "role"
    if not needs.capabilities <= agent.capabilities:
        missing = min(needs.capabilities - agent.capabilities)
        return f"capability:{missing}"
    for test in needs.labels:
        if not test.holds(agent.labels):
            return f"label:{test.key}"
    if needs.type in agent.unsupported:
        return "declined"
    return None
