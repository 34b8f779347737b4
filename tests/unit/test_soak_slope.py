"""The judge of the soak: it finds a planted leak, and takes neither warm-up nor breathing for one."""

from __future__ import annotations

import random

import pytest
from tests.soak.slope import Tolerance, growth

HOUR_S = [5.0 * n for n in range(721)]
RSS = Tolerance(share=0.04, absolute=4.0)


def breathing(seed: int) -> list[float]:
    """About 100 MiB that come and go with the load."""
    rng = random.Random(seed)  # noqa: S311 - a repeatable series, no secret
    return [100 + rng.gauss(0, 2) for _ in HOUR_S]


def test_a_planted_leak_is_found() -> None:
    for seed in range(50):
        leaking = [value + 20 * time_s / 3600 for time_s, value in zip(HOUR_S, breathing(seed), strict=True)]
        found = growth(HOUR_S, leaking, RSS)
        assert not found.is_tolerable, seed
        assert found.per_hour == pytest.approx(20, abs=2)


def test_a_leak_of_one_descriptor_a_minute_is_found() -> None:
    leaking = [30.0 + time_s // 60 for time_s in HOUR_S]
    assert not growth(HOUR_S, leaking, Tolerance(share=0.1, absolute=3)).is_tolerable


def test_noise_is_no_leak() -> None:
    for seed in range(50):
        assert growth(HOUR_S, breathing(seed), RSS).is_tolerable, seed


def test_a_warm_up_is_no_leak() -> None:
    warming = [100 - 60 * max(0.0, 1 - time_s / 1000) for time_s in HOUR_S]
    found = growth(HOUR_S, warming, RSS)
    assert found.is_tolerable
    assert found.total == pytest.approx(0, abs=0.01)


def test_what_is_filled_and_emptied_is_no_leak() -> None:
    vacuumed = [8.0 + (time_s % 60) / 60 for time_s in HOUR_S]
    assert growth(HOUR_S, vacuumed, Tolerance(share=0, absolute=0.5)).is_tolerable


def test_what_shrinks_is_no_leak() -> None:
    assert growth(HOUR_S, [200 - time_s / 60 for time_s in HOUR_S], RSS).is_tolerable


def test_too_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="9 samples"):
        growth(HOUR_S[:13], breathing(0)[:13], RSS)
