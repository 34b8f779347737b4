"""10,000 agents that only live: what their heartbeats cost, and what the orchestrator keeps of them."""

import asyncio
from pathlib import Path
from typing import Final

from benchmarks.bed import servers, serving
from benchmarks.limits.fleet import fleet
from benchmarks.limits.limit import Limit
from benchmarks.meter import usage

AGENTS: Final = 10_000
SETTLE_S: Final = 5.0
WATCH_S: Final = 20.0
WITHIN_S: Final = 240.0


async def heartbeats(directory: Path, scale: float) -> list[Limit]:
    """CPU, interval and memory."""
    agents = round(AGENTS * scale)
    async with (
        servers(directory) as both,
        serving(directory, both.environment) as serve,
        fleet(directory, both.environment) as seat,
    ):
        await seat.order("register", within_s=WITHIN_S, count=agents, slots=1, capabilities=["any"])
        await asyncio.sleep(SETTLE_S)  # the interval that the fleet was given takes a round to be everywhere
        began, before = usage([serve.pid]), await seat.order("tally", within_s=WITHIN_S)
        await asyncio.sleep(WATCH_S)  # the time that is measured
        ended, after = usage([serve.pid]), await seat.order("tally", within_s=WITHIN_S)
    answered = after["answered"] - before["answered"]
    share = 100 * (ended.cpu_s - began.cpu_s) / WATCH_S
    note = f"{agents:,} agents, {answered / WATCH_S:,.0f} heartbeats/s answered"
    return [
        Limit(name="heartbeats: CPU of the orchestrator", value=share, unit="% of a core", most=10, note=note),
        Limit(name="heartbeats: interval", value=after["interval_ms"] / 1000, unit="s", most=20, note=note),
        Limit(name="memory with 10,000 agents", value=ended.peak_bytes / 1e6, unit="MB", most=150, note=note),
    ]
