"""`python -m tests.simulation --seeds 5000` runs so many schedules; `--seed 17` runs one, the same every time."""

import argparse
import sys
import time

from tests.simulation.schedule import run
from tests.simulation.world import ScheduleError


def main() -> int:
    """Run the schedules that were asked for; 1 at the first that breaks a rule."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one")
    wanted = parser.parse_args()
    seeds = range(wanted.first, wanted.first + wanted.seeds) if wanted.seed is None else [wanted.seed]
    began = time.monotonic()
    events = tasks = slowest_ms = 0
    for seed in seeds:
        try:
            told = run(seed)
        except ScheduleError as error:
            sys.stdout.write(f"{error}\n")
            return 1
        events, tasks, slowest_ms = events + told.events, tasks + told.tasks, max(slowest_ms, told.lasted_ms)
    took = time.monotonic() - began
    sys.stdout.write(
        f"{len(seeds)} schedules, {tasks} tasks, {events} events, no rule broken; longest to drain {slowest_ms} ms; "
        f"{took:.1f} s ({len(seeds) / took * 60:.0f} a minute)\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
