"""The pool's clock: the database's time, carried on by a local clock that nobody sets.

All replicas decide by the database's clock, so that a deadline or an order does not depend on whose wall clock is
right. Between readings time flows by `steady_s`. A step of the database's clock is followed slowly, at most a tenth
faster or slower than time flows: an hour that never passed must not end every lease. It never goes back.
"""

import time
from collections.abc import Callable
from typing import Final

SLEW: Final = 0.1
_STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Where there is one, the clock that runs on while the machine sleeps: a lease does too."""


def steady_s() -> float:
    """Seconds of the local clock that nobody sets; only differences mean anything."""
    return time.clock_gettime(_STEADY)


class PoolClock:
    """Milliseconds since the Unix epoch.

    Args:
        now_ms: a reading of the database's clock.
        steady: the local clock.
    """

    __slots__ = ("_last_ms", "_offset_ms", "_read_s", "_steady")

    def __init__(self, now_ms: int, steady: Callable[[], float] = steady_s) -> None:
        self._steady = steady
        self._read_s = steady()
        self._offset_ms = now_ms - self._read_s * 1000
        self._last_ms = now_ms

    def set(self, now_ms: int, asked_s: float) -> None:
        """Take in a reading of the database's clock that was asked for at `asked_s`, by `steady_s`.

        It was true at some moment between asking and the answer. An offset that fits is left as it is; one that does
        not is brought to the nearer end. So the clock, which begins behind the truth, does not get ahead of it: what
        is due is never early.
        """
        read_s = self._steady()
        most_ms = (read_s - self._read_s) * 1000 * SLEW
        self._read_s = read_s
        fitting_ms = min(max(self._offset_ms, now_ms - read_s * 1000), now_ms - asked_s * 1000)
        self._offset_ms += max(-most_ms, min(fitting_ms - self._offset_ms, most_ms))

    def now_ms(self) -> int:
        """The time now."""
        self._last_ms = max(self._last_ms, int(self._offset_ms + self._steady() * 1000))
        return self._last_ms
