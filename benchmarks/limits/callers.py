"""The process that submits: the same driver as in the comparison."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.bed import DRIVERS, REPOSITORY
from benchmarks.seats import Seat, seated


@asynccontextmanager
async def callers(directory: Path, environment: Mapping[str, str], name: str = "client") -> AsyncIterator[Seat]:
    """A client process; its orders are those of `compare.drivers.seat`."""
    env = {**environment, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", f"{DRIVERS}.callboard_driver", "client"]
    async with seated(command, env=env, cwd=directory, log=directory / f"{name}.log") as seat:
        yield seat
