"""P pools over R replicas: throughput and CPU per task as they grow, and what that means for more (`make bench-scale`).

Each pool has a client process and an agent process. On a machine with fewer cores than processes the sum of the
throughput cannot grow; what is looked at is the CPU per task, which must not grow either. Its figures at the largest
setting are the constants of `benchmarks.model`.
"""

import argparse
import asyncio
import logging
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import asyncpg
import msgspec
import structlog
from benchmarks.bed import DRIVERS, REPOSITORY, Servers, scratch, servers, serving
from benchmarks.machine import describe_machine
from benchmarks.meter import usage
from benchmarks.model import Constants, Site, table
from benchmarks.seats import Seat, seated
from benchmarks.tables import Rows, show
from rich.console import Console

from callboard.bus.child import Child
from callboard.bus.client import Client

CALLERS: Final = 256
WITHIN_S: Final = 120.0
SPREAD_WITHIN_S: Final = 60.0
LOOK_S: Final = 0.5
REPLICAS: Final = (1, 10, 100, 1_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting; CPU in microseconds, commits and bytes of log for each task; `owners` have at least a pool."""

    pools: int
    replicas: int
    owners: int
    tasks_per_s: float
    load_us: float
    constants: Constants


@dataclass(slots=True)
class Scale:
    """A whole run."""

    machine: dict[str, str]
    site: Site
    points: list[Point] = field(default_factory=list)

    def tables(self) -> list[Rows]:
        """What was measured, and what follows from its last point."""
        head = ["pools", "replicas", "owners", "tasks/s", "orchestrator µs", "Postgres µs", "NATS µs", "load µs"]
        rows = [
            [
                str(point.pools),
                str(point.replicas),
                str(point.owners),
                f"{point.tasks_per_s:,.0f}",
                f"{point.constants.orchestrator_us:.0f}",
                f"{point.constants.postgres_us:.0f}",
                f"{point.constants.nats_us:.0f}",
                f"{point.load_us:.0f}",
                f"{point.constants.commits * point.tasks_per_s:,.0f}",
                f"{point.constants.log_bytes:,.0f}",
            ]
            for point in self.points
        ]
        measured: Rows = ("Measured: CPU of a task by part", [*head, "commits/s", "log bytes a task"], rows)
        return [measured, table(self.points[-1].constants, REPLICAS, self.site)]


async def measure(pools: int, replicas: int, seconds: float) -> Point:
    """One setting, on new servers."""
    names = [f"p{number}" for number in range(pools)]
    with scratch("scale") as directory:
        async with servers(directory) as both, AsyncExitStack() as stack:
            settings = {"CALLBOARD_POOLS": msgspec.json.encode(names).decode()}
            owners: list[Child] = []
            for number in range(replicas):
                running = serving(directory, both.environment, settings, pool=names[0], name=f"serve{number}")
                owners.append(await stack.enter_async_context(running))
            have = await _spread(both, names, min(pools, replicas))
            seats, load = await _staff(stack, directory, both, names)
            await _all(seats, 1.0)  # warm-up
            roots = {"orchestrator": [one.pid for one in owners], "load": load}
            roots |= {"postgres": [both.postgres.pid], "nats": [both.nats.pid]}
            stats = await stack.enter_async_context(_Stats(both.postgres.dsn))
            before = {part: usage(pids).cpu_s for part, pids in roots.items()}
            commits, log = await stats.read()
            done, spent = await _all(seats, seconds)
            us = {part: 1e6 * (usage(pids).cpu_s - before[part]) / done for part, pids in roots.items()}
            more_commits, more_log = await stats.read()
    return Point(
        pools=pools,
        replicas=replicas,
        owners=have,
        tasks_per_s=done / spent,
        load_us=us["load"],
        constants=Constants(
            orchestrator_us=us["orchestrator"],
            postgres_us=us["postgres"],
            nats_us=us["nats"],
            commits=(more_commits - commits) / done,
            log_bytes=(more_log - log) / done,
        ),
    )


async def _spread(both: Servers, names: list[str], wanted: int) -> int:
    """Wait until as many replicas as can be own a pool: newcomers are handed one every two seconds or so."""
    loop = asyncio.get_running_loop()
    until = loop.time() + SPREAD_WITHIN_S
    while True:
        owners: set[str] = set()
        for name in names:
            async with Client.connect(both.nats.url, pool=name) as client:
                owners.add((await client.status()).owner.replica)
        if len(owners) >= wanted or loop.time() > until:
            return len(owners)
        await asyncio.sleep(LOOK_S)  # a look at every owner is the public way to know


async def _staff(
    stack: AsyncExitStack, directory: Path, both: Servers, names: list[str]
) -> tuple[list[Seat], list[int]]:
    """A worker and a client for each pool; and their process ids."""
    seats: list[Seat] = []
    pids: list[int] = []
    for name in names:
        env = {**both.environment, "PYTHONPATH": str(REPOSITORY), "CALLBOARD_POOL": name}
        driver = [sys.executable, "-m", f"{DRIVERS}.callboard_driver"]
        log = directory / f"worker-{name}.log"
        worker = await Child.spawn([*driver, "worker"], name=f"worker {name}", log=log, cwd=directory, env=env)
        stack.push_async_callback(worker.stop)
        client = seated([*driver, "client"], env=env, cwd=directory, log=directory / f"client-{name}.log")
        seats.append(await stack.enter_async_context(client))
        pids += [worker.pid, seats[-1].pid]
    return seats, pids


async def _all(seats: list[Seat], seconds: float) -> tuple[int, float]:
    """Load on every pool at once; tasks done, and the longest time."""
    order: dict[str, Any] = {"tasks": 1_000_000, "callers": max(1, CALLERS // len(seats)), "seconds": seconds}
    found = await asyncio.gather(*(seat.order("one_by_one", within_s=WITHIN_S, **order) for seat in seats))
    return sum(one["done"] for one in found), max(one["seconds"] for one in found)


class _Stats:
    """Postgres's own counts of transactions and of bytes in its log."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Any = None

    async def __aenter__(self) -> Self:
        self._connection = await asyncpg.connect(self._dsn)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def read(self) -> tuple[int, int]:
        """Both, so far; a backend reports its transactions up to a second late."""
        await self._connection.execute("SELECT pg_stat_clear_snapshot()")
        row = await self._connection.fetchrow(
            "SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()), "
            "pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
        )
        return int(row[0]), int(row[1])


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--settings", nargs="+", default=["1x1", "2x1", "2x2", "4x2"], metavar="PxR", help="pools x replicas"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of load in each setting")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    report = Scale(describe_machine(), Site())
    console = Console(stderr=True)
    for setting in options.settings:
        pools, replicas = map(int, setting.split("x"))
        with console.status(setting):
            report.points.append(asyncio.run(measure(pools, replicas, options.seconds)))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    show(report.tables())


if __name__ == "__main__":
    main()
