"""Many schedules, on all cores: how they went together, and the first that broke a rule."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.plan import Draw
from tests.simulation.schedule import run
from tests.simulation.shrink import shrink
from tests.simulation.world import ScheduleError

IN_ONE_GO: Final = 25


@dataclass(slots=True)
class Sum:
    """What many schedules were like, together."""

    schedules: int = 0
    calm: int = 0
    tasks: int = 0
    events: int = 0
    slowest_ms: int = 0
    tally: Counter[str] = field(default_factory=Counter[str])
    broken: str | None = None
    """The story of the first that broke a rule."""

    def add(self, other: "Sum") -> None:
        """Take in others."""
        self.schedules += other.schedules
        self.calm += other.calm
        self.tasks += other.tasks
        self.events += other.events
        self.slowest_ms = max(self.slowest_ms, other.slowest_ms)
        self.tally.update(other.tally)
        self.broken = self.broken or other.broken


def run_many(seeds: Sequence[int], *, shrinks: bool = True) -> Sum:
    """Run these, until one breaks a rule."""
    total = Sum()
    # Each schedule is garbage when it is over, all of it cyclic: collecting it amid the next ones takes a tenth of it.
    gc.disable()
    try:
        for seed in seeds:
            try:
                told = run(seed)
            except ScheduleError as error:
                total.broken = str(shrink(Draw(seed).plan(), error)) if shrinks else str(error)
                break
            total.add(Sum(1, int(told.calm), told.tasks, told.events, told.lasted_ms, told.tally))
    finally:
        gc.enable()
        gc.collect()
    return total


def run_on_all_cores(
    seeds: Sequence[int], cores: int, on_progress: Callable[[int], None], *, shrinks: bool = True
) -> Sum:
    """Run these on so many cores, until one breaks a rule; `on_progress` is told how many have been run."""
    if cores == 1:
        return run_many(seeds, shrinks=shrinks)
    total = Sum()
    goes = (seeds[start : start + IN_ONE_GO] for start in range(0, len(seeds), IN_ONE_GO))
    with ProcessPoolExecutor(cores) as pool:
        running: set[Future[Sum]] = set()
        while total.broken is None and _fill(running, pool, goes, cores, shrinks=shrinks):
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                total.add(future.result())
            on_progress(total.schedules)
    return total


def _fill(
    running: set[Future[Sum]], pool: ProcessPoolExecutor, goes: Iterator[Sequence[int]], cores: int, *, shrinks: bool
) -> bool:
    while len(running) < 2 * cores and (go := next(goes, None)) is not None:
        running.add(pool.submit(run_many, go, shrinks=shrinks))
    return bool(running)
