"""Which fault comes when: a bag of all kinds, shuffled by the seed, emptied and filled again until the time is over.

Rules:
- Each draws its target and its length from the seed. What the processes make of it is theirs: the same seed is the same
  plan, and not the same history.
- Now and then two faults come at once; only a full disk comes alone, since without room no server can be started again.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import asyncpg
from tests.chaos.rig import LEASE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from random import Random

    from tests.chaos.clients import Clients
    from tests.chaos.faults import Faults
    from tests.chaos.proxy import Proxy
    from tests.chaos.rig import Agents, Replica, Rig

    from callboard.bus.embedded import EmbeddedNats

    Block = AbstractAsyncContextManager[None]
    Kind = Callable[[], Awaitable[tuple[Block, float]]]

SHORT: Final = (0.2, 2.0)
LONG: Final = (2.0, 9.0)
REST_S: Final = (0.2, 2.5)
OVERLAP: Final = 0.4
PAUSED: Final = (None, "work", "fails")
WAYS: Final = ("up", "down", "both")
FLOOD: Final = 10
"""So many times the usual rate, for this long:"""
FLOOD_S: Final = 3.0


class Schedule:
    """Faults for a rig, from a seed."""

    def __init__(
        self, rig: Rig, faults: Faults, clients: Clients, dice: Random, *, rate: float, disk_can_be_full: bool
    ) -> None:
        self._rig, self._faults, self._clients, self._dice = rig, faults, clients, dice
        self._rate = rate
        self.disk_can_be_full = disk_can_be_full
        self.under_way = "nothing"

    async def run(self, until_s: float) -> None:
        """Inject until the loop's clock says `until_s`; every fault is over when it returns."""
        loop = asyncio.get_running_loop()
        bag: list[Kind] = []
        while loop.time() < until_s:
            if not bag:
                bag = self._kinds()
                self._dice.shuffle(bag)
            kinds = [bag.pop()]
            if bag and self._dice.random() < OVERLAP and self._fill_disk not in (kinds[0], bag[-1]):
                kinds.append(bag.pop())
            async with asyncio.TaskGroup() as group:
                for kind in kinds:
                    group.create_task(self._inject(kind))
            await asyncio.sleep(self._dice.uniform(*REST_S))

    async def _inject(self, kind: Kind) -> None:
        async with AsyncExitStack() as stack:
            try:
                block, lasts_s = await kind()
                await stack.enter_async_context(block)
            except (LookupError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                return  # its target is away by the other fault
            self.under_way = kind.__name__.strip("_").replace("_", " ")
            await asyncio.sleep(lasts_s)
        self.under_way = "nothing"

    def _kinds(self) -> list[Kind]:
        kinds: list[Kind] = [
            self._kill_replica, self._kill_owner, self._stop_owner, self._stop_owner, self._restart_replica,
            self._kill_agents, self._stop_agents, self._stop_agents_for_long, self._tell_agents_to_leave,
            self._kill_nats, self._stop_nats, self._lame_duck, self._lower_max_payload,
            self._kill_postgres, self._stop_postgres, self._restart_postgres,
            self._terminate_backends, self._use_up_connections,
            self._cut_database_off, self._cut_after_commit, self._cut_after_commit, self._cut_in_a_message,
            self._silence_database, self._slow_database, self._reset_database,
            self._silence_bus, self._slow_bus, self._reset_bus,
            self._silence_agents, self._slow_agents, self._reset_agents,
            self._poison, self._flood, self._crowd, self._pause,
        ]  # fmt: skip
        return [*kinds, self._fill_disk] if self.disk_can_be_full else kinds

    def _for(self, span: tuple[float, float]) -> float:
        return self._dice.uniform(*span)

    @property
    def _replica(self) -> Replica:
        return self._dice.choice(self._rig.replicas)

    @property
    def _agents(self) -> Agents:
        return self._dice.choice(self._rig.agents)

    @property
    def _node(self) -> EmbeddedNats:
        return self._dice.choice(self._rig.nats)

    # Replicas.

    async def _kill_replica(self) -> tuple[Block, float]:
        return self._faults.replica_killed(self._replica), self._for(LONG)

    async def _kill_owner(self) -> tuple[Block, float]:
        return self._faults.replica_killed(await self._rig.owner()), self._for(LONG)

    async def _stop_owner(self) -> tuple[Block, float]:
        return self._faults.replica_stopped(await self._rig.owner()), self._for((1.0, 9.0))

    async def _restart_replica(self) -> tuple[Block, float]:
        return self._faults.replica_restarted(await self._rig.owner()), self._for(SHORT)

    # Agents.

    async def _kill_agents(self) -> tuple[Block, float]:
        return self._faults.agents_killed(self._agents), self._for(LONG)

    async def _stop_agents(self) -> tuple[Block, float]:
        return self._faults.agents_stopped(self._agents), self._for(SHORT)

    async def _stop_agents_for_long(self) -> tuple[Block, float]:
        return self._faults.agents_stopped(self._agents), LEASE_S + self._for(LONG)

    async def _tell_agents_to_leave(self) -> tuple[Block, float]:
        return self._faults.agents_told_to_leave(self._agents), self._for(SHORT)

    # NATS.

    async def _kill_nats(self) -> tuple[Block, float]:
        return self._faults.nats_killed(self._node), self._for((0.0, 6.0))

    async def _stop_nats(self) -> tuple[Block, float]:
        return self._faults.nats_stopped(self._node), self._for((0.2, 6.0))

    async def _lame_duck(self) -> tuple[Block, float]:
        return self._faults.nats_lame_duck(self._node), 0.0

    async def _lower_max_payload(self) -> tuple[Block, float]:
        return self._faults.nats_max_payload(self._node), self._for(LONG)

    # Postgres.

    async def _kill_postgres(self) -> tuple[Block, float]:
        return self._faults.postgres_killed(), self._for((0.0, 6.0))

    async def _stop_postgres(self) -> tuple[Block, float]:
        return self._faults.postgres_stopped(), self._for((0.2, 9.0))

    async def _restart_postgres(self) -> tuple[Block, float]:
        return self._faults.postgres_restarted(), self._for(SHORT)

    async def _terminate_backends(self) -> tuple[Block, float]:
        return self._faults.backends_terminated(), 0.0

    async def _use_up_connections(self) -> tuple[Block, float]:
        return self._faults.connections_used_up(), self._for(LONG)

    async def _fill_disk(self) -> tuple[Block, float]:
        return self._faults.disk_full(), self._for(LONG)

    # Connections.

    async def _cut_database_off(self) -> tuple[Block, float]:
        return self._faults.database_cut_off(), self._for(LONG)

    async def _cut_after_commit(self) -> tuple[Block, float]:
        return self._faults.cut_after_commit(await self._rig.owner()), 1.0

    async def _cut_in_a_message(self) -> tuple[Block, float]:
        owner = await self._rig.owner()
        proxy = self._dice.choice((owner.database, owner.nats))
        return self._faults.cut_in_a_message(owner, proxy, self._dice.randrange(1, 20_000)), 1.0

    async def _silence_database(self) -> tuple[Block, float]:
        owner = await self._rig.owner()
        return self._silent(owner, owner.database), self._for(LONG)

    async def _slow_database(self) -> tuple[Block, float]:
        owner = await self._rig.owner()
        return self._faults.slow(owner, owner.database, self._for((0.02, 1.0))), self._for(LONG)

    async def _reset_database(self) -> tuple[Block, float]:
        owner = await self._rig.owner()
        return self._faults.reset(owner, owner.database), 0.0

    async def _silence_bus(self) -> tuple[Block, float]:
        owner = await self._rig.owner()
        return self._silent(owner, owner.nats), self._for(LONG)

    async def _slow_bus(self) -> tuple[Block, float]:
        owner = await self._rig.owner()
        return self._faults.slow(owner, owner.nats, self._for((0.02, 0.5))), self._for(LONG)

    async def _reset_bus(self) -> tuple[Block, float]:
        owner = await self._rig.owner()
        return self._faults.reset(owner, owner.nats), 0.0

    async def _silence_agents(self) -> tuple[Block, float]:
        agents = self._agents
        return self._silent(agents, agents.nats), self._for(LONG)

    async def _slow_agents(self) -> tuple[Block, float]:
        agents = self._agents
        return self._faults.slow(agents, agents.nats, self._for((0.02, 0.5))), self._for(LONG)

    async def _reset_agents(self) -> tuple[Block, float]:
        agents = self._agents
        return self._faults.reset(agents, agents.nats), 0.0

    def _silent(self, target: Replica | Agents, proxy: Proxy) -> Block:
        is_lost = self._dice.random() < 0.5
        return self._faults.silent(target, proxy, way=self._dice.choice(WAYS), then_reset=is_lost)

    # Crowds, and operators.

    async def _poison(self) -> tuple[Block, float]:
        self._clients.begin_poison()
        return self._faults.poison(), 0.0

    async def _flood(self) -> tuple[Block, float]:
        return self._flooded(), FLOOD_S

    @asynccontextmanager
    async def _flooded(self) -> AsyncIterator[None]:
        async with self._faults.flood():
            more = asyncio.create_task(self._clients.keep_submitting(self._rate * FLOOD))
            try:
                yield
            finally:
                more.cancel()
                with suppress(asyncio.CancelledError):
                    await more

    async def _pause(self) -> tuple[Block, float]:
        return self._faults.pool_paused(self._clients, self._dice.choice(PAUSED)), self._for(LONG)

    async def _crowd(self) -> tuple[Block, float]:
        return self._faults.crowd(), self._for(SHORT)
