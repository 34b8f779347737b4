"""Whether this replica could do its work now: a real round trip through the bus and the database."""

from collections.abc import Mapping

from callboard.bus.connection import Bus
from callboard.orchestrator.store.port import Store, StoreUnavailableError
from callboard.schemas.errors import OrchestratorError


class Readiness:
    """Called for `/readyz`: the parts that are not well, each with its reason."""

    def __init__(self, bus: Bus, store: Store) -> None:
        self._bus = bus
        self._store = store

    async def __call__(self) -> Mapping[str, str]:
        """Ask both."""
        unwell: dict[str, str] = {}
        try:
            await self._bus.rtt()
        except OrchestratorError as error:
            unwell["bus"] = error.message
        try:
            await self._store.ping()
        except StoreUnavailableError as error:
            unwell["database"] = str(error)
        return unwell
