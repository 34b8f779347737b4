"""This project beside what people use, on this machine, in one run (`make bench`).

Every round measures every system once, on new servers with new data and nothing else running, after a look at the speed
of the machine. The tables give medians, and ratios within the rounds.
"""

import argparse
import asyncio
import logging
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Final

import msgspec
import structlog
from benchmarks.bed import clean_environment, scratch, servers
from benchmarks.compare.environments import NotInstalledError, python_of
from benchmarks.compare.measure import Effort, measure, survive
from benchmarks.compare.results import Outcome, Report
from benchmarks.compare.systems import SYSTEMS, System
from benchmarks.compare.table import tables
from benchmarks.machine import describe_machine
from benchmarks.probe import Speed, measure_speed
from benchmarks.seats import SeatError
from benchmarks.tables import show
from rich.console import Console
from rich.status import Status

from callboard.bus.child import EmbeddedServerError

REASONS: Final = (NotInstalledError, SeatError, EmbeddedServerError, OSError, RuntimeError, TimeoutError)
PROBE_S: Final = 2.0
LONGEST_REASON: Final = 200


async def compare(systems: list[System], effort: Effort, rounds: int, console: Console) -> Report:
    """The whole run; what cannot be run is skipped, and says why."""
    report = Report(describe_machine(), {**asdict(effort), "rounds": rounds})
    for system in systems:
        outcome = report.systems[system.name] = Outcome()
        try:
            await python_of(system.requirements)
        except REASONS as error:
            _skip(system, outcome, error, console)
    for number in range(1, rounds + 1):
        report.probes.append(await _probe())
        for system in systems:
            outcome = report.systems[system.name]
            if outcome.skipped:
                continue
            heading = f"round {number} of {rounds}: {system.name}: "
            with console.status(heading) as status:
                try:
                    outcome.rounds.append(await measure(system, effort, say=partial(_say, status, heading)))
                    if number == 1 and system.has_worker:
                        _say(status, heading, "kill -9")
                        outcome.survival = await survive(system, effort)
                except REASONS as error:
                    _skip(system, outcome, error, console)
                else:
                    console.print(f"{heading}{outcome.rounds[-1].one_by_one_per_s:,.0f} tasks/s", style="dim")
    return report


def _say(status: Status, heading: str, what: str) -> None:
    status.update(heading + what)


def _skip(system: System, outcome: Outcome, error: Exception, console: Console) -> None:
    outcome.skipped = shorten(f"{type(error).__name__}: {error}", LONGEST_REASON)
    console.print(f"skipped: {system.name}: {outcome.skipped}", style="red")


async def _probe() -> Speed:
    with scratch("probe") as directory:
        async with servers(directory) as both:
            return await measure_speed(both.nats.url, both.postgres.dsn, seconds=PROBE_S, env=clean_environment())


def main() -> int:
    """The exit status: 1 when a system that must run did not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [system.name for system in SYSTEMS]
    parser.add_argument("--systems", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--tasks", type=int, default=20_000, help="at most so many in a measurement")
    parser.add_argument("--seconds", type=float, default=10.0, help="and at most so long")
    parser.add_argument("--callers", type=int, default=256, help="who submit and read at once")
    parser.add_argument("--idle", type=int, default=300, help="tasks one at a time")
    parser.add_argument("--survivors", type=int, default=500, help="tasks submitted before kill -9")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    options = parser.parse_args()
    effort = Effort(options.tasks, options.seconds, options.callers, options.idle, options.survivors)
    systems = [system for system in SYSTEMS if system.name in options.systems]
    console = Console(stderr=True)
    # The project's own lines about connections would stand between those of the progress.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    report = asyncio.run(compare(systems, effort, options.rounds, console))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    show(tables(report))
    return int(any(system.required and report.systems[system.name].skipped for system in systems))


if __name__ == "__main__":
    sys.exit(main())
