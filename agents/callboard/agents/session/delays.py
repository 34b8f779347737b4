"""How long to wait before trying again, spread so that a fleet does not march in step.

Pure: the seed comes in as a value, and the same seed gives the same delays.
"""

from typing import Final

HEARTBEAT_SPREAD: Final = 0.2
"""Protocol, section 3: agents add ±20 % jitter."""
RETRY_SPREAD: Final = 0.5
RETRY_INITIAL_MS: Final = 200
RETRY_MAX_MS: Final = 5_000

# The multiplier and increment of Knuth's MMIX generator: ample for jitter, and three lines instead of a dependency.
_MULTIPLIER = 6364136223846793005
_INCREMENT = 1442695040888963407
_MASK = 2**64 - 1


class Delays:
    """A stream of jittered delays."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def spread(self, delay_ms: int, share: float) -> int:
        """`delay_ms` ± `share` of it, at least 1."""
        self._state = (self._state * _MULTIPLIER + _INCREMENT) & _MASK
        # The high bits: the low ones of such a generator have short periods.
        unit = (self._state >> 33) / 2**31
        return max(1, round(delay_ms * (1 - share + 2 * share * unit)))

    def retry_ms(self, failures: int, *, at_least_ms: int | None = None, at_most_ms: int = RETRY_MAX_MS) -> int:
        """The delay after the `failures`-th failure in a row: exponential, bounded before the jitter of ±50 %."""
        grown = min(RETRY_INITIAL_MS * 2 ** min(failures - 1, 16), RETRY_MAX_MS, at_most_ms)
        return max(self.spread(grown, RETRY_SPREAD), at_least_ms or 0)
