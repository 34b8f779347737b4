"""The processes: `callboard dev` and the agents, each with its log, none outliving the demonstration.

All of them are separate processes that meet only on the bus. None sees the caller's settings (`CALLBOARD_*`, `NATS_*`,
`DATABASE_URL`): those are about other servers.
"""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from callboard.bus.child import Child
from callboard.demo.jobs import LARGE, Kind

START_S: Final = 45.0
"""Until the servers must answer: the first start makes a database, which a busy disk can hold up."""
GRACE_S: Final = 5.0
_CALLBOARD: Final = (sys.executable, "-m", "callboard.cli")
_MEASURE: Final = (sys.executable, "-m", "callboard.demo.agent")
_SHA256: Final = """\
import hashlib, pathlib, sys
digest = hashlib.sha256()
for name in sys.stdin.read().splitlines():
    digest.update(pathlib.Path(name).read_bytes())
sys.stdout.write(digest.hexdigest())
"""


class DemoError(Exception):
    """Why the demonstration cannot go on, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An agent of the fleet: its name, what it can do, how much at once, and the program that it is."""

    agent_id: str
    capabilities: tuple[str, ...]
    slots: int
    command: tuple[str, ...] = _MEASURE

    @property
    def environment(self) -> dict[str, str]:
        """Who it is, as a spawned agent is told."""
        return {
            "CALLBOARD_AGENT_ID": self.agent_id,
            "CALLBOARD_CAPABILITIES": ",".join(self.capabilities),
            "CALLBOARD_SLOTS": str(self.slots),
        }


FLEET: Final = (
    Member(agent_id="reader", capabilities=(Kind.TEXT,), slots=4),
    Member(agent_id="parser", capabilities=(Kind.SYNTAX,), slots=4),
    Member(agent_id="specialist", capabilities=(LARGE,), slots=6),
    Member(agent_id="generalist", capabilities=(Kind.TEXT, Kind.SYNTAX, LARGE), slots=4),
    Member(
        agent_id="command",
        capabilities=(Kind.CHECKSUM,),
        slots=2,
        command=(*_CALLBOARD, "agent", "exec", "--", sys.executable, "-I", "-S", "-c", _SHA256),
    ),
)
VICTIM: Final = "specialist"
"""It is killed; the generalist can do what it does. Its tasks are the longest, and it runs six of them at once."""


class Fleet:
    """The running processes; leaving the block ends them, the agents before the server.

    Args:
        directory: Gets `data` and `logs`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._data = directory / "data"
        self._logs = directory / "logs"
        self._server: Child | None = None
        self._agents: dict[str, Child] = {}
        self._killed: set[str] = set()

    async def __aenter__(self) -> Self:
        self._logs.mkdir()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await asyncio.gather(*(agent.stop() for agent in self._agents.values()))
        finally:
            if self._server is not None:
                await self._server.stop()

    async def start_server(self) -> str:
        """Run `callboard dev`; the address of its NATS once it is ready.

        Raises:
            EmbeddedServerError: It ended, or is not ready in time; with the end of its log.
        """
        self._server = await self._spawn("server", (*_CALLBOARD, "dev", "--data-dir", str(self._data)), {})
        addresses = self._data / "callboard.json"

        async def is_ready() -> bool:
            return addresses.exists()

        await self._server.wait_ready(is_ready, timeout_s=START_S)
        return msgspec.json.decode(addresses.read_bytes(), type=_Addresses).nats_url

    async def start_agents(self, members: Sequence[Member], nats_url: str) -> None:
        """Start a process for each; they sign in by themselves."""
        for member in members:
            environment = {**member.environment, "NATS_URL": nats_url}
            self._agents[member.agent_id] = await self._spawn(member.agent_id, member.command, environment)

    async def watch(self) -> None:
        """Until every process has ended, which only the killed ones may.

        Raises:
            DemoError: Another one did (in an `ExceptionGroup`).
        """
        async with asyncio.TaskGroup() as group:
            for child in (self._server, *self._agents.values()):
                if child is not None:
                    group.create_task(self._guard(child))

    def kill(self, agent_id: str) -> int:
        """SIGKILL: it cannot say goodbye, nor give back what it holds. Returns its process id."""
        self._killed.add(agent_id)
        agent = self._agents[agent_id]
        agent.kill()
        return agent.pid

    async def _spawn(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        return await Child.spawn(
            command,
            name=name,
            log=self._logs / f"{name}.log",
            cwd=self._directory,
            env={**_inherited(), **environment},
            grace_s=GRACE_S,
        )

    async def _guard(self, child: Child) -> None:
        code = await child.wait()
        if child.name not in self._killed:
            raise DemoError(f"{child.name} ended with code {code}: {child.log_tail(lines=1)}")


class _Addresses(msgspec.Struct):
    """What is needed of the file that `callboard dev` writes when it is ready."""

    nats_url: str


def _inherited() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CALLBOARD_", "NATS_")) and name != "DATABASE_URL"
    }
