"""`python -m tests.simulation --seeds 50000` runs so many schedules; `--seed 17` runs one, the same every time."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tests.simulation.many import Sum, run_many, run_on_all_cores


def main() -> int:
    """Run the schedules that were asked for; 1 at the first that breaks a rule."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--no-shrink", action="store_true", help="tell the whole story, not the shortest")
    parser.add_argument("--tally", action="store_true", help="say how often what happened")
    wanted = parser.parse_args()
    began_s, shrinks = time.monotonic(), not wanted.no_shrink
    if wanted.seed is not None:
        total = run_many([wanted.seed], shrinks=shrinks)
    else:
        seeds = range(wanted.first, wanted.first + wanted.seeds)
        with _progress(wanted.seeds) as on_progress:
            total = run_on_all_cores(seeds, wanted.cores, on_progress, shrinks=shrinks)
    sys.stdout.write(_report(total, time.monotonic() - began_s, tally=wanted.tally))
    return 0 if total.broken is None else 1


@contextmanager
def _progress(seeds: int) -> Iterator[Callable[[int], None]]:
    """A bar, where there is somebody to see it."""
    columns = (TextColumn("schedules"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("schedules", total=seeds)
        yield lambda done: progress.update(task, completed=done)


def _report(total: Sum, took_s: float, *, tally: bool) -> str:
    lines = [f"{count:>8}  {what}" for what, count in sorted(total.tally.items())] if tally else []
    if total.broken is not None:
        lines.append(total.broken)
    faults = sum(count for what, count in total.tally.items() if what.startswith(("fault", "noise")))
    rules = "no rule broken" if total.broken is None else "A RULE BROKEN"
    again = total.tally["executed again"]
    lines.append(
        f"{total.schedules} schedules ({total.calm} calm), {total.tasks} tasks, {total.events} events, "
        f"{faults} faults, {total.tally['take-over']} take-overs, {again} executions made by faults; {rules}; "
        f"longest to drain {total.slowest_ms} ms; {took_s:.1f} s ({total.schedules / took_s * 60:.0f} a minute)"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
