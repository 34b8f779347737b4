"""What an orchestrator with 50 agents takes, at its peak, while it is as busy as it can be."""

from pathlib import Path
from typing import Final

from benchmarks.bed import servers, serving
from benchmarks.limits.callers import callers
from benchmarks.limits.fleet import fleet
from benchmarks.limits.limit import Limit
from benchmarks.meter import usage

AGENTS: Final = 50
SLOTS: Final = 20
TASKS: Final = 20_000
SECONDS: Final = 15.0
WITHIN_S: Final = 120.0


async def memory(directory: Path, scale: float) -> list[Limit]:
    """Its peak."""
    async with (
        servers(directory) as both,
        serving(directory, both.environment) as serve,
        fleet(directory, both.environment) as agents,
        callers(directory, both.environment) as seat,
    ):
        await agents.order("register", within_s=WITHIN_S, count=AGENTS, slots=SLOTS, capabilities=["any"])
        busy = await seat.order(
            "one_by_one", within_s=WITHIN_S, tasks=round(TASKS * scale), callers=256, seconds=SECONDS
        )
        peak = usage([serve.pid]).peak_bytes / 1e6
    note = f"peak over {busy['done']:,} tasks of 256 callers"
    return [Limit(name="memory with 50 agents", value=peak, unit="MB", most=100, note=note)]
