"""The faults: each is a block, within which it lasts. They write into the history what they do, and to whom.

`agents` of `FaultBegan` says whose attempts may be run again because of it. Faults of replicas and of the database may
cost no execution at all; those of NATS may lose the answer to an offer.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
from tests.chaos import history as h
from tests.chaos.rig import Agents, Replica, Rig

from callboard.bus.ask import ask
from callboard.bus.connection import Bus
from callboard.bus.context import options_from_environment
from callboard.schemas.agents import Leave, Register, RegisterAnswer
from callboard.schemas.base import Nothing
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tests.chaos.clients import Clients
    from tests.chaos.proxy import Flow, Proxy

    from callboard.bus.embedded import EmbeddedNats

LAME_DUCK_S: Final = 45.0
LEAVE_S: Final = 60.0
SMALL_PAYLOAD: Final = 8192
CROWD: Final = 1000
_INCARNATION: Final = "01993b5e-7c1a-7bd2-8f0e-{:012x}"


class Faults:
    """What can be done to a rig."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.count = 0

    @asynccontextmanager
    async def _noted(self, kind: str, target: str, agents: Mapping[str, int] | None = None) -> AsyncIterator[None]:
        self.count += 1
        number = self.count
        self.rig.history.write(h.FaultBegan(fault=number, kind=kind, target=target, agents=dict(agents or {})))
        try:
            yield
        finally:
            self.rig.history.write(h.FaultEnded(fault=number))

    # Replicas.

    @asynccontextmanager
    async def replica_killed(self, replica: Replica) -> AsyncIterator[None]:
        """SIGKILL; started again at the end."""
        async with self._noted("replica killed", replica.replica):
            await replica.kill()
            try:
                yield
            finally:
                await replica.start()

    @asynccontextmanager
    async def replica_stopped(self, replica: Replica) -> AsyncIterator[None]:
        """SIGSTOP, and SIGCONT at the end."""
        async with self._noted("replica stopped", replica.replica):
            replica.signal(signal.SIGSTOP)
            try:
                yield
            finally:
                replica.signal(signal.SIGCONT)

    @asynccontextmanager
    async def replica_restarted(self, replica: Replica) -> AsyncIterator[None]:
        """An orderly stop; started again at the end."""
        async with self._noted("replica restarted", replica.replica):
            await replica.stop()
            try:
                yield
            finally:
                await replica.start()

    # Agents.

    @asynccontextmanager
    async def agents_killed(self, agents: Agents) -> AsyncIterator[None]:
        """SIGKILL; started again at the end, under the same names."""
        async with self._noted("agents killed", agents.name, agents.at_stake):
            agents.is_down_on_purpose = True
            await agents.kill()
            try:
                yield
            finally:
                await agents.start()
                agents.is_down_on_purpose = False

    @asynccontextmanager
    async def agents_stopped(self, agents: Agents) -> AsyncIterator[None]:
        """SIGSTOP, and SIGCONT at the end."""
        async with self._noted("agents stopped", agents.name, agents.at_stake):
            agents.signal(signal.SIGSTOP)
            try:
                yield
            finally:
                agents.signal(signal.SIGCONT)

    @asynccontextmanager
    async def agents_told_to_leave(self, agents: Agents) -> AsyncIterator[None]:
        """SIGTERM: they finish, and nothing is run again because of it; started again at the end."""
        async with self._noted("agents told to leave", agents.name):
            agents.is_down_on_purpose = True
            agents.signal(signal.SIGTERM)
            try:
                yield
                with suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_S):
                        await agents.wait()
            finally:
                if agents.returncode != 0:
                    # One of their last tasks was poison, or nobody records what they have done.
                    async with self.agents_killed(agents):
                        pass
                else:
                    await agents.start()
                    agents.is_down_on_purpose = False

    @asynccontextmanager
    async def agents_died(self, agents: Agents) -> AsyncIterator[None]:
        """They have died of a task; started again at the end."""
        async with self._noted("agents died of poison", agents.name, agents.at_stake):
            try:
                yield
            finally:
                await agents.start()

    # NATS.

    @asynccontextmanager
    async def nats_killed(self, node: EmbeddedNats) -> AsyncIterator[None]:
        """SIGKILL; started again at the end, at the same port."""
        async with self._noted("NATS killed", node.directory.name, self.rig.everyone):
            await node.kill()
            try:
                yield
            finally:
                await node.start()

    @asynccontextmanager
    async def nats_stopped(self, node: EmbeddedNats) -> AsyncIterator[None]:
        """SIGSTOP, and SIGCONT at the end."""
        async with self._noted("NATS stopped", node.directory.name, self.rig.everyone):
            os.kill(node.pid, signal.SIGSTOP)
            try:
                yield
            finally:
                os.kill(node.pid, signal.SIGCONT)

    @asynccontextmanager
    async def nats_lame_duck(self, node: EmbeddedNats) -> AsyncIterator[None]:
        """It sends its clients away, one after the other, and ends; started again at the end."""
        async with self._noted("NATS in lame duck", node.directory.name, self.rig.everyone):
            os.kill(node.pid, signal.SIGUSR2)
            try:
                yield
                async with asyncio.timeout(LAME_DUCK_S):
                    await node.wait_exit()
            finally:
                await node.stop()
                await node.start()

    @asynccontextmanager
    async def nats_max_payload(self, node: EmbeddedNats) -> AsyncIterator[None]:
        """The largest message is made smaller by a reload, and as before at the end."""
        file = node.data / "nats.conf"
        before = file.read_bytes()
        async with self._noted("NATS max_payload lowered", node.directory.name, self.rig.everyone):
            file.write_text(json.dumps(json.loads(before) | {"max_payload": SMALL_PAYLOAD}))
            os.kill(node.pid, signal.SIGHUP)
            try:
                yield
            finally:
                file.write_bytes(before)
                os.kill(node.pid, signal.SIGHUP)

    # Postgres.

    @asynccontextmanager
    async def postgres_killed(self) -> AsyncIterator[None]:
        """SIGKILL of the server with all its processes; started again at the end."""
        async with self._noted("Postgres killed", "postgres"):
            await self.rig.postgres.kill()
            try:
                yield
            finally:
                await self.rig.postgres.start()

    @asynccontextmanager
    async def postgres_stopped(self) -> AsyncIterator[None]:
        """SIGSTOP of the server with all its processes, and SIGCONT at the end."""
        group = os.getpgid(self.rig.postgres.pid)
        members = [group, *_children_of(self.rig.postgres.pid)]
        async with self._noted("Postgres stopped", "postgres"):
            _signal_all(members, signal.SIGSTOP)
            try:
                yield
            finally:
                _signal_all(members, signal.SIGCONT)

    @asynccontextmanager
    async def postgres_restarted(self) -> AsyncIterator[None]:
        """An orderly stop; started again at the end."""
        async with self._noted("Postgres restarted", "postgres"):
            await self.rig.postgres.stop()
            try:
                yield
            finally:
                await self.rig.postgres.start()

    @asynccontextmanager
    async def backends_terminated(self) -> AsyncIterator[None]:
        """`pg_terminate_backend` of every connection of the product."""
        async with self._noted("pg_terminate_backend", "postgres"):
            connection = await asyncpg.connect(**self.rig.connect_args, timeout=5)
            try:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'callboard'"
                )
            finally:
                await connection.close()
            yield

    @asynccontextmanager
    async def connections_used_up(self) -> AsyncIterator[None]:
        """Others have all the connections that Postgres allows."""
        async with self._noted("Postgres without connections", "postgres"), AsyncExitStack() as stack:
            mine = await asyncpg.connect(**self.rig.connect_args, timeout=5)
            stack.push_async_callback(mine.close)
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    await mine.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'callboard'"
                    )
                    other = await asyncpg.connect(**self.rig.connect_args, timeout=5)
                    stack.callback(other.terminate)
            yield

    @asynccontextmanager
    async def disk_full(self) -> AsyncIterator[None]:
        """Nothing can be written below Postgres's directory, which is a file system of its own."""
        filler = self.rig.postgres.directory / "filler"
        async with self._noted("disk full", "postgres"):
            with filler.open("wb") as file:
                status = os.fstatvfs(file.fileno())
                os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize)
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await self._use_up_the_log()
            try:
                yield
            finally:
                filler.unlink()
                # Recovery needs room: without any the whole server had ended.
                await self.rig.postgres.start()

    async def _use_up_the_log(self) -> None:
        """Fill what Postgres keeps in reserve for its log."""
        connection = await asyncpg.connect(**self.rig.connect_args, timeout=5)
        try:
            for _ in range(20):
                await connection.execute("SELECT pg_logical_emit_message(false, 'chaos', 'x'), pg_switch_wal()")
        finally:
            connection.terminate()

    # Connections.

    @asynccontextmanager
    async def silent(
        self, target: Replica | Agents, proxy: Proxy, *, way: str, then_reset: bool
    ) -> AsyncIterator[None]:
        """A black hole: `way` is `up` (to the server), `down` or `both`; at the end the bytes arrive, or are lost."""
        flows = {"up": (proxy.up,), "down": (proxy.down,), "both": (proxy.up, proxy.down)}[way]
        async with self._on_link(f"black hole {way}", target, proxy):
            for flow in flows:
                flow.silence()
            try:
                yield
            finally:
                if then_reset:
                    proxy.reset()
                _heal(flows)

    @asynccontextmanager
    async def slow(self, target: Replica | Agents, proxy: Proxy, latency_s: float) -> AsyncIterator[None]:
        """Every piece of data is delayed, both ways."""
        async with self._on_link("latency", target, proxy):
            proxy.slow(latency_s)
            try:
                yield
            finally:
                _heal((proxy.up, proxy.down))

    @asynccontextmanager
    async def reset(self, target: Replica | Agents, proxy: Proxy) -> AsyncIterator[None]:
        """All links are cut once."""
        async with self._on_link("reset", target, proxy):
            proxy.reset()
            yield

    @asynccontextmanager
    async def cut_in_a_message(self, target: Replica | Agents, proxy: Proxy, count: int) -> AsyncIterator[None]:
        """A link is cut in the midst of what is sent on it."""
        async with self._on_link("cut in a message", target, proxy):
            proxy.cut_after_bytes(count)
            try:
                yield
            finally:
                proxy.heal()

    @asynccontextmanager
    async def cut_after_commit(self, replica: Replica) -> AsyncIterator[None]:
        """A batch's COMMIT arrives, and its answer does not."""
        async with self._on_link("cut after COMMIT", replica, replica.database):
            replica.database.cut_after_commit()
            try:
                yield
            finally:
                replica.database.heal()

    @asynccontextmanager
    async def _on_link(self, kind: str, target: Replica | Agents, proxy: Proxy) -> AsyncIterator[None]:
        is_database = isinstance(target, Replica) and proxy is target.database
        whose = target.at_stake if isinstance(target, Agents) else {}
        side = "database" if is_database else "bus" if isinstance(target, Replica) else "agents' bus"
        async with self._noted(f"{side}: {kind}", target.name, whose):
            yield

    @asynccontextmanager
    async def database_cut_off(self) -> AsyncIterator[None]:
        """No replica reaches the database, and none is told so; at the end what was sent meanwhile is lost."""
        proxies = [replica.database for replica in self.rig.replicas]
        async with self._noted("database: cut off", "all replicas"):
            for proxy in proxies:
                proxy.silence()
            try:
                yield
            finally:
                for proxy in proxies:
                    proxy.reset()
                    proxy.heal()

    # Crowds, and operators.

    @asynccontextmanager
    async def pool_paused(self, clients: Clients, task_type: str | None) -> AsyncIterator[None]:
        """Nothing is given out, or nothing of a type."""
        async with self._noted("pool paused" if task_type is None else "type paused", task_type or "pool"):
            await clients.pause(task_type)
            try:
                yield
            finally:
                await clients.unpause(task_type)

    @asynccontextmanager
    async def poison(self) -> AsyncIterator[None]:
        """A task was submitted that kills whoever runs it; each death is a fault of its own, `agents_died`."""
        async with self._noted("poison task", "pool"):
            yield

    @asynccontextmanager
    async def flood(self) -> AsyncIterator[None]:
        """Many more submits than usual."""
        async with self._noted("flood of submits", "pool"):
            yield

    @asynccontextmanager
    async def crowd(self) -> AsyncIterator[None]:
        """A thousand agents sign in within a second, though not for work, and leave at the end."""
        subjects = Subjects()
        names = [f"crowd-{number}" for number in range(CROWD)]
        async with (
            self._noted("1,000 agents register", "pool"),
            await Bus.connect(options_from_environment({}, url=self.rig.nats_url)) as bus,
        ):

            async def register(number: int, name: str) -> None:
                message = Register(incarnation=_INCARNATION.format(number), draining=True)
                with suppress(OrchestratorError):
                    await ask(bus, subjects.from_agent(name, "register"), message, RegisterAnswer, timeout_s=5)

            async def leave(number: int, name: str) -> None:
                message = Leave(incarnation=_INCARNATION.format(number))
                with suppress(OrchestratorError):
                    await ask(bus, subjects.from_agent(name, "leave"), message, Nothing, timeout_s=5)

            await asyncio.gather(*(register(*one) for one in enumerate(names)))
            try:
                yield
            finally:
                await asyncio.gather(*(leave(*one) for one in enumerate(names)))


def _heal(flows: tuple[Flow, ...]) -> None:
    for flow in flows:
        flow.heal()


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
