"""A guard against growing slow (`make bench-smoke`, under a minute; CI runs it after the tests).

Rules:
- Only ratios count: throughput to that of bare NATS round trips, idle latency to one bare round trip and two bare
  commits, both taken in the same round. So a slow hour of a shared machine moves both sides.
- Rounds interleave the two sides; the median of the rounds is compared with `smoke.json`, and a loss of more than 30 %
  fails. A failed look is taken once more, as noise passes and a regression does not.
- `--write` makes a new baseline; it is committed with the change that explains it.
"""

import argparse
import asyncio
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import structlog
from benchmarks.bed import DRIVERS, REPOSITORY, scratch, servers, serving
from benchmarks.probe import Speed, measure_speed
from benchmarks.seats import seated

from callboard.bus.child import Child

BASELINE: Final = Path(__file__).with_name("smoke.json")
ALLOWED_LOSS: Final = 0.30
LOOKS: Final = 2
ROUNDS: Final = 5
PROBE_S: Final = 0.5
THROUGHPUT_S: Final = 1.5
IDLE_TASKS: Final = 60
CALLERS: Final = 256
WITHIN_S: Final = 60.0
COMMITS: Final = 2
"""On a task's way: it is accepted and assigned by one, its result recorded by another."""


@dataclass(frozen=True, slots=True)
class Ratios:
    """What is guarded.

    Attributes:
        throughput: tasks a second to bare round trips a second; more is better.
        idle: idle latency to one bare round trip and two bare commits; less is better.
    """

    throughput: float
    idle: float

    def worse_than(self, baseline: "Ratios") -> list[str]:
        """What is lost, in words."""
        found: list[str] = []
        if self.throughput < baseline.throughput * (1 - ALLOWED_LOSS):
            found.append(f"throughput {self.throughput:.3f} of the probe, was {baseline.throughput:.3f}")
        if self.idle * (1 - ALLOWED_LOSS) > baseline.idle:
            found.append(f"idle latency {self.idle:.2f} times the probe's, was {baseline.idle:.2f}")
        return found


async def look(rounds: int) -> Ratios:
    """The medians over the rounds, on servers of their own."""
    with scratch("smoke") as directory:
        async with servers(directory) as both, serving(directory, both.environment):
            environment = {**both.environment, "PYTHONPATH": str(REPOSITORY)}
            driver = [sys.executable, "-m", f"{DRIVERS}.callboard_driver"]
            worker = await Child.spawn(
                [*driver, "worker"], name="worker", log=directory / "worker.log", cwd=directory, env=environment
            )
            try:
                client = seated([*driver, "client"], env=environment, cwd=directory, log=directory / "client.log")
                async with client as seat:
                    many = {"tasks": 1_000_000, "callers": CALLERS}
                    alone = {"tasks": IDLE_TASKS, "callers": 1, "seconds": WITHIN_S}
                    await seat.order("one_by_one", within_s=WITHIN_S, **many, seconds=1)
                    found: list[Ratios] = []
                    for number in range(rounds):
                        speed = await measure_speed(
                            both.nats.url, both.postgres.dsn, seconds=PROBE_S, env=both.environment
                        )
                        idle = await seat.order("one_by_one", within_s=WITHIN_S, **alone)
                        busy = await seat.order("one_by_one", within_s=WITHIN_S, **many, seconds=THROUGHPUT_S)
                        rate, wait_ms = busy["done"] / busy["seconds"], median(idle["ms"])
                        found.append(_ratios(rate, wait_ms, speed))
                        _print(
                            f"round {number + 1}: {rate:,.0f} tasks/s, {speed.trips_per_s:,.0f} round trips/s; idle "
                            f"{wait_ms:.1f} ms (round trip {speed.trip_ms:.2f}, commit {speed.commit_ms:.2f})"
                        )
            finally:
                await worker.stop()
    return Ratios(median(one.throughput for one in found), median(one.idle for one in found))


def _ratios(rate: float, idle_ms: float, speed: Speed) -> Ratios:
    return Ratios(rate / speed.trips_per_s, idle_ms / (speed.trip_ms + COMMITS * speed.commit_ms))


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def guard(rounds: int, baseline: Ratios) -> bool:
    """Whether nothing is lost."""
    for _ in range(LOOKS):
        now = await look(rounds)
        lost = now.worse_than(baseline)
        _print(f"throughput {now.throughput:.3f}, idle {now.idle:.2f}; baseline: {baseline}")
        if not lost:
            return True
        _print("slower: " + "; ".join(lost))
    return False


def main() -> int:
    """The exit status: 1 for a regression."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", action="store_true", help="make what is measured now the baseline")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if options.write:
        now = asyncio.run(look(options.rounds))
        BASELINE.write_bytes(msgspec.json.format(msgspec.json.encode(now)) + b"\n")
        _print(f"{BASELINE.name}: {now}")
        return 0
    return int(not asyncio.run(guard(options.rounds, msgspec.json.decode(BASELINE.read_bytes(), type=Ratios))))


if __name__ == "__main__":
    sys.exit(main())
