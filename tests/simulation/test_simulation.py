"""Schedules from seeds; a failure prints its seed and its story. More of them: `python -m tests.simulation`."""

import pytest
from tests.simulation.schedule import CALM_ONE_IN, Schedule, run

SEEDS = 500
IN_ONE_TEST = 50


@pytest.mark.parametrize("first", range(0, SEEDS, IN_ONE_TEST))
def test_whatever_happens_every_accepted_task_ends_once(first: int) -> None:
    for seed in range(first, first + IN_ONE_TEST):
        run(seed)


@pytest.mark.parametrize("seed", [CALM_ONE_IN, CALM_ONE_IN + 1])
def test_a_seed_is_one_schedule(seed: int) -> None:
    """Else a story could not be told twice."""
    stories = []
    for _ in range(2):
        schedule = Schedule(seed)
        told = schedule.run()
        stories.append((told, list(schedule.world._story)))
    assert stories[0] == stories[1]


def test_some_schedules_have_faults_and_some_have_none() -> None:
    told = [run(seed) for seed in range(2 * CALM_ONE_IN)]
    assert {each.calm for each in told} == {True, False}
    assert sum(each.tasks for each in told) > len(told)
