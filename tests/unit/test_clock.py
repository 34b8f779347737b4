"""The pool's clock: follows the database's, never jumps with it, never goes back."""

from __future__ import annotations

import pytest

from callboard.orchestrator.clock import PoolClock

T0 = 1_700_000_000_000
HOUR_MS = 3_600_000


class Steady:
    """A local clock in the test's hands."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def steady() -> Steady:
    return Steady()


def test_between_readings_it_flows_with_the_local_clock(steady: Steady) -> None:
    pool = PoolClock(T0, steady)
    steady.now_s += 2.5
    assert pool.now_ms() == T0 + 2_500


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS])
def test_a_step_of_the_databases_clock_is_followed_at_a_tenth_of_its_pace(steady: Steady, step_ms: int) -> None:
    pool = PoolClock(T0, steady)
    steady.now_s += 10
    asked_s = steady.now_s
    pool.set(T0 + 10_000 + step_ms, asked_s)
    assert pool.now_ms() == T0 + 10_000 + (1_000 if step_ms > 0 else -1_000)


@pytest.mark.parametrize(
    ("reading_ms", "taken_ms"),
    [(10_000, 10_200), (10_150, 10_200), (10_200, 10_200), (10_250, 10_250), (9_950, 10_150)],
)
def test_a_reading_moves_it_no_farther_than_the_reading_can_mean(
    steady: Steady, reading_ms: int, taken_ms: int
) -> None:
    pool = PoolClock(T0, steady)
    steady.now_s += 10
    asked_s = steady.now_s
    steady.now_s += 0.2  # the database read its clock somewhere in between
    pool.set(T0 + reading_ms, asked_s)
    assert pool.now_ms() == T0 + taken_ms


def test_it_never_goes_back(steady: Steady) -> None:
    pool = PoolClock(T0, steady)
    steady.now_s += 1
    before = pool.now_ms()
    pool.set(T0 + 950, steady.now_s)
    assert pool.now_ms() == before
