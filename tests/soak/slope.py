"""Whether a series of samples grows: a straight line by least squares, after the warm-up.

Rules:
- The first third of the time is warm-up: caches, pools and statistics fill up to their bounds.
- What counts is the growth along the fitted line over the measured time, against a tolerance that is stated per series:
  a share of its median, for what breathes with the load, and an absolute part, for what is small.
- The tolerance does not grow with the time: the longer the run, the smaller the leak that it finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP = 1 / 3
FEWEST = 10


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a series may grow over the measured time: `share` of its median and `absolute` in its unit."""

    share: float
    absolute: float


@dataclass(frozen=True, slots=True)
class Growth:
    """What a series did after the warm-up: per hour, and over the measured time, in its unit."""

    median: float
    per_hour: float
    total: float
    allowed: float

    @property
    def is_tolerable(self) -> bool:
        """Whether it stayed within its tolerance."""
        return self.total <= self.allowed


def growth(times_s: Sequence[float], values: Sequence[float], tolerance: Tolerance) -> Growth:
    """How a series grew.

    Raises:
        ValueError: fewer than ten samples are left after the warm-up, which say nothing.
    """
    begin_s = times_s[0] + (times_s[-1] - times_s[0]) * WARM_UP if times_s else 0.0
    kept = [(time_s, value) for time_s, value in zip(times_s, values, strict=True) if time_s >= begin_s]
    if len(kept) < FEWEST:
        raise ValueError(f"{len(kept)} samples after the warm-up are too few: run for longer")
    times, heights = zip(*kept, strict=True)
    middle_s, middle = fmean(times), fmean(heights)
    spread = sum((time_s - middle_s) ** 2 for time_s in times)
    slope = sum((time_s - middle_s) * (value - middle) for time_s, value in kept) / spread
    usual = median(heights)
    return Growth(
        median=usual,
        per_hour=slope * 3600,
        total=slope * (times[-1] - times[0]),
        allowed=tolerance.share * usual + tolerance.absolute,
    )
