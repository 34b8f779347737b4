"""Orchestrators to speak to: `callboard serve` as a process, against a real nats-server and a real Postgres.

The only module here that imports Callboard, and only to have the two servers. The NATS server is the suite's own, so
that the pool `default` and discovery are nobody else's.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import nats
import pytest
from nats.errors import NoRespondersError
from tests.contract.support import PATIENCE_S, Wire, pause

from callboard.bus.embedded import EmbeddedNats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from callboard.orchestrator.store.embedded import EmbeddedPostgres

SETTINGS = {
    "CALLBOARD_MODE": "test",
    "CALLBOARD_HEARTBEAT_INTERVAL_SECONDS": "0.5",
    "CALLBOARD_OFFER_REPEAT_MS": "150,300,600",
    "CALLBOARD_POOLS": "default,side",
    "CALLBOARD_MAX_CONCURRENT_AGENTS": "2",
    "CALLBOARD_ROLES": json.dumps(
        {"echoer": {"env_allow": ["GREETING"]}, "broken": {"command": ["/nowhere/to/be/found"]}}
    ),
}


@dataclass
class Served:
    """A running `callboard serve`."""

    process: asyncio.subprocess.Process
    log: Path
    nats_url: str
    database: dict[str, Any]
    """Keyword arguments of `asyncpg.connect`."""

    def assert_alive(self) -> None:
        assert self.process.returncode is None, tail(self.log)


@asynccontextmanager
async def serving(
    nats_url: str, postgres: EmbeddedPostgres, database: str, log: Path, **settings: str
) -> AsyncIterator[Served]:
    """`callboard migrate`, then `callboard serve`, on a database of its own; ready when its first pool answers."""
    admin = await asyncpg.connect(**postgres.connect_args)
    await admin.execute(f"CREATE DATABASE {database}")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("CALLBOARD_", "NATS_"))},
        **SETTINGS,
        **settings,
        "NATS_URL": nats_url,
        "DATABASE_URL": postgres.dsn_of(database),
    }
    callboard = str(Path(sys.executable).with_name("callboard"))
    with log.open("wb") as output:
        spawn = partial(asyncio.create_subprocess_exec, callboard, env=environment, stdout=output, stderr=output)
        migration = await spawn("migrate")
        assert await migration.wait() == 0, tail(log)
        process = await spawn("serve")
    served = Served(process, log, nats_url, {**postgres.connect_args, "database": database})
    try:
        prefix = environment.get("CALLBOARD_PREFIX", "callboard")
        for pool in environment["CALLBOARD_POOLS"].split(","):
            await _ready(served, f"{prefix}.v1.{pool}")
        yield served
        served.assert_alive()
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            raise
        await admin.execute(f"DROP DATABASE {database} WITH (FORCE)")
        await admin.close()
    assert process.returncode == 0, tail(log)


def tail(log: Path) -> str:
    """The end of a log, for the story of a failure."""
    return log.read_text()[-4000:]


async def _ready(served: Served, root: str) -> None:
    """Ask `status` until it is answered: nobody answers before the pool has an owner."""
    async with connected(served.nats_url, root) as wire, asyncio.timeout(PATIENCE_S):
        while True:
            served.assert_alive()
            try:
                await wire.ask("status")
            except NoRespondersError:
                await pause()
            else:
                return


@asynccontextmanager
async def connected(url: str, root: str) -> AsyncIterator[Wire]:
    """A connection of its own, listening to the pool's events."""
    connection = await nats.connect(url, allow_reconnect=False)
    try:
        wire = Wire(connection, root)
        await wire.events.start()
        yield wire
    finally:
        await connection.close()


@pytest.fixture(scope="session")
async def contract_nats(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedNats]:  # noqa: ARG001 - orders the loop before the server
    async with EmbeddedNats(tmp_path_factory.mktemp("contract-nats"), token=None, jetstream=False) as server:
        yield server


@pytest.fixture(scope="session")
async def orchestrator(
    contract_nats: EmbeddedNats,
    postgres_server: EmbeddedPostgres,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Served]:
    """One orchestrator for the suite, owner of the pools `default` and `side`."""
    log = tmp_path_factory.mktemp("contract") / "serve.log"
    async with serving(contract_nats.url, postgres_server, next(database_names), log) as served:
        yield served


@pytest.fixture
async def wire(orchestrator: Served) -> AsyncIterator[Wire]:
    """The pool `default`."""
    async with connected(orchestrator.nats_url, "callboard.v1.default") as connection:
        yield connection
    orchestrator.assert_alive()


@pytest.fixture
async def side(orchestrator: Served) -> AsyncIterator[Wire]:
    """The pool `side`: for what must not meet the agents of other tests."""
    async with connected(orchestrator.nats_url, "callboard.v1.side") as connection:
        yield connection
    orchestrator.assert_alive()
