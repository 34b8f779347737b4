"""The client's requests about agents and about the pool itself (protocol, section 5)."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from callboard.bus.client_calls import DEFAULT_TIMEOUT_S, Caller
from callboard.schemas.agents import (
    AgentChange,
    AgentDocument,
    AgentPage,
    AgentVerb,
    GetAgent,
    ListAgents,
    SpawnAgent,
    SpawnAnswer,
)
from callboard.schemas.base import Nothing
from callboard.schemas.labels import LabelValue
from callboard.schemas.pools import PoolChange, PoolVerb
from callboard.schemas.status import SystemStatus
from callboard.schemas.vocabulary import AgentState

SPAWN_TIMEOUT_S: Final = 60.0
"""A spawn is answered once the process is online."""
_ID_STEM: Final = 55


class AgentCalls(Caller):
    """Look at agents, start and stop them, and ask for the pool's status. Errors and `timeout_s` as for tasks."""

    async def agents(
        self,
        *,
        state: AgentState | None = None,
        capability: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> AgentPage:
        """A page of agents by id: at most `limit` (50; up to 500), fewer where more would not fit into one message.

        Only without a `cursor`, which asks for the next page, it is the last.
        """
        question = ListAgents(state=state, capability=capability, limit=limit, cursor=cursor)
        return await self._call(self._subjects.agents("list"), question, AgentPage, timeout_s=timeout_s)

    async def agent(self, agent_id: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> AgentDocument:
        """One agent.

        Raises:
            AgentNotFoundError: there is none of this id in this pool.
        """
        question = GetAgent(agent_id=agent_id)
        return await self._call(self._subjects.agents("get"), question, AgentDocument, timeout_s=timeout_s)

    async def spawn(
        self,
        role: str,
        *,
        capabilities: Sequence[str] | None = None,
        agent_id: str | None = None,
        slots: int | None = None,
        labels: Mapping[str, LabelValue] | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float = SPAWN_TIMEOUT_S,
    ) -> SpawnAnswer:
        """Start an agent process of a configured role on the orchestrator's machine; returns once it is online.

        Args:
            role: the role, whose command the orchestrator's configuration gives.
            capabilities: what the agent claims to be able to do.
            agent_id: its id; made from the role when absent, so that a repetition finds the same agent.
            slots: how many tasks it takes at once.
            labels: values by name.
            env: further environment; only names that the role allows.
            timeout_s: how long to try.

        Raises:
            ConfigurationError: the configuration does not allow it (an unknown role, for one).
            InvalidRequestError: `agent_id` is in use by a live agent.
            ResourceLimitError: `max_concurrent_agents` are running.
            UnavailableError: it did not come up in time, and was stopped.
        """
        question = SpawnAgent(
            role=role,
            capabilities=list(capabilities) if capabilities else None,
            agent_id=agent_id or f"{role[:_ID_STEM]}-{uuid.uuid4().hex[:8]}",
            slots=slots,
            labels=dict(labels) if labels else None,
            env=dict(env) if env else None,
        )
        subject = self._subjects.agents("spawn")
        return await self._call(subject, question, SpawnAnswer, timeout_s=timeout_s, reply_s=timeout_s)

    async def drain(
        self, agent_id: str, *, reason: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> AgentChange:
        """Let an agent finish what it runs and take nothing new, until `resume`.

        Raises:
            AgentNotFoundError: there is none of this id in this pool.
        """
        return await self._agent_verb("drain", AgentVerb(agent_id=agent_id, reason=reason), timeout_s)

    async def resume(self, agent_id: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> AgentChange:
        """End an agent's drain or quarantine.

        Raises:
            AgentNotFoundError: there is none of this id in this pool.
        """
        return await self._agent_verb("resume", AgentVerb(agent_id=agent_id), timeout_s)

    async def shutdown_agent(
        self,
        agent_id: str,
        *,
        grace_ms: int | None = None,
        reason: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> AgentChange:
        """Stop an agent: it has `grace_ms` to finish what it runs; what is left is released to others.

        Raises:
            AgentNotFoundError: there is none of this id in this pool.
        """
        verb = AgentVerb(agent_id=agent_id, grace_ms=grace_ms, reason=reason)
        return await self._agent_verb("shutdown", verb, timeout_s)

    async def pause(self, task_type: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> PoolChange:
        """Have nothing assigned, or nothing of a type; what runs goes on. `changed: false` when it was so already."""
        question = PoolVerb(type=task_type)
        return await self._call(self._subjects.of_pool("pause"), question, PoolChange, timeout_s=timeout_s)

    async def unpause(self, task_type: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> PoolChange:
        """End a pause of the whole pool, or of a type; the two are apart."""
        question = PoolVerb(type=task_type)
        return await self._call(self._subjects.of_pool("resume"), question, PoolChange, timeout_s=timeout_s)

    async def status(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> SystemStatus:
        """The pool's status, from its owner's memory: also while the database is away.

        Raises:
            UnavailableError: nobody owns this pool, for all of `timeout_s`.
        """
        return await self._call(self._subjects.status, Nothing(), SystemStatus, timeout_s=timeout_s)

    async def _agent_verb(self, verb: str, message: AgentVerb, timeout_s: float) -> AgentChange:
        return await self._call(self._subjects.agents(verb), message, AgentChange, timeout_s=timeout_s)
