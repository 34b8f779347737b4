"""`python -m tests.soak --hours 1`: a whole stack under constant load; 1 when anything of it grows.

The stack is a real `callboard serve` with a nats-server and a Postgres of its own, in a temporary directory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import structlog
from tests.soak.load import Load
from tests.soak.samples import SERIES, Sampler
from tests.soak.slope import growth
from tests.support.replica import replica

from callboard.bus.embedded import EmbeddedNats
from callboard.orchestrator.store.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from typing import TextIO

EVERY_S = 5.0
FEWEST_SAMPLES = 30
SETTINGS = {
    # Whoever leaves is remembered up to this number: the bound is reached within the warm-up.
    "CALLBOARD_MAX_REGISTERED_AGENTS": "200",
    "CALLBOARD_HEARTBEAT_INTERVAL_SECONDS": "1",
    "CALLBOARD_KEY_RETENTION_SECONDS": "60",
    "CALLBOARD_LOG_LEVEL": "error",
}


def main() -> int:
    """Run for the time that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--minutes", type=float, default=0.0, help="on top of the hours")
    parser.add_argument("--samples", type=Path, default=Path("soak.jsonl"), help="where the samples are kept")
    wanted = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    with wanted.samples.open("w", encoding="utf-8") as out:
        return asyncio.run(soak(wanted.hours * 3600 + wanted.minutes * 60, out))


async def soak(seconds: float, out: TextIO) -> int:
    """Start the stack and the load, sample, and judge."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callboard-soak-")))
        nats = await stack.enter_async_context(EmbeddedNats(directory / "nats", token=None))
        postgres = await stack.enter_async_context(EmbeddedPostgres(directory / "postgres"))
        port = free_port()
        serving = await stack.enter_async_context(
            replica(nats.url, postgres.dsn, {**SETTINGS, "CALLBOARD_HTTP_PORT": str(port)})
        )
        pg = await asyncpg.connect(postgres.dsn)
        stack.push_async_callback(pg.close)
        sampler = Sampler(
            serve=serving.pid, nats=nats.pid, load=os.getpid(), http_url=f"http://127.0.0.1:{port}", pg=pg, out=out
        )
        load = Load(nats.url)
        running = asyncio.create_task(load.run())
        loop = asyncio.get_running_loop()
        every_s = min(EVERY_S, seconds / FEWEST_SAMPLES)
        until = loop.time() + seconds
        while loop.time() < until and not running.done():
            await asyncio.wait([running], timeout=every_s)
            await sampler.sample()
        if running.done():
            await running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    sys.stdout.write(f"{load.tasks} tasks, {load.agents} visiting agents, {load.clients} visiting clients\n")
    return judge(sampler)


def judge(sampler: Sampler) -> int:
    """Print the table; 1 when a series grew beyond its tolerance."""
    sys.stdout.write(f"{'series':22}{'median':>10}{'per hour':>12}{'grew':>10}{'allowed':>10}\n")
    grown = []
    for name, tolerance in SERIES.items():
        values = sampler.values[name]
        if tolerance is None:
            sys.stdout.write(f"{name:22}{values[-1]:10.2f}   kept for its retention\n")
            continue
        found = growth(sampler.times_s, values, tolerance)
        verdict = "" if found.is_tolerable else "  GROWS"
        grown += [] if found.is_tolerable else [name]
        sys.stdout.write(
            f"{name:22}{found.median:10.2f}{found.per_hour:12.2f}{found.total:10.2f}{found.allowed:10.2f}{verdict}\n"
        )
    sys.stdout.write(f"{', '.join(grown)} grew\n" if grown else "nothing grew\n")
    return 1 if grown else 0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
