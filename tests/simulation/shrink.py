"""The shortest story of a broken rule: leave out what is not needed, as long as the same rule breaks.

Greedy, the boldest cuts first, and bounded by the number of runs, so that it ends the same way every time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from tests.simulation.plan import Plan
from tests.simulation.schedule import Told, run_plan
from tests.simulation.world import ScheduleError

MOST_RUNS: Final = 400
SALTS: Final = 2
"""Without an ingredient chance falls differently: so many times it may."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What is left, how it broke the rule, and in how many runs that was found."""

    plan: Plan
    error: ScheduleError
    runs: int

    def __str__(self) -> str:
        return f"{self.error}\nshortest plan found, in {self.runs} runs: {self.plan}"


def shrink(
    plan: Plan, error: ScheduleError, *, most_runs: int = MOST_RUNS, run: Callable[[Plan], Told] = run_plan
) -> Shrunk:
    """Reduce a plan that broke a rule."""
    reduction = _Reduction(plan, error, most_runs, run)
    before: Plan | None = None
    while before is not reduction.plan:
        # What could not be left out may be, now that other things are gone.
        before = reduction.plan
        for parts in ("faults", "wishes", "members"):
            reduction.shorten(parts)
        reduction.simplify()
    return Shrunk(reduction.plan, reduction.error, reduction.runs)


class _Reduction:
    def __init__(self, plan: Plan, error: ScheduleError, most_runs: int, run: Callable[[Plan], Told]) -> None:
        self.plan, self.error, self.runs = plan, error, 0
        self._most_runs, self._run = most_runs, run

    def shorten(self, field: str) -> None:
        """Leave out half of the parts, then quarters, down to each."""
        first = 1 if field == "members" else 0  # the first agent can do anything: without it a task may wait for ever
        length = len(getattr(self.plan, field)) - first
        while length > 0:
            start = first
            while start < len(getattr(self.plan, field)):
                if not self._take(self.plan.without(field, start, length)):
                    start += length
            length //= 2

    def simplify(self) -> None:
        """Leave out what is no list."""
        for plain in self._plain():
            self._take(plain)

    def _plain(self) -> Iterator[Plan]:
        for ingredient in self.plan.oddities:
            yield self.plan.made_plain(ingredient)

    def _take(self, candidate: Plan) -> bool:
        """Whether the candidate breaks the rule, too: then it is the plan."""
        for salt in range(SALTS):
            if self.runs >= self._most_runs:
                return False
            self.runs += 1
            tried = replace(candidate, salt=salt)
            try:
                self._run(tried)
            except ScheduleError as error:
                if error.rule == self.error.rule:
                    self.plan, self.error = tried, error
                    return True
        return False
