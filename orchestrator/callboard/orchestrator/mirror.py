"""The agent directory and the status in a NATS key-value bucket, for `nats kv watch` (`enable_caching`).

A view, never read back: `status`, and `agents.<agent_id>` whenever something of an agent changed but its last sign of
life. Bucket `callboard_<pool>`.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from callboard.bus.connection import Bus
from callboard.bus.keyvalue import Mirror
from callboard.orchestrator.core.views import agent_document
from callboard.orchestrator.owner import PoolOwner
from callboard.schemas.codec import encode
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.status import SystemStatus

log = structlog.get_logger("callboard.orchestrator")

EVERY_S: Final = 1.0


class PoolMirror:
    """Writes what changed, once a second, while the pool is ours."""

    def __init__(self, bus: Bus, pool: str, owner_of: Callable[[], PoolOwner | None]) -> None:
        self._bus = bus
        self._bucket = f"callboard_{pool}"
        self._owner_of = owner_of
        self._written: dict[str, bytes] = {}

    async def run(self, status_of: Callable[[PoolOwner], SystemStatus]) -> None:
        """Mirror until cancelled.

        Raises:
            ConfigurationError: JetStream is not enabled.
        """
        mirror = await Mirror.open(self._bus, self._bucket)
        while True:
            await asyncio.sleep(EVERY_S)
            owner = self._owner_of()
            if owner is None:
                # Whoever owns the pool now writes; should it come back to us, all is written anew.
                self._written.clear()
                continue
            try:
                await self._write(mirror, owner, status_of(owner))
            except OrchestratorError as error:
                log.info("mirror not written", bucket=self._bucket, reason=error.message)

    async def _write(self, mirror: Mirror, owner: PoolOwner, status: SystemStatus) -> None:
        pool = owner.machine.pool
        present = {
            f"agents.{agent.agent_id}": encode(msgspec.structs.replace(agent_document(pool, agent), last_seen_at=None))
            for agent in pool.agents.values()
        }
        present["status"] = encode(status)
        for key, value in present.items():
            if self._written.get(key) != value:
                await mirror.put(key, value)
                self._written[key] = value
        for key in [key for key in self._written if key not in present]:
            await mirror.delete(key)
            del self._written[key]
