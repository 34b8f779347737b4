"""Tasks a second at 1,000 agents and 100,000 queued tasks, against 1 agent and an empty queue.

The queue is deep but its tasks want a capability of one agent alone, which is busy for good: so they stay queued, and
the callers' tasks, which any agent may take, cost the same steps in both settings: submit, assign, complete, wait. Then
that agent is joined by others of its capability, and what they drain a second is given as well.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.bed import servers, serving
from benchmarks.compare.drivers.seat import payload
from benchmarks.limits.callers import callers
from benchmarks.limits.fleet import HOLD, fleet
from benchmarks.limits.limit import Limit
from benchmarks.seats import Seat

from callboard.bus.client import Client, SubmitOptions
from callboard.bus.client_spec import make_spec

AGENTS: Final = 1_000
QUEUED: Final = 100_000
RARE: Final = "rare"
CHUNK: Final = 1_000
ROUNDS: Final = 3
SECONDS: Final = 4.0
DRAIN_S: Final = 5.0
WITHIN_S: Final = 300.0


async def growth(directory: Path, scale: float) -> list[Limit]:
    """The ratio; both settings stand side by side, and take turns."""
    agents, queued = round(AGENTS * scale), round(QUEUED * scale)
    small, large = directory / "small", directory / "large"
    small.mkdir()
    large.mkdir()
    async with (
        servers(small) as few,
        serving(small, few.environment),
        fleet(small, few.environment) as one,
        callers(small, few.environment) as calm,
        servers(large) as many,
        serving(large, many.environment),
        fleet(large, many.environment) as thousand,
        callers(large, many.environment) as deep,
    ):
        await one.order("register", within_s=WITHIN_S, count=1, slots=AGENTS, capabilities=["any"])
        await _fill(thousand, many.environment, agents, queued)
        ratios = [await _rate(deep) / await _rate(calm) for _ in range(ROUNDS)]
        last = await _rate(deep)
        drained = await _drain(thousand)
    note = f"{agents:,} agents, {queued:,} queued: {last:,.0f} tasks/s"
    return [
        Limit(name="growth: tasks/s against 1 agent, empty queue", value=median(ratios), unit="", least=0.8, note=note),
        Limit(name="growth: the deep queue drains by", value=drained, unit="tasks/s", note="assign and complete only"),
    ]


async def _fill(seat: Seat, environment: Mapping[str, str], agents: int, queued: int) -> None:
    await seat.order("register", within_s=WITHIN_S, count=1, slots=1, capabilities=[RARE])
    rare: SubmitOptions = {"capabilities": [RARE]}
    async with Client.connect(environment["NATS_URL"]) as client:
        await client.submit(HOLD, None, **rare)
        for at in range(0, queued, CHUNK):
            await client.submit_many([make_spec("noop", payload(n), rare) for n in range(at, min(at + CHUNK, queued))])
    await seat.order("register", within_s=WITHIN_S, count=agents - 1, slots=1, capabilities=["any"])


async def _rate(seat: Seat) -> float:
    found: dict[str, Any] = await seat.order(
        "one_by_one", within_s=WITHIN_S, tasks=1_000_000, callers=256, seconds=SECONDS
    )
    return float(found["done"] / found["seconds"])


async def _drain(seat: Seat) -> float:
    await seat.order("register", within_s=WITHIN_S, count=100, slots=10, capabilities=[RARE])
    before = await seat.order("tally", within_s=WITHIN_S)
    await asyncio.sleep(DRAIN_S)  # the time that is measured
    after = await seat.order("tally", within_s=WITHIN_S)
    return float((after["completed"] - before["completed"]) / DRAIN_S)
