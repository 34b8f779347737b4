"""Publishing where nobody listens, and where a test says what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard.orchestrator.publisher import Publisher
from callboard.orchestrator.telemetry import Telemetry
from callboard.schemas.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callboard.orchestrator.store.port import Lease, Store
    from callboard.schemas.events import EventMessage


class Silence:
    """Carries everything to nobody."""

    async def publish(self, messages: Sequence[EventMessage]) -> None:
        """Nothing fails."""


def silent_publisher(store: Store, lease: Lease) -> Publisher:
    """A publisher that nobody runs."""
    return Publisher(
        Silence(),
        store,
        lease,
        Subjects(lease.pool),
        telemetry=Telemetry(),
        now_ms=lambda: lease.now_ms,
        may_publish=lambda: True,
        on_idle=lambda: None,
    )
