"""One round of one system: everything that the table says of it, on new servers with new data."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.bed import DRIVERS, REPOSITORY, scratch
from benchmarks.compare.brokers import Running, running
from benchmarks.compare.environments import python_of
from benchmarks.compare.results import Latency, Round, Survival
from benchmarks.compare.systems import System
from benchmarks.meter import usage
from benchmarks.seats import Seat, seated

from callboard.bus.child import Child

READY_WITHIN_S: Final = 90.0
GRACE_S: Final = 60.0
"""On top of the time that a measurement is given."""
LOOK_S: Final = 0.2
QUIET_S: Final = 6.0
"""After so long without another executed task the survivors are counted."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        tasks: at most so many in a measurement of throughput.
        seconds: and at most so long.
        callers: submit and read at once.
        idle: tasks one at a time.
        survivors: tasks submitted before the broker is killed.
    """

    tasks: int
    seconds: float
    callers: int
    idle: int
    survivors: int


async def measure(system: System, effort: Effort, *, say: Callable[[str], None]) -> Round:
    """Throughput, latency, memory and CPU.

    Raises:
        SeatError, EmbeddedServerError, NotInstalledError: why it cannot be run.
    """
    with scratch(system.name) as directory:
        async with running(system, directory) as servers, _staffed(system, servers, directory) as (seat, worker):
            most = effort.seconds + GRACE_S
            say("warm-up")
            await seat.order("one_by_one", within_s=READY_WITHIN_S, tasks=1, callers=1, seconds=READY_WITHIN_S)
            await seat.order("one_by_one", within_s=most, tasks=effort.tasks // 5, callers=effort.callers, seconds=2)
            say("idle")
            alone = await seat.order("one_by_one", within_s=most, tasks=effort.idle, callers=1, seconds=effort.seconds)
            say("one by one")
            parts = {"client": seat.pid, **({} if worker is None else {"worker": worker.pid}), **servers.parts}
            before = {part: usage([pid]) for part, pid in parts.items()}
            single = await seat.order(
                "one_by_one", within_s=most, tasks=effort.tasks, callers=effort.callers, seconds=effort.seconds
            )
            after = {part: usage([pid]) for part, pid in parts.items()}
            rate = single["done"] / single["seconds"]
            say("bulk")
            tasks = max(200, min(effort.tasks, int(rate * effort.seconds)))
            many = await seat.order("bulk", within_s=most, tasks=tasks)
            if many["done"] != tasks:
                raise RuntimeError(f"{system.name}: {many['done']} of {tasks} results of the bulk call")
            say("half load")
            half = await seat.order("open_loop", within_s=most, rate=rate / 2, seconds=effort.seconds)
            peak = {part: usage([pid]).peak_bytes / 1e6 for part, pid in parts.items()}
            return Round(
                one_by_one_per_s=rate,
                bulk_per_s=tasks / many["seconds"],
                idle=Latency.of(alone["ms"]),
                half_load=Latency.of(half["ms"]),
                peak_mb=peak,
                cpu_us={part: 1e6 * (after[part].cpu_s - before[part].cpu_s) / single["done"] for part in parts},
            )


async def survive(system: System, effort: Effort) -> Survival:
    """Submit without a worker, `kill -9` the servers, start all again, count the tasks that are executed.

    The client stays, should it be the one who remembers. Only for systems whose worker can be kept away.
    """
    with scratch(f"{system.name}-kill") as directory:
        ledger = directory / "ledger"
        ledger.touch(mode=0o666)
        async with running(system, directory) as servers:
            extra = {"BENCH_LEDGER": str(ledger)}
            await _install(system, servers)
            async with _seat(system, servers, directory, extra) as seat:
                answer = await seat.order("submit", within_s=GRACE_S + effort.seconds, tasks=effort.survivors)
                await servers.crash()
                await servers.restart()
                async with _worker(system, servers, directory, extra):
                    survived = await _counted(ledger, answer["done"])
        return Survival(acknowledged=answer["done"], survived=len(survived))


def _executed(ledger: Path) -> set[str]:
    return set(ledger.read_text(encoding="ascii").split())


async def _counted(ledger: Path, most: int) -> set[str]:
    """The executed tasks, once there are `most` or for a while no more of them."""
    loop = asyncio.get_running_loop()
    seen: set[str] = set()
    changed = loop.time()
    while len(seen) < most and loop.time() < changed + QUIET_S:
        await asyncio.sleep(LOOK_S)  # the ledger is a file, which tells nobody of its growth
        now = _executed(ledger)
        if len(now) > len(seen):
            seen, changed = now, loop.time()
    return seen


async def _install(system: System, servers: Running) -> None:
    if not system.has_tables:
        return
    process = await asyncio.create_subprocess_exec(
        *await _command(system, "install"), env=_environment(servers, None), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        raise RuntimeError(f"{system.name}: its tables could not be made")


@contextlib.asynccontextmanager
async def _staffed(system: System, servers: Running, directory: Path) -> AsyncIterator[tuple[Seat, Child | None]]:
    """Its tables, a worker and a client."""
    await _install(system, servers)
    async with _worker(system, servers, directory) as worker, _seat(system, servers, directory) as seat:
        yield seat, worker


@contextlib.asynccontextmanager
async def _worker(
    system: System, servers: Running, directory: Path, extra: dict[str, str] | None = None
) -> AsyncIterator[Child | None]:
    if not system.has_worker:
        yield None
        return
    child = await Child.spawn(
        await _command(system, "worker"),
        name="worker",
        log=directory / "worker.log",
        cwd=directory,
        env=_environment(servers, extra),
    )
    try:
        yield child
    finally:
        await child.stop()


@contextlib.asynccontextmanager
async def _seat(
    system: System, servers: Running, directory: Path, extra: dict[str, str] | None = None
) -> AsyncIterator[Seat]:
    command = await _command(system, "client")
    async with seated(command, env=_environment(servers, extra), cwd=directory, log=directory / "client.log") as seat:
        yield seat


async def _command(system: System, role: str) -> list[str]:
    return [str(await python_of(system.requirements)), "-m", f"{DRIVERS}.{system.driver}", role]


def _environment(servers: Running, extra: dict[str, str] | None) -> dict[str, str]:
    return {**servers.environment, "PYTHONPATH": str(REPOSITORY), **(extra or {})}
