"""Which changes of the connection are worth a line in the log.

Every one is but the attempts that fail alike: of these the 1st, 2nd, 4th, 8th …, so that a server that is away fills no
log and a long silence is still told from a short one.
"""

from typing import Final

import structlog

from callboard.bus.messages import BusState

log = structlog.get_logger("callboard.bus")

_GOOD: Final = frozenset({BusState.CONNECTED, BusState.RECONNECTED, BusState.CLOSED})


class BusNews:
    """Writes the log of one connection."""

    def __init__(self) -> None:
        self._failure = ""
        self._failures = 0

    def tell(self, state: BusState, reason: str) -> None:
        """A change; `reason` as in `BusChange`."""
        if state is not BusState.FAILED:
            self._failure = ""
            level = log.info if state in _GOOD else log.warning
            level("bus changed", state=state.value, reason=reason)
            return
        self._failures = self._failures + 1 if reason == self._failure else 1
        self._failure = reason
        if self._failures & (self._failures - 1) == 0:
            log.warning("bus changed", state=state.value, reason=reason, attempts=self._failures)
