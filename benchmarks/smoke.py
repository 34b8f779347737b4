"""A guard against growing slow (`make bench-smoke`, under a minute; CI runs it after the tests).

Rules:
- Only ratios count, to what the same round has just taken: throughput to that of bare NATS round trips; idle latency to
  three bare commits and a number of bare round trips. So a slow hour of a shared machine, or a slow disk, moves both
  sides.
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
COMMITS: Final = 3
"""Of one task that is alone, as Postgres counts them (2.8): each is waited for, so a slow disk costs three times."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is guarded.

    Attributes:
        throughput: tasks a second to bare round trips a second.
        idle_trips: idle latency beyond three bare commits, in bare round trips.
    """

    throughput: float
    idle_trips: float


@dataclass(frozen=True, slots=True)
class Round:
    """One round: tasks a second, idle latency (p50), and the machine at that time."""

    per_s: float
    idle_ms: float
    speed: Speed

    def throughput(self, baseline: Baseline) -> float:
        """Of what the baseline promises on this machine; more is better."""
        return self.per_s / self.speed.trips_per_s / baseline.throughput

    def latency(self, baseline: Baseline) -> float:
        """Of what the baseline promises on this machine; less is better."""
        promised = baseline.idle_trips * self.speed.trip_ms + COMMITS * self.speed.commit_ms
        return self.idle_ms / promised

    def __str__(self) -> str:
        speed = self.speed
        return (
            f"{self.per_s:,.0f} tasks/s, {speed.trips_per_s:,.0f} round trips/s; idle {self.idle_ms:.1f} ms, "
            f"round trip {speed.trip_ms:.2f} ms, commit {speed.commit_ms:.2f} ms"
        )


async def look(rounds: int) -> list[Round]:
    """Rounds on servers of their own."""
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
                    found: list[Round] = []
                    for _ in range(rounds):
                        speed = await measure_speed(
                            both.nats.url, both.postgres.dsn, seconds=PROBE_S, env=both.environment
                        )
                        idle = await seat.order("one_by_one", within_s=WITHIN_S, **alone)
                        busy = await seat.order("one_by_one", within_s=WITHIN_S, **many, seconds=THROUGHPUT_S)
                        found.append(Round(busy["done"] / busy["seconds"], median(idle["ms"]), speed))
                        _print(str(found[-1]))
            finally:
                await worker.stop()
    return found


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def guard(rounds: int, baseline: Baseline) -> bool:
    """Whether nothing is lost."""
    for _ in range(LOOKS):
        found = await look(rounds)
        throughput = median(one.throughput(baseline) for one in found)
        latency = median(one.latency(baseline) for one in found)
        _print(f"of the baseline: throughput {throughput:.2f}, idle latency {latency:.2f}")
        if throughput >= 1 - ALLOWED_LOSS and 1 / latency >= 1 - ALLOWED_LOSS:
            return True
        _print(f"slower by more than {ALLOWED_LOSS:.0%}")
    return False


def new_baseline(found: list[Round]) -> Baseline:
    """The medians."""
    return Baseline(
        throughput=round(median(one.per_s / one.speed.trips_per_s for one in found), 3),
        idle_trips=round(median((one.idle_ms - COMMITS * one.speed.commit_ms) / one.speed.trip_ms for one in found), 1),
    )


def main() -> int:
    """The exit status: 1 for a regression."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", action="store_true", help="make what is measured now the baseline")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if options.write:
        now = new_baseline(asyncio.run(look(options.rounds)))
        BASELINE.write_bytes(msgspec.json.format(msgspec.json.encode(now)) + b"\n")
        _print(f"{BASELINE.name}: {now}")
        return 0
    return int(not asyncio.run(guard(options.rounds, msgspec.json.decode(BASELINE.read_bytes(), type=Baseline))))


if __name__ == "__main__":
    sys.exit(main())
