"""What the fleet and the queue may cost, measured (`make bench-limits`); one table.

`--scale 0.1` runs the same with a tenth of the agents and tasks: enough to see that it works, not what it costs.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog
from benchmarks.bed import scratch
from benchmarks.limits.calls import calls
from benchmarks.limits.growth import growth
from benchmarks.limits.heartbeats import heartbeats
from benchmarks.limits.limit import Limit, Limits
from benchmarks.limits.memory import memory
from benchmarks.limits.spawn import spawn
from benchmarks.machine import describe_machine
from benchmarks.tables import show
from rich.console import Console

Measure = Callable[[Path, float], Awaitable[list[Limit]]]
MEASURES: Final[dict[str, Measure]] = {
    "calls": calls,
    "spawn": spawn,
    "memory": memory,
    "growth": growth,
    "heartbeats": heartbeats,
}


async def measure(names: list[str], scale: float, console: Console) -> list[Limit]:
    """All that is asked for, one after the other."""
    found: list[Limit] = []
    for name in names:
        with console.status(name), scratch(name) as directory:
            found += await MEASURES[name](directory, scale)
    return found


def main() -> int:
    """The exit status: 1 when a limit does not hold at full scale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES), metavar="NAME")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    machine = describe_machine()
    limits = asyncio.run(measure(options.only, options.scale, Console(stderr=True)))
    report = Limits(machine, options.scale, limits)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    show([report.table()])
    return int(options.scale >= 1 and not all(limit.holds for limit in limits))


if __name__ == "__main__":
    sys.exit(main())
