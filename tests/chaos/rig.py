"""Everything that a run needs: servers, replicas and agents as processes, and a proxy on each of their connections.

replica ── proxy ── Postgres (Unix socket)        agents' process ── proxy ── nats-server
        └─ proxy ── nats-server                   clients (this process) ──── nats-server

The nats-server may be a cluster of them: each proxy leads to all, and everyone is given all addresses.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from tests.chaos import database_log
from tests.chaos.history import History
from tests.chaos.proxy import HOST, Dial, Proxy
from tests.support.processes import REPOSITORY
from tests.support.replica import environment

from callboard.bus.client import Client
from callboard.orchestrator.store.embedded import PORT
from callboard.orchestrator.store.migrate import migrate
from callboard.schemas.vocabulary import AgentState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from callboard.bus.embedded import EmbeddedNats
    from callboard.orchestrator.store.embedded import EmbeddedPostgres

WITHIN_S: Final = 30.0
HEARTBEAT_S: Final = 1.0
LEASE_S: Final = 3 * HEARTBEAT_S
"""An agent's; a pool's is as long."""
SETTINGS: Final = {
    "CALLBOARD_HEARTBEAT_INTERVAL_SECONDS": str(HEARTBEAT_S),
    "CALLBOARD_LOG_FORMAT": "json",
}


class Program:
    """A process that can be started again and again; its output goes to one file."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self.process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def returncode(self) -> int | None:
        """How it ended; `None` while it runs."""
        return None if self.process is None else self.process.returncode

    async def wait(self) -> None:
        """Until it has ended."""
        assert self.process is not None
        await self.process.wait()

    async def launch(self, command: list[str], env: dict[str, str]) -> None:
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *command, env=env, cwd=REPOSITORY, stdout=output, stderr=output
            )

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone; nothing happens to one that is."""
        if self.process is not None and self.is_running:
            self.process.kill()
            await self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.process is not None and self.is_running:
            self.process.send_signal(number)


class Replica(Program):
    """A `callboard serve`, on its own proxies. Each start has a name of its own."""

    def __init__(self, name: str, rig: Rig) -> None:
        super().__init__(name, rig.directory / f"{name}.log")
        self.database = Proxy(rig.dial_postgres)
        self.nats = Proxy(*rig.nats_dials)
        self.starts = 0
        self._rig = rig

    @property
    def replica(self) -> str:
        """Its name in the pool's lease."""
        return f"{self.name}.{self.starts}"

    async def start(self) -> None:
        self.starts += 1
        database = f"postgresql://callboard@{HOST}:{self.database.ports[0]}/{self._rig.database}"
        settings = {**SETTINGS, "CALLBOARD_REPLICA": self.replica, **self._rig.settings}
        await self.launch(
            ["-m", "callboard.cli", "serve"], environment(self._rig.nats_url_by(self.nats), database, settings)
        )

    async def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.signal(signal.SIGTERM)
        async with asyncio.timeout(WITHIN_S):
            return await self.process.wait()


class Agents(Program):
    """Some agents in one process, on one proxy."""

    def __init__(self, name: str, rig: Rig, *, count: int, slots: int) -> None:
        super().__init__(name, rig.directory / f"{name}.log")
        self.nats = Proxy(*rig.nats_dials)
        self.is_down_on_purpose = False
        """Whether a fault killed them, which starts them again, too."""
        self.names = [f"{name}-{number}" for number in range(count)]
        self.slots = slots
        self._rig = rig

    @property
    def at_stake(self) -> dict[str, int]:
        """How many attempts each agent may lose with its process."""
        return dict.fromkeys(self.names, self.slots)

    async def start(self) -> None:
        arguments = [str(self._rig.history.path), self._rig.nats_url_by(self.nats), str(self.slots), *self.names]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("CALLBOARD_", "NATS_"))}
        await self.launch(["-m", "tests.chaos.agent_process", *arguments], env)


class Rig:
    """One orchestra, from `async with` to its end.

    Args:
        directory: for the history and the logs.
        nats: a running server, or those of a cluster,
        postgres: and another; whoever started them stops them.
        database: the name of an empty database.
        replicas, processes, agents, slots: how many of each; agents in each process, slots of each agent.
    """

    def __init__(
        self,
        directory: Path,
        nats: Sequence[EmbeddedNats],
        postgres: EmbeddedPostgres,
        database: str,
        *,
        replicas: int = 2,
        processes: int = 2,
        agents: int = 2,
        slots: int = 2,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.nats, self.postgres, self.database = tuple(nats), postgres, database
        self.settings = settings or {}
        self.history = History(directory / "history.jsonl")
        self.replicas = [Replica(f"replica{number}", self) for number in range(replicas)]
        self.agents = [Agents(f"agents{number}", self, count=agents, slots=slots) for number in range(processes)]
        self._stack = AsyncExitStack()

    @property
    def connect_args(self) -> dict[str, Any]:
        """Of the database, past all proxies."""
        return {**self.postgres.connect_args, "database": self.database}

    @property
    def everyone(self) -> dict[str, int]:
        """Every agent, with its slots."""
        return {name: slots for program in self.agents for name, slots in program.at_stake.items()}

    @property
    def nats_url(self) -> str:
        """All servers, past all proxies."""
        return ",".join(node.url for node in self.nats)

    def nats_url_by(self, proxy: Proxy) -> str:
        """All servers, by way of this proxy."""
        return ",".join(f"nats://{HOST}:{port}" for port in proxy.ports)

    @property
    def nats_dials(self) -> list[Dial]:
        return [partial(_dial, node) for node in self.nats]

    async def dial_postgres(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(f"{self.postgres.socket_directory}/.s.PGSQL.{PORT}")

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(self.history.close)
            await migrate(self.postgres.dsn_of(self.database))
            await database_log.install(self.connect_args)
            programs: list[Replica | Agents] = [*self.replicas, *self.agents]
            for program in programs:
                await stack.enter_async_context(program.nats)
                if isinstance(program, Replica):
                    await stack.enter_async_context(program.database)
                stack.push_async_callback(program.kill)
                await program.start()
            self.client = await stack.enter_async_context(Client.connect(self.nats_url))
            await self.client.status(timeout_s=WITHIN_S)
            await self.until_online()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def until_online(self) -> None:
        """Wait until every agent is there."""
        wanted = len(self.everyone)
        async with asyncio.timeout(WITHIN_S):
            while (await self.client.status(timeout_s=WITHIN_S)).agents.by_state.get(AgentState.ONLINE, 0) < wanted:
                await tick()

    async def owner(self) -> Replica:
        """The replica that the database knows as the pool's owner.

        Raises:
            LookupError: it is none of those that run.
        """
        connection = await asyncpg.connect(**self.connect_args, timeout=5)
        try:
            name = await connection.fetchval("SELECT replica FROM pool_lease WHERE holder IS NOT NULL")
        finally:
            await connection.close()
        for replica in self.replicas:
            if replica.replica == name:
                return replica
        raise LookupError(f"the owner is {name}, which is none of ours")

    async def live_tasks(self) -> int:
        """How many tasks are not final."""
        by_state = (await self.client.status(timeout_s=WITHIN_S)).tasks.by_state
        return sum(count for state, count in by_state.items() if not state.is_final)

    async def export(self) -> None:
        """Bring the database's account into the history."""
        for event in await database_log.export(self.connect_args):
            self.history.write(event)


async def _dial(node: EmbeddedNats) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(HOST, node.port)


async def tick() -> None:
    """The time between two looks at what nothing announces."""
    never = asyncio.Event()
    try:
        async with asyncio.timeout(0.05):
            await never.wait()
    except TimeoutError:
        return
