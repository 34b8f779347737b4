"""What is done beside deciding: keeping the history tidy, mirroring, and the gauges of `/metrics`."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from callboard.orchestrator.core.views import agent_counts
from callboard.orchestrator.keeper import PoolKeeper, Premises
from callboard.orchestrator.mirror import PoolMirror
from callboard.orchestrator.owner import PoolOwner
from callboard.orchestrator.status import system_status
from callboard.orchestrator.store.port import StoreUnavailableError
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.status import SystemStatus

log = structlog.get_logger("callboard.orchestrator")

TIDY_EVERY_S: Final = 3600.0
MIRROR_RETRY_S: Final = 10.0


class Chores:
    """The background tasks of one process, from `start` to `stop`."""

    def __init__(self, premises: Premises, keepers: Sequence[PoolKeeper]) -> None:
        self._premises = premises
        self._keepers = keepers
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start those that the configuration wants."""
        config = self._premises.config
        if config.enable_background_tasks:
            self._running.append(asyncio.create_task(self._tidy(), name="tidy"))
        if config.enable_caching:
            self._running += [asyncio.create_task(self._mirror(keeper), name="mirror") for keeper in self._keepers]

    async def stop(self) -> None:
        """End them. May be called twice."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()

    async def _tidy(self) -> None:
        """Once at the start, then every hour; several replicas may do it at once."""
        config = self._premises.config
        while True:
            try:
                await self._premises.store.maintain(retention_days=config.retention_days)
            except StoreUnavailableError as error:
                log.warning("history not tidied", reason=str(error))
            except Exception:
                # One bad hour must not end the chore for good, nor in silence.
                log.exception("history not tidied")
            await asyncio.sleep(TIDY_EVERY_S)

    async def _mirror(self, keeper: PoolKeeper) -> None:
        def status_of(owner: PoolOwner) -> SystemStatus:
            return system_status(owner, self._premises.facts)

        while True:
            try:
                await PoolMirror(self._premises.bus, keeper.pool, lambda: keeper.owner).run(status_of)
            except OrchestratorError as error:
                log.warning("mirror waits", pool=keeper.pool, reason=error.message)
            except Exception:
                log.exception("mirror failed", pool=keeper.pool)
            await asyncio.sleep(MIRROR_RETRY_S)


def set_gauges(keepers: Iterable[PoolKeeper]) -> None:
    """Bring the gauges of the owned pools up to date, for a scrape."""
    for keeper in keepers:
        owner = keeper.owner
        if owner is None:
            continue
        pool = owner.machine.pool
        oldest_ms = pool.queue.oldest_ms()
        waited_ms = 0 if oldest_ms is None else max(owner.clock.now_ms() - oldest_ms, 0)
        live = {state: count for state, count in owner.counts.items() if not state.is_final}
        owner.telemetry.set_tasks(live, waited_ms)
        counts = agent_counts(pool)
        owner.telemetry.set_agents(counts.by_state, counts.slots, counts.slots_used)
