"""Clients' and operators' requests about agents and the pool: list, get, spawn, drain, resume, shutdown, pause."""

import secrets
from itertools import islice

import msgspec

from callboard.bus.serve import Request
from callboard.orchestrator.answers import fitting
from callboard.orchestrator.core.events import (
    AgentSpawned,
    DrainRequested,
    PoolPauseRequested,
    ResumeRequested,
    ShutdownRequested,
    SpawnAbandoned,
)
from callboard.orchestrator.core.views import AgentFilter, agent_document, list_agents
from callboard.orchestrator.launcher import Launcher
from callboard.orchestrator.owner import PoolOwner
from callboard.schemas.agents import (
    AgentPage,
    AgentVerb,
    GetAgent,
    ListAgents,
    SpawnAgent,
    SpawnAnswer,
)
from callboard.schemas.errors import AgentNotFoundError, InvalidRequestError, OrchestratorError
from callboard.schemas.names import is_name
from callboard.schemas.pools import PoolVerb
from callboard.schemas.vocabulary import AgentState

DEFAULT_LIMIT = 50
_GONE = frozenset({AgentState.OFFLINE, AgentState.STOPPED})


class FleetRequests:
    """Handles `agents.*` for one owner."""

    def __init__(self, owner: PoolOwner, launcher: Launcher) -> None:
        self._owner = owner
        self._launcher = launcher
        self._pool = owner.lease.pool

    def page(self, message: ListAgents, request: Request) -> None:
        """`agents.list`: from memory, cut where it would not fit into the answer; the cursor is the last agent id."""
        if message.cursor is not None and not is_name(message.cursor):
            raise InvalidRequestError("cursor: not one of ours", path="cursor")
        wanted = AgentFilter(state=message.state, capability=message.capability, after=message.cursor or "")
        limit = message.limit or DEFAULT_LIMIT
        found = list(islice(list_agents(self._owner.machine.pool, wanted), limit + 1))
        shown = [document for document, _ in fitting(found[:limit])]
        request.answer(AgentPage(agents=shown, cursor=shown[-1].agent_id if len(shown) < len(found) else None))

    def get(self, message: GetAgent, request: Request) -> None:
        """`agents.get`."""
        pool = self._owner.machine.pool
        agent = pool.agents.get(message.agent_id)
        if agent is None:
            raise AgentNotFoundError(f"there is no agent {message.agent_id}", agent_id=message.agent_id)
        request.answer(agent_document(pool, agent))

    async def spawn(self, message: SpawnAgent, _request: Request) -> SpawnAnswer:
        """`agents.spawn`: answered once the agent is online."""
        self._owner.require_active()
        agent_id = message.agent_id or f"{message.role[:48]}-{secrets.token_hex(4)}"
        known = self._owner.machine.pool.agents.get(agent_id)
        is_ours = self._launcher.find(self._pool, agent_id) is not None
        if known is not None and not is_ours and known.state not in _GONE:
            raise InvalidRequestError(f"agent_id {agent_id} is in use by a live agent", path="agent_id")
        if not is_ours:
            self._owner.post(AgentSpawned(agent_id=agent_id))
        try:
            spawned = await self._launcher.spawn(msgspec.structs.replace(message, agent_id=agent_id), pool=self._pool)
        except OrchestratorError:
            if not is_ours:
                self._owner.post(SpawnAbandoned(agent_id=agent_id))
            raise
        return SpawnAnswer(agent_id=agent_id, state=spawned.state)

    def drain(self, message: AgentVerb, request: Request) -> None:
        """`agents.drain`."""
        self._owner.request(
            request,
            lambda ticket: DrainRequested(ticket=ticket, agent_id=message.agent_id, grace_ms=message.grace_ms),
        )

    def resume(self, message: AgentVerb, request: Request) -> None:
        """`agents.resume`."""
        self._owner.request(request, lambda ticket: ResumeRequested(ticket=ticket, agent_id=message.agent_id))

    def pause(self, message: PoolVerb, request: Request) -> None:
        """`pool.pause`."""
        self._set_paused(message, request, paused=True)

    def unpause(self, message: PoolVerb, request: Request) -> None:
        """`pool.resume`."""
        self._set_paused(message, request, paused=False)

    def _set_paused(self, message: PoolVerb, request: Request, *, paused: bool) -> None:
        self._owner.request(request, lambda ticket: PoolPauseRequested(ticket=ticket, type=message.type, paused=paused))

    def shut_down(self, message: AgentVerb, request: Request) -> None:
        """`agents.shutdown`."""
        self._owner.request(
            request,
            lambda ticket: ShutdownRequested(
                ticket=ticket, agent_id=message.agent_id, grace_ms=message.grace_ms, reason=message.reason
            ),
        )
