"""Every subject of the protocol, built in one place (protocol, section 1).

All start with `<prefix>.v1.<pool>.`; the prefix is configurable and `callboard` by default.
"""

from dataclasses import dataclass
from typing import Final

from callboard.schemas.vocabulary import AgentState

DEFAULT_PREFIX: Final = "callboard"
DEFAULT_POOL: Final = "default"


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of one pool."""

    pool: str = DEFAULT_POOL
    prefix: str = DEFAULT_PREFIX

    @property
    def root(self) -> str:
        """`callboard.v1.<pool>`, without the trailing dot."""
        return f"{self.prefix}.v1.{self.pool}"

    def tasks(self, verb: str) -> str:
        """`~.tasks.<verb>`: a client's request about tasks, e.g. `submit`, `get`, `wait`."""
        return f"{self.root}.tasks.{verb}"

    def agents(self, verb: str) -> str:
        """`~.agents.<verb>`: a client's request about agents, e.g. `list`, `spawn`."""
        return f"{self.root}.agents.{verb}"

    def of_pool(self, verb: str) -> str:
        """`~.pool.<verb>`: an operator's request about the whole pool: `pause`, `resume`."""
        return f"{self.root}.pool.{verb}"

    @property
    def status(self) -> str:
        """`~.status`: the query subject."""
        return f"{self.root}.status"

    def from_agent(self, agent_id: str, verb: str) -> str:
        """`~.agent.<agent_id>.<verb>`: agent to orchestrator; the token is the agent's identity."""
        return f"{self.root}.agent.{agent_id}.{verb}"

    def to_agent(self, agent_id: str, verb: str) -> str:
        """`~.to.<agent_id>.<verb>`: orchestrator to agent."""
        return f"{self.root}.to.{agent_id}.{verb}"

    def task_events(self, task_id: str) -> str:
        """`~.event.task.*.<task_id>`: every committed change of one task, to subscribe to."""
        return f"{self.root}.event.task.*.{task_id}"

    def agent_event(self, state: AgentState, agent_id: str) -> str:
        """`~.event.agent.<state>.<agent_id>`: a change of an agent."""
        return f"{self.root}.event.agent.{state}.{agent_id}"

    @property
    def owner_event(self) -> str:
        """`~.event.owner`: who owns the pool now, with its epoch."""
        return f"{self.root}.event.owner"
