"""How long this replica may believe that a pool is its own.

The lease in the database runs from the moment the database wrote it; trust runs from the moment *before* the write was
sent, by the local clock that nobody sets, so that it always ends first. It is checked before every effect. A replica
that is deaf on the bus does not renew: it must not keep a pool that it cannot serve.
"""

from collections.abc import Callable
from typing import Final

from callboard.orchestrator.clock import steady_s

HEARD_S: Final = 2.0
"""How old the answer to the owner's own request over NATS may be, in seconds."""


class Trust:
    """Trust in one lease.

    Args:
        lease_ms: how long the lease lasts.
        began_s: when it was asked for, by `steady`.
        steady: the local clock.
    """

    __slots__ = ("_heard_s", "_lease_s", "_steady", "_until_s")

    def __init__(self, *, lease_ms: int, began_s: float, steady: Callable[[], float] = steady_s) -> None:
        self._steady = steady
        self._lease_s = lease_ms / 1000
        self._until_s = began_s + self._lease_s
        self._heard_s = self._steady()

    def extend(self, began_s: float) -> None:
        """The lease was written by a request that was sent at `began_s` (by the local clock)."""
        self._until_s = began_s + self._lease_s

    def heard(self) -> None:
        """Our own request came back over NATS."""
        self._heard_s = self._steady()

    @property
    def holds(self) -> bool:
        """Whether the pool is ours beyond doubt."""
        return self._steady() < self._until_s

    @property
    def is_heard(self) -> bool:
        """Whether NATS carries our messages."""
        return self._steady() - self._heard_s < HEARD_S

    @property
    def age_s(self) -> float:
        """Seconds since the lease was extended, at most."""
        return self._steady() - (self._until_s - self._lease_s)
