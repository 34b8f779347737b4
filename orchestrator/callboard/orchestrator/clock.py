"""The pool's clock: the database's time, carried on by the local monotonic clock.

All replicas decide by the database's clock, so that a deadline or an order does not depend on whose wall clock is
right; between readings time flows by the monotonic clock, which no administrator sets. It never goes back.
"""

from time import monotonic


class PoolClock:
    """Milliseconds since the Unix epoch."""

    __slots__ = ("_last_ms", "_offset_ms")

    def __init__(self, now_ms: int) -> None:
        self._offset_ms = now_ms - monotonic() * 1000
        self._last_ms = now_ms

    def set(self, now_ms: int, asked_s: float) -> None:
        """Take in a reading of the database's clock that was asked for at `asked_s`, in monotonic seconds.

        The database reads its clock as it begins, so the moment of asking is nearer to it than that of the answer.
        """
        self._offset_ms = now_ms - asked_s * 1000

    def now_ms(self) -> int:
        """The time now."""
        self._last_ms = max(self._last_ms, int(self._offset_ms + monotonic() * 1000))
        return self._last_ms
