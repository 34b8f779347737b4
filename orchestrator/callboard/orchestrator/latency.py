"""Percentiles of durations in bounded memory: a histogram with logarithmic buckets. Pure.

Every bucket spans 4 % and is reported by the value 2 % away from both of its edges, so a percentile is within 2 % of
the exact one (as in DDSketch). An observation is one logarithm and one addition; memory is 10 KiB, whatever the count.
"""

from __future__ import annotations

import math
from typing import Final

from callboard.schemas.status import Latency

RELATIVE_ERROR: Final = 0.02
SHORTEST_MS: Final = 0.001
LONGEST_MS: Final = 30 * 24 * 3600 * 1000.0
"""Durations outside of these two count as these."""

_GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_SCALE: Final = 1 / math.log(_GAMMA)
_BUCKETS: Final = math.ceil(math.log(LONGEST_MS / SHORTEST_MS) * _SCALE) + 1


class LatencyWindow:
    """Durations observed since it was made."""

    __slots__ = ("_buckets", "_count", "sum_ms")

    def __init__(self) -> None:
        self._count = 0
        self._buckets = [0] * _BUCKETS
        self.sum_ms = 0.0
        """All durations together; a negative one counts nothing."""

    @property
    def count(self) -> int:
        """How many durations were observed."""
        return self._count

    def observe(self, duration_ms: float) -> None:
        """Count one duration in milliseconds; a negative one (a clock was set back) counts as the shortest."""
        if duration_ms > 0:
            self.sum_ms += duration_ms
        bounded = min(max(duration_ms, SHORTEST_MS), LONGEST_MS)
        # Bucket n holds what is at most SHORTEST * gamma^n, and more than the bucket before.
        self._buckets[math.ceil(math.log(bounded / SHORTEST_MS) * _SCALE)] += 1
        self._count += 1

    def since(self, before: LatencyWindow) -> LatencyWindow:
        """What was observed after `before`, an earlier copy of this."""
        later = LatencyWindow()
        later._count = self._count - before._count
        later._buckets = [now - then for now, then in zip(self._buckets, before._buckets, strict=True)]
        later.sum_ms = self.sum_ms - before.sum_ms
        return later

    def copy(self) -> LatencyWindow:
        """What was observed so far, apart from what comes."""
        return self.since(LatencyWindow())

    def count_up_to(self, bound_ms: float) -> int:
        """How many durations were at most `bound_ms`; those up to 4 % below it may be missing."""
        if bound_ms < SHORTEST_MS:
            return 0
        return sum(self._buckets[: math.floor(math.log(bound_ms / SHORTEST_MS) * _SCALE) + 1])

    def percentile(self, percent: float) -> float | None:
        """The nearest-rank percentile in milliseconds, within 2 %; `None` before the first observation.

        Args:
            percent: More than 0, at most 100.
        """
        rank = math.ceil(percent / 100 * self._count)
        if rank == 0:
            return None
        seen = 0
        for number, held in enumerate(self._buckets):
            seen += held
            if seen >= rank:
                return SHORTEST_MS * _GAMMA**number * 2 / (_GAMMA + 1)
        raise AssertionError("the buckets hold fewer observations than were counted")

    def snapshot(self) -> Latency:
        """What `status` shows, rounded to microseconds."""
        p50, p95, p99 = (self._rounded(percent) for percent in (50, 95, 99))
        return Latency(count=self._count, p50_ms=p50, p95_ms=p95, p99_ms=p99)

    def _rounded(self, percent: float) -> float | None:
        exact = self.percentile(percent)
        return None if exact is None else round(exact, 3)
