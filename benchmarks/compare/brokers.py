"""The servers of each system, on new data: start them, `kill -9` them, start them again on what is left.

Redis keeps its file as `appendonly yes` does by default (fsync every second); every other server is as it comes.
"""

import asyncio
import contextlib
import os
import signal
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from benchmarks.bed import DRIVERS, REPOSITORY, Servers, clean_environment, free_port, servers, serving
from benchmarks.compare.environments import ENVIRONMENTS, python_of
from benchmarks.compare.systems import Broker, System
from benchmarks.meter import tree

from callboard.bus.child import Child
from callboard.bus.embedded import EmbeddedNats
from callboard.orchestrator.store.embedded import EmbeddedPostgres

READY_WITHIN_S: Final = 60.0


class Running(ABC):
    """The servers of one system while it is measured."""

    environment: Mapping[str, str]
    """Where clients and workers find them."""

    @property
    @abstractmethod
    def parts(self) -> dict[str, int]:
        """The root process of each part, by its name."""

    @abstractmethod
    async def crash(self) -> None:
        """SIGKILL to every process of every part."""

    @abstractmethod
    async def restart(self) -> None:
        """Start them again on their data, at the same address."""


class Embedded(Running):
    """NATS or Postgres, or both with the orchestrator."""

    def __init__(self, both: Servers, broker: Broker, directory: Path) -> None:
        self._both = both
        self._directory = directory
        self._stack = contextlib.AsyncExitStack()
        self._serve: Child | None = None
        self._used: list[EmbeddedNats | EmbeddedPostgres] = []
        if broker in (Broker.NATS, Broker.OURS):
            self._used.append(both.nats)
        if broker in (Broker.POSTGRES, Broker.OURS):
            self._used.append(both.postgres)
        self._is_ours = broker is Broker.OURS
        self.environment = both.environment

    @property
    def parts(self) -> dict[str, int]:
        """The orchestrator too, for us."""
        parts = {server.name: server.pid for server in self._used}
        return parts if self._serve is None else {"orchestrator": self._serve.pid, **parts}

    async def restart(self) -> None:
        """The servers first."""
        for server in self._used:
            await server.start()
        if self._is_ours:
            self._serve = await self._stack.enter_async_context(serving(self._directory, self.environment))

    async def crash(self) -> None:
        """All at once, as near as may be."""
        if self._serve is not None:
            self._serve.kill()
        for server in self._used:
            await server.kill()
        await self._stack.aclose()

    async def stop(self) -> None:
        """The orchestrator first."""
        await self._stack.aclose()


class Program(Running):
    """One command with an address, ready when it takes connections."""

    def __init__(self, command: list[str | Path], port: int, directory: Path, environment: Mapping[str, str]) -> None:
        self._command = command
        self._port = port
        self._directory = directory
        self.environment = environment
        self._child: Child | None = None

    @property
    def parts(self) -> dict[str, int]:
        """One, with all that it starts."""
        return {} if self._child is None else {"server": self._child.pid}

    async def restart(self) -> None:
        """Until it takes connections."""
        self._child = await Child.spawn(
            self._command, name="server", log=self._directory / "server.log", cwd=self._directory, env=self.environment
        )
        await self._child.wait_ready(self._takes_connections, timeout_s=READY_WITHIN_S)

    async def crash(self) -> None:
        """Also what left its process group."""
        if self._child is not None:
            for pid in tree([self._child.pid]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await self._child.wait()

    async def _takes_connections(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except ConnectionError:
            return False
        writer.close()
        return True


@contextlib.asynccontextmanager
async def running(system: System, directory: Path) -> AsyncIterator[Running]:
    """The servers of `system` for as long as the block runs."""
    if system.broker in (Broker.REDIS, Broker.OWN):
        # Ray's sockets lie below its directory, and their addresses hold 107 bytes.
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as short:
            program = await _program(system, directory, short)
            try:
                await program.restart()
                yield program
            finally:
                await program.crash()
        return
    async with servers(directory) as both:
        embedded = Embedded(both, system.broker, directory)
        try:
            await embedded.restart()
            yield embedded
        finally:
            await embedded.stop()


async def _program(system: System, directory: Path, short: str) -> Program:
    port = free_port()
    if system.broker is Broker.REDIS:
        environment = {**clean_environment(), "REDIS_URL": f"redis://127.0.0.1:{port}/0"}
        command: list[str | Path] = [await redis_server(), "--bind", "127.0.0.1", "--port", str(port)]
        command += ["--appendonly", "yes", "--save", "", "--dir", str(directory)]
    else:
        environment = {
            **clean_environment(),
            "SERVER_URL": f"tcp://127.0.0.1:{port}",
            "SERVER_DIR": short,
            "DASK_TEMPORARY_DIRECTORY": short,
            "PYTHONPATH": str(REPOSITORY),
        }
        command = [await python_of(system.requirements), "-m", f"{DRIVERS}.{system.driver}", "server"]
    return Program(command, port, directory, environment)


async def redis_server() -> Path:
    """`$REDIS_SERVER`, else the program of the wheel in `requirements/redis-server.txt`.

    Raises:
        FileNotFoundError: neither is there.
    """
    given = os.environ.get("REDIS_SERVER")
    if given:
        return Path(given)
    await python_of("redis-server")
    for path in (ENVIRONMENTS / "redis-server").glob("lib/python*/site-packages/*/bin/redis-server"):
        return path
    raise FileNotFoundError("no redis-server in the wheel: set REDIS_SERVER")
