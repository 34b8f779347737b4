"""Durations for Prometheus, by pool: made at each scrape of what was counted, so that to observe one costs little.

A bucket's bound is met within 4 %: an observation that close below it may count as above (see `latency`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from callboard.orchestrator.latency import LatencyWindow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Durations(Collector):
    """A histogram in seconds with the label `pool`.

    Args:
        name: the metric's, with its unit.
        meaning: its help text.
        bounds: the upper bounds of its buckets, in seconds, rising; the last one, infinity, is implied.
    """

    def __init__(self, name: str, meaning: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._meaning = meaning
        self._bounds = bounds
        self._windows: dict[str, LatencyWindow] = {}

    def of(self, pool: str) -> LatencyWindow:
        """Where the durations of `pool` are counted, from the process's start on."""
        return self._windows.setdefault(pool, LatencyWindow())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The histogram as it stands."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=("pool",))
        for pool, window in self._windows.items():
            buckets = [(str(float(bound)), float(window.count_up_to(bound * 1000))) for bound in self._bounds]
            buckets.append(("+Inf", float(window.count)))
            family.add_metric((pool,), buckets, window.sum_ms / 1000)
        yield family
