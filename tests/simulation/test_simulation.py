"""Schedules from seeds; a failure prints its seed and its shortest story. More of them: `make simulate SEEDS=50000`."""

from dataclasses import replace
from functools import cache

import pytest
from tests.simulation.coverage import TRANSITIONS
from tests.simulation.many import Sum, run_many
from tests.simulation.plan import CALM_ONE_IN, FAULTS, Draw, Plan
from tests.simulation.schedule import Schedule, Told, run_plan
from tests.simulation.shrink import shrink
from tests.simulation.world import ScheduleError

SEEDS = 2_000
IN_ONE_TEST = 100
FIRSTS = range(0, SEEDS, IN_ONE_TEST)
OFTEN = 20
SELDOM = 1

EVENTS = frozenset(
    [f"stopped {point}" for point in ("decided", "committed", "sending")]
    + [f"noise {kind}" for kind in ("lost", "late", "doubled", "lost answer", "late commit", "events broken off")]
    + [f"lost: {why}" for why in ("fenced", "another owner")]
    + ["a commit fenced", "a late commit fenced", "a commit repeated", "a lower epoch heard"]
    + ["take-over", "handed over", "passive", "stall", "executed again", "told again", "events read again"]
)
UNREACHABLE = frozenset(
    {
        "agent online offline",  # whoever is silent for a lease was suspect before; timers are late only after a stall
        "phase signed_in forgotten",  # an agent that is forgotten was silent, and has lost its lease
        "phase signing_in lease_ended",  # a first registration has no lease, a later one comes of being forgotten
        "task assigned poisoned",  # what was only offered does not crash
        "task waiting_input asked",  # handlers ask once, and wait for the answer
    }
)
"""Rows of the tables that no schedule goes through, and why."""
RARE = frozenset(
    {
        "phase signing_in removed",  # replaced before its first `register`, which is repeated soon, is answered
        "task deferred adopted",  # an agent of the SDK that comes back is told to cancel what was given up, almost
        "task queued adopted",  # always before it can report it
    }
)
"""Rows that not every thousand schedules go through, and why."""


@cache
def schedules(first: int) -> Sum:
    """Run once, whichever tests look at them."""
    return run_many(range(first, first + IN_ONE_TEST))


@pytest.mark.parametrize("first", FIRSTS)
def test_whatever_happens_every_accepted_task_ends_once(first: int) -> None:
    found = schedules(first)
    assert found.broken is None, found.broken
    assert found.schedules == IN_ONE_TEST


@pytest.mark.timeout(600)
def test_every_fault_and_every_transition_happened() -> None:
    """Else nothing was shown about it."""
    total = Sum()
    for first in FIRSTS:
        total.add(schedules(first))
    happened = total.tally
    often = EVENTS | {f"fault {kind}" for kind in FAULTS}
    assert {what: happened[what] for what in often if happened[what] < OFTEN} == {}
    assert {what: happened[what] for what in TRANSITIONS - UNREACHABLE - RARE if happened[what] < SELDOM} == {}
    assert {what for what in UNREACHABLE if happened[what]} == set()
    assert 0 < total.calm < total.schedules


@pytest.mark.parametrize("seed", [CALM_ONE_IN, CALM_ONE_IN + 1])
def test_a_seed_is_one_schedule(seed: int) -> None:
    """Else a story could not be told twice."""
    stories: list[tuple[Told, list[str]]] = []
    for _ in range(2):
        schedule = Schedule(Draw(seed).plan())
        told = schedule.run()
        stories.append((told, schedule.world.story()))
    assert stories[0] == stories[1]


def test_the_shortest_story_has_only_what_breaks_the_rule() -> None:
    """A rule that breaks when an owner dies and a task hangs, in a plan full of other things."""

    def run(plan: Plan) -> Told:
        kinds, types = {fault.kind for fault in plan.faults}, {wish.spec.type for wish in plan.wishes}
        if "owner_dies" in kinds and "hang" in types:
            raise ScheduleError(plan.seed, f"{len(plan.wishes)} tasks are lost: some", [])
        if not kinds:
            raise ScheduleError(plan.seed, "nothing happens", [])
        return run_plan(replace(plan, wishes=(), faults=()))

    def breaks(plan: Plan) -> ScheduleError | None:
        try:
            run(plan)
        except ScheduleError as error:
            return error
        return None

    plan, error = next(
        (plan, error)
        for plan in (Draw(seed).plan() for seed in range(1, 1_000))
        if len(plan.faults) > 5 and (error := breaks(plan)) is not None
    )
    found = shrink(plan, error, run=run)
    assert [fault.kind for fault in found.plan.faults] == ["owner_dies"]
    assert [wish.spec.type for wish in found.plan.wishes] == ["hang"]
    assert (len(found.plan.members), found.plan.replicas, found.plan.drift) == (1, 1, 0.0)
    assert found.error.rule == error.rule == "# tasks are lost"
