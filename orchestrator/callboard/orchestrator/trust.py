"""How long this replica may believe that a pool is its own.

The lease in the database runs from the moment the database wrote it; trust runs from the moment *before* the write was
sent, by the local clock that nobody sets, so that it always ends first. It is checked before every few
effects. A replica that is deaf on the bus does not renew: it must not keep a pool that it cannot serve.
"""

from collections.abc import Callable
from typing import Final

from callboard.orchestrator.clock import steady_s

RENEW_S: Final = 1.0
"""How often a lease is renewed while nothing is written; a short one three times in its length."""
HEARD_S: Final = 2.0
"""How old the answer to the owner's own request over NATS may be, in seconds."""


class Trust:
    """Trust in one lease.

    Args:
        lease_ms: how long the lease lasts.
        began_s: when it was asked for, by `steady`.
        steady: the local clock.

    Attributes:
        renew_s: how old trust gets before it is renewed.
    """

    __slots__ = ("_heard_s", "_lease_s", "_steady", "_until_s", "renew_s")

    def __init__(self, *, lease_ms: int, began_s: float, steady: Callable[[], float] = steady_s) -> None:
        self._steady = steady
        self._lease_s = lease_ms / 1000
        self.renew_s = min(RENEW_S, self._lease_s / 3)
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
    def is_old(self) -> bool:
        """Whether the lease is to be renewed, if nothing else extends it."""
        return self._steady() - (self._until_s - self._lease_s) >= self.renew_s
