"""Spawns agents by role (protocol, section 5, `agents.spawn`), and stops them with this replica.

Rules:
- The launcher knows nothing of the bus: it is told who came online.
- An agent gets no more of our environment than it needs; our database's address and secrets are never in it.
- A stopped agent is forgotten: what is held here is what counts against `max_concurrent_agents`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from callboard.orchestrator.config import OrchestratorMode, RoleSettings
from callboard.orchestrator.supervised import RestartPolicy, SupervisedAgent
from callboard.schemas.codec import check_size, encode
from callboard.schemas.errors import ConfigurationError, InvalidRequestError, ResourceLimitError, UnavailableError
from callboard.schemas.vocabulary import AgentState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from callboard.orchestrator.config import OrchestratorConfig
    from callboard.schemas.agents import SpawnAgent

ECHO_COMMAND: Final = (sys.executable, "-m", "callboard.agents.echo")
"""What a role without a command runs, and any role while none is configured."""

INHERITED: Final = (
    "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "PYTHONPATH", "SSL_CERT_DIR", "SSL_CERT_FILE",
    "TMPDIR", "TZ", "USER", "VIRTUAL_ENV",
)  # fmt: skip
"""What every agent sees of our environment; `env_inherit` of a role adds to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnedAgent:
    """A spawned agent as the launcher knows it: `starting`, `online`, `draining` (being stopped), `stopped`."""

    pool: str
    agent_id: str
    role: str
    state: AgentState
    pid: int | None
    restarts: int


class Launcher:
    """The agents that this process has spawned.

    Args:
        config: Roles, limits and times.
        agent_environment: What agents need to reach the bus (`NATS_URL`, …).
        restart: The back-off of restarts.
        on_restart: Called with the agent when a process that died is replaced.
        on_end: Called with the agent when it has left or was stopped, and is forgotten. Neither may block or raise.
    """

    def __init__(
        self,
        config: OrchestratorConfig,
        *,
        agent_environment: Mapping[str, str],
        restart: RestartPolicy | None = None,
        on_restart: Callable[[SpawnedAgent], None] = lambda _: None,
        on_end: Callable[[SpawnedAgent], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._agent_environment = agent_environment
        self._restart = restart or RestartPolicy()
        self._on_restart = on_restart
        self._on_end = on_end
        self._agents: dict[tuple[str, str], SupervisedAgent] = {}
        self._closed = False

    async def spawn(self, order: SpawnAgent, *, pool: str) -> SpawnedAgent:
        """Start an agent and wait until it is online. Asked again with the same id and role: the same agent.

        Raises:
            InvalidRequestError: The id belongs to an agent of another role, or `env` sets what the role does not allow.
            ConfigurationError: The role is not configured, though others are or in production; or it has a command that
                does not exist.
            PayloadTooLargeError: Capabilities and labels, or `env`, are larger than `limits.text_bytes`.
            ResourceLimitError: `max_concurrent_agents` are spawned and not stopped.
            UnavailableError: It did not come online in time, and was stopped; or this replica is stopping.
        """
        agent = self._find(order, pool) or self._launch(order, pool)
        allowed_s = self._config.spawn_timeout_seconds
        try:
            async with asyncio.timeout(allowed_s):
                online = await agent.until_online()
        except TimeoutError:
            await agent.stop(self._role(agent.role).grace_seconds)
            online = False
        if not online:
            status = "" if agent.last_status is None else f", its last exit status was {agent.last_status}"
            raise UnavailableError(
                f"agent {agent.agent_id} did not come online (time allowed: {allowed_s:g} s){status}",
                agent_id=agent.agent_id,
                role=agent.role,
            )
        return _as_it_stands(agent)

    def came_online(self, pool: str, agent_id: str) -> None:
        """The orchestrator saw this agent register; of no effect for one that was not spawned here."""
        if agent := self._agents.get((pool, agent_id)):
            agent.came_online()

    def find(self, pool: str, agent_id: str) -> SpawnedAgent | None:
        """The agent, if it was spawned here and has not stopped."""
        agent = self._agents.get((pool, agent_id))
        return None if agent is None else _as_it_stands(agent)

    def agents(self) -> list[SpawnedAgent]:
        """All that were spawned here and have not stopped."""
        return [_as_it_stands(agent) for agent in self._agents.values()]

    async def stop(self, pool: str, agent_id: str, grace_ms: int | None = None) -> bool:
        """End an agent: SIGTERM, `grace_ms` (its role's by default), SIGKILL of its process group.

        Returns:
            Whether there was anything to stop.
        """
        agent = self._agents.get((pool, agent_id))
        if agent is None:
            return False
        await agent.stop(self._grace_s(agent, grace_ms))
        return True

    async def stop_all(self, grace_ms: int | None = None) -> None:
        """End all agents at once and start no more. May be called twice."""
        self._closed = True
        async with asyncio.TaskGroup() as stops:
            for agent in list(self._agents.values()):
                stops.create_task(agent.stop(self._grace_s(agent, grace_ms)))

    def _find(self, order: SpawnAgent, pool: str) -> SupervisedAgent | None:
        agent = self._agents.get((pool, order.agent_id)) if order.agent_id else None
        if agent is None:
            return None
        if agent.role != order.role:
            raise InvalidRequestError(
                f"agent_id {agent.agent_id} is in use by an agent of role {agent.role}", path="agent_id"
            )
        if agent.is_stopping:
            raise UnavailableError(f"agent {agent.agent_id} is being stopped: ask again", agent_id=agent.agent_id)
        return agent

    def _launch(self, order: SpawnAgent, pool: str) -> SupervisedAgent:
        # No await from the check of the limit to the entry into the table: two orders cannot both take the last place.
        limit = self._config.max_concurrent_agents
        if self._closed:
            raise UnavailableError("this replica is stopping: it starts no more agents")
        if len(self._agents) >= limit:
            raise ResourceLimitError(f"{limit} agents are spawned already (max_concurrent_agents)", limit=limit)
        role = self._role(order.role)
        agent_id = order.agent_id or f"{order.role[:48]}-{secrets.token_hex(4)}"
        env = self._environment(order, role, pool, agent_id)
        agent = SupervisedAgent(
            pool=pool,
            agent_id=agent_id,
            role=order.role,
            argv=_resolve(order.role, role, env),
            env=env,
            restart=self._restart,
            on_restart=lambda: self._on_restart(_as_it_stands(agent)),
        )
        self._agents[pool, agent_id] = agent
        agent.start(on_end=lambda: self._forget(agent))
        return agent

    def _forget(self, agent: SupervisedAgent) -> None:
        del self._agents[agent.pool, agent.agent_id]
        self._on_end(_as_it_stands(agent))

    def _role(self, name: str) -> RoleSettings:
        roles = self._config.roles
        if name in roles:
            return roles[name]
        # Without any role, a first try needs no configuration; with some, another name is a slip.
        if roles or self._config.mode is OrchestratorMode.PRODUCTION:
            known = f"the roles are {', '.join(sorted(roles))}" if roles else "add it to `roles`"
            raise ConfigurationError(f"role {name!r} is not configured: {known}", role=name, known=sorted(roles))
        return RoleSettings()

    def _environment(self, order: SpawnAgent, role: RoleSettings, pool: str, agent_id: str) -> dict[str, str]:
        # As when it registers; and Linux starts no process with a variable of 128 KiB.
        largest = self._config.limits.text_bytes
        check_size(len(encode([order.capabilities, order.labels])), path="capabilities and labels", limit=largest)
        check_size(len(encode(order.env)), path="env", limit=largest)
        for name in order.env or {}:
            if name not in role.env_allow:
                raise InvalidRequestError(
                    f"role {order.role!r} does not allow the variable {name!r}: see its `env_allow`", path=f"env.{name}"
                )
        inherited = {name: os.environ[name] for name in (*INHERITED, *role.env_inherit) if name in os.environ}
        # Ours come last: nothing may give an agent another identity. Unbuffered, so that its last words are heard.
        return {
            "PYTHONUNBUFFERED": "1",
            **inherited,
            **(order.env or {}),
            **self._agent_environment,
            "CALLBOARD_POOL": pool,
            "CALLBOARD_PREFIX": self._config.prefix,
            "CALLBOARD_AGENT_ID": agent_id,
            "CALLBOARD_ROLE": order.role,
            "CALLBOARD_CAPABILITIES": ",".join(order.capabilities or ()),
            "CALLBOARD_SLOTS": str(order.slots or role.slots),
            "CALLBOARD_LABELS": encode(order.labels or {}).decode(),
        }

    def _grace_s(self, agent: SupervisedAgent, grace_ms: int | None) -> float:
        return self._role(agent.role).grace_seconds if grace_ms is None else grace_ms / 1000


def _resolve(name: str, role: RoleSettings, env: Mapping[str, str]) -> list[str]:
    command, *arguments = role.command or ECHO_COMMAND
    path = shutil.which(command, path=env.get("PATH"))
    if path is None:
        raise ConfigurationError(f"the command {command!r} of role {name!r} was not found", role=name)
    return [path, *arguments]


def _as_it_stands(agent: SupervisedAgent) -> SpawnedAgent:
    return SpawnedAgent(
        pool=agent.pool,
        agent_id=agent.agent_id,
        role=agent.role,
        state=agent.state,
        pid=agent.pid,
        restarts=agent.restarts,
    )
