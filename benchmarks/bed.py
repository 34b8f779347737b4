"""What the benchmarks stand on: the servers as processes of their own, and `callboard serve` as it is by default.

Rules:
- Postgres is the embedded one with `fsync` on, on the disk of the given directory; nats-server as `dev` has it.
- Postgres has the log segments at hand that one under load has from its second checkpoint on: see `LOG_SEGMENTS`.
- `serve` runs in `production` mode with nothing set but addresses, and a free port for `/metrics`.
- Every process dies with us; all traffic stays on this machine.
"""

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from callboard.bus.child import Child
from callboard.bus.client import Client
from callboard.bus.embedded import EmbeddedNats
from callboard.orchestrator.store.embedded import EmbeddedPostgres
from callboard.orchestrator.store.migrate import migrate

REPOSITORY: Final = Path(__file__).parents[1]
DRIVERS: Final = "benchmarks.compare.drivers"
"""The package of the driver processes; they find it by `PYTHONPATH`."""
SCRATCH: Final = REPOSITORY / "build" / "bench"
"""On the disk that the repository is on: a temporary directory may be memory, where a commit costs nothing."""
READY_WITHIN_S: Final = 60.0
LOG_SEGMENTS: Final = 32
"""Segments of the write-ahead log, 16 MB each, that Postgres begins with: about what it writes between two checkpoints.

It uses the old ones again. A new server has none: then whoever commits must make the next one first, which takes it 10
to 20 ms, and everybody waits meanwhile.
"""
POSTGRES_SETTINGS: Final = {"max_connections": "100", "min_wal_size": "1GB"}
"""The second keeps those segments through the checkpoints."""
_FILL_LOG: Final = """
DO $$ BEGIN
    FOR n IN 1..{segments} LOOP
        PERFORM pg_logical_emit_message(false, 'fill', ''); -- an empty segment would not be left
        PERFORM pg_switch_wal();
    END LOOP;
END $$
"""


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A directory of this run, removed afterwards."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=SCRATCH, ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def free_port() -> int:
    """A TCP port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Ours, without what would steer the project or a peer."""
    steering = ("CALLBOARD_", "NATS_", "DATABASE_URL", "REDIS_", "PG", "PYTHON", "CELERY_", "RAY_", "DASK_")
    return {name: value for name, value in os.environ.items() if not name.startswith(steering)}


@dataclass(frozen=True, slots=True)
class Servers:
    """A nats-server and a Postgres."""

    nats: EmbeddedNats
    postgres: EmbeddedPostgres

    @property
    def environment(self) -> dict[str, str]:
        """The environment of those who use them."""
        return {**clean_environment(), "NATS_URL": self.nats.url, "DATABASE_URL": self.postgres.dsn}


@contextlib.asynccontextmanager
async def servers(directory: Path) -> AsyncIterator[Servers]:
    """Both, on new data."""
    async with (
        EmbeddedNats(directory / "nats", token=None) as nats,
        EmbeddedPostgres(directory / "postgres", settings=POSTGRES_SETTINGS) as postgres,
    ):
        await _lay_in_log(postgres)
        yield Servers(nats, postgres)


async def _lay_in_log(postgres: EmbeddedPostgres) -> None:
    """Have `postgres` write `LOG_SEGMENTS` and keep them to be used again."""
    connection = await asyncpg.connect(**postgres.connect_args)
    try:
        await connection.execute(_FILL_LOG.format(segments=LOG_SEGMENTS))
        await connection.execute("CHECKPOINT")
        kept = await connection.fetchval("SELECT count(*) FROM pg_ls_waldir()")
    finally:
        await connection.close()
    if kept < LOG_SEGMENTS:
        raise RuntimeError(f"Postgres has kept {kept} segments of its log, not {LOG_SEGMENTS}")


@contextlib.asynccontextmanager
async def serving(
    directory: Path,
    environment: Mapping[str, str],
    settings: Mapping[str, str] | None = None,
    *,
    pool: str = "default",
    name: str = "serve",
) -> AsyncIterator[Child]:
    """A `callboard serve`; the block begins when somebody answers for `pool`."""
    await migrate(environment["DATABASE_URL"])
    child = await Child.spawn(
        [sys.executable, "-m", "callboard.cli", "serve"],
        name=name,
        log=directory / f"{name}.log",
        cwd=directory,
        env={**environment, "CALLBOARD_MODE": "production", "CALLBOARD_HTTP_PORT": "0", **(settings or {})},
    )
    try:
        async with Client.connect(environment["NATS_URL"], pool=pool) as client:
            asking = asyncio.ensure_future(client.status(timeout_s=READY_WITHIN_S))
            ended = asyncio.ensure_future(child.wait())
            await asyncio.wait([asking, ended], return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if not asking.done():
                asking.cancel()
                raise RuntimeError(f"serve ended: {child.log_tail()}")
            asking.result()
        yield child
    finally:
        await child.stop()
