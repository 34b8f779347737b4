"""The percentile estimator against exact percentiles."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.orchestrator.latency import LONGEST_MS, RELATIVE_ERROR, SHORTEST_MS, LatencyWindow

durations = st.lists(st.floats(min_value=SHORTEST_MS, max_value=LONGEST_MS), min_size=1, max_size=300)


@given(durations=durations, percent=st.floats(min_value=0.1, max_value=100))
def test_within_two_percent_of_the_exact_percentile(durations: list[float], percent: float) -> None:
    window = LatencyWindow()
    for duration in durations:
        window.observe(duration)
    exact = sorted(durations)[math.ceil(percent / 100 * len(durations)) - 1]
    estimate = window.percentile(percent)
    assert estimate is not None
    assert abs(estimate - exact) <= exact * RELATIVE_ERROR * (1 + 1e-9)


@given(durations=durations)
def test_percentiles_rise(durations: list[float]) -> None:
    window = LatencyWindow()
    for duration in durations:
        window.observe(duration)
    p50, p95, p99 = (window.percentile(percent) or 0 for percent in (50, 95, 99))
    assert p50 <= p95 <= p99


@pytest.mark.parametrize(
    ("duration", "counts_as"), [(-5.0, SHORTEST_MS), (0.0, SHORTEST_MS), (1e300, LONGEST_MS), (math.inf, LONGEST_MS)]
)
def test_what_is_out_of_range_counts_as_its_end(duration: float, counts_as: float) -> None:
    window = LatencyWindow()
    window.observe(duration)
    assert window.percentile(50) == pytest.approx(counts_as, rel=RELATIVE_ERROR * (1 + 1e-9))


def test_nothing_observed_has_no_percentile() -> None:
    assert LatencyWindow().percentile(99) is None
    assert LatencyWindow().snapshot().p50_ms is None


def test_a_snapshot_counts_and_rounds() -> None:
    window = LatencyWindow()
    for duration in range(1, 101):
        window.observe(duration)
    snapshot = window.snapshot()
    assert snapshot.count == 100
    assert snapshot.p50_ms == pytest.approx(50, rel=RELATIVE_ERROR)
    assert snapshot.p99_ms == pytest.approx(99, rel=RELATIVE_ERROR)
    assert snapshot.p99_ms == round(snapshot.p99_ms or 0, 3)


def test_memory_does_not_grow_with_observations() -> None:
    window = LatencyWindow()
    before = sys.getsizeof(window._buckets)
    for number in range(10_000):
        window.observe(1.001**number)
    assert sys.getsizeof(window._buckets) == before < 20_000
