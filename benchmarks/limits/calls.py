"""Registration, and the status query beyond a bare round trip; one at a time, on an idle orchestrator."""

from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from benchmarks.bed import servers, serving
from benchmarks.limits.fleet import fleet
from benchmarks.limits.limit import Limit
from benchmarks.probe import measure_speed

from callboard.bus.client import Client

AGENTS: Final = 200
ASKED: Final = 300
ROUNDS: Final = 3
PROBE_S: Final = 0.5
WITHIN_S: Final = 60.0


async def calls(directory: Path, scale: float) -> list[Limit]:
    """Both, as p50."""
    registered: list[float] = []
    beyond: list[float] = []
    async with (
        servers(directory) as both,
        serving(directory, both.environment),
        fleet(directory, both.environment) as seat,
        Client.connect(both.nats.url) as client,
    ):
        for _ in range(ROUNDS):
            found = await seat.order(
                "register", within_s=WITHIN_S, count=round(AGENTS * scale), slots=1, capabilities=["any"], at_once=1
            )
            registered.append(median(found["ms"]))
            speed = await measure_speed(both.nats.url, both.postgres.dsn, seconds=PROBE_S, env=both.environment)
            beyond.append(await _status_ms(client) - speed.trip_ms)
    return [
        Limit(name="registration p50", value=median(registered), unit="ms", most=5, note="the agent is written down"),
        Limit(name="status p50 beyond a bare round trip", value=median(beyond), unit="ms", most=1, note="SDK's client"),
    ]


async def _status_ms(client: Client) -> float:
    times: list[float] = []
    for _ in range(ASKED):
        began = perf_counter()
        await client.status()
        times.append(1e3 * (perf_counter() - began))
    return median(times)
