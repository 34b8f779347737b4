"""Replicas, agents and clients of older versions, at work while a newer one migrates their schema and joins.

What a schema says of the oldest version that it serves (`store/schema.py`) decides: those that it serves go on, take
pools over and hand them over; those that it does not serve stop with one line, and the newer ones take over.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.chaos import database_log
from tests.chaos import history as h
from tests.chaos.checker import RULES
from tests.chaos.facts import gather
from tests.chaos.rig import Program, tick
from tests.chaos.rules_of_tasks import every_end_has_its_cause
from tests.support.replica import WITHIN_S, environment
from tests.upgrade.versions import before

from callboard.orchestrator.store.embedded import EmbeddedPostgres
from callboard.orchestrator.store.migrate import MigrationReport, migrate
from callboard.orchestrator.store.schema import OLDEST_SERVED
from callboard.orchestrator.store.tables import SCHEMA_REVISION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from callboard.bus.embedded import EmbeddedNats

pytestmark = pytest.mark.anyio

RULES_HERE = [rule for rule in RULES if rule is not every_end_has_its_cause]
"""Which offers an agent declines is nothing that the SDK tells of all versions."""


class Stage:
    """Programs of two versions on one database and one NATS, and the history of what they do."""

    def __init__(self, directory: Path, nats_url: str, database_url: str, connect_args: dict[str, Any]) -> None:
        self.directory = directory
        self.history = h.History(directory / "history.jsonl")
        self.connect_args = connect_args
        self._nats_url = nats_url
        self._database_url = database_url
        self._faults = 0

    async def start(self, name: str, command: list[str], pythonpath: str = "") -> Program:
        """A program, of this version unless `pythonpath` says otherwise."""
        program = Program(name, self.directory / f"{name}.log")
        settings = {"CALLBOARD_REPLICA": name, "CALLBOARD_LOG_FORMAT": "json", "PYTHONPATH": pythonpath}
        await program.launch(command, environment(self._nats_url, self._database_url, settings))
        return program

    async def run(self, name: str, command: list[str], pythonpath: str) -> tuple[int, str]:
        """A program to its end: its exit status and the last line that it wrote."""
        program = await self.start(name, command, pythonpath)
        status = await ended(program)
        lines = program.log.read_text().splitlines()
        return status, lines[-1] if lines else ""

    @asynccontextmanager
    async def serving(self, name: str, pythonpath: str = "") -> AsyncIterator[Program]:
        """A replica, killed at the end of the block if it still runs."""
        program = await self.start(name, ["-m", "callboard.cli", "serve"], pythonpath)
        try:
            yield program
        finally:
            await program.kill()

    @asynccontextmanager
    async def load(self, name: str, pythonpath: str = "") -> AsyncIterator[None]:
        """Agents and clients at work; no error may have reached a user of the SDK by the end."""
        command = ["-m", "tests.upgrade.load", str(self.history.path), self._nats_url, name]
        program = await self.start(name, command, pythonpath)
        try:
            await until_ready(program)
            yield
            assert program.is_running, program.log.read_text()
            program.signal(signal.SIGTERM)
            assert await ended(program) == 0, program.log.read_text()
        finally:
            await program.kill()

    async def until_more(self, count: int = 100) -> None:
        """Wait until so many more tasks have ended."""
        wanted = await self.value("SELECT count(*) FROM task_history") + count
        async with asyncio.timeout(WITHIN_S):
            while await self.value("SELECT count(*) FROM task_history") < wanted:
                await tick()

    async def until_owner(self, *names: str) -> str:
        """Wait until the pool belongs to one of these; which."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                name = await self.value("SELECT replica FROM pool_lease WHERE holder IS NOT NULL")
                if name in names:
                    return str(name)
                await tick()

    async def value(self, query: str) -> Any:  # noqa: ANN401 - whatever it selects
        pg = await asyncpg.connect(**self.connect_args)
        try:
            return await pg.fetchval(query)
        finally:
            await pg.close()

    async def check(self) -> None:
        """Every task has succeeded, and no rule was broken."""
        assert await self.value("SELECT count(*) FROM task") == 0
        assert await self.value("SELECT count(*) FROM task_history WHERE state <> 'succeeded'") == 0
        self.history.write(h.Healed())
        for event in await database_log.export(self.connect_args):
            self.history.write(event)
        facts = gather(h.read(self.history.path))
        assert [story for rule in RULES_HERE for story in rule(facts)] == []

    async def kill(self, program: Program) -> None:
        """SIGKILL; no agent loses anything by it, and nothing may be run again."""
        self._faults += 1
        self.history.write(h.FaultBegan(fault=self._faults, kind="replica killed", target=program.name))
        await program.kill()
        self.history.write(h.FaultEnded(fault=self._faults))


async def ended(program: Program) -> int:
    """The exit status."""
    assert program.process is not None
    async with asyncio.timeout(WITHIN_S):
        return await program.process.wait()


@pytest.fixture(scope="session")
async def postgres_server(
    anyio_backend: str,  # noqa: ARG001 - orders the loop before the server
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[EmbeddedPostgres]:
    """One that tells when each commit was."""
    settings = {"fsync": "off", "max_connections": "100", **database_log.SETTINGS}
    async with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), settings=settings) as server:
        yield server


@pytest.fixture
def stage(tmp_path: Path, nats_server: EmbeddedNats, postgres_server: EmbeddedPostgres, database_url: str) -> Stage:
    database = urlsplit(database_url).path.removeprefix("/")
    return Stage(tmp_path, nats_server.url, database_url, {**postgres_server.connect_args, "database": database})


MIGRATE = ["-m", "callboard.cli", "migrate"]


async def test_whoever_the_schema_serves_goes_on_beside_newer_replicas(stage: Stage, tmp_path: Path) -> None:
    """Both versions are out of the history: 0003 serves 0002."""
    older = before("0002", "0003", tmp_path / "older")
    newer = before("0003", "0004", tmp_path / "newer")
    assert (await stage.run("older-migrate", MIGRATE, older))[0] == 0
    await database_log.install(stage.connect_args)
    async with AsyncExitStack() as stack, AsyncExitStack() as loads:
        olds = [await stack.enter_async_context(stage.serving(f"old{number}", older)) for number in range(2)]
        owner = await stage.until_owner("old0", "old1")
        await loads.enter_async_context(stage.load("older-load", older))
        await stage.until_more()

        # Migrated under load: whoever owns the pool keeps it, and no old one can be started any more.
        assert (await stage.run("newer-migrate", MIGRATE, newer))[0] == 0
        assert await stage.value("SELECT version_num FROM schema_version") == "0003"
        await stage.until_more()
        assert await stage.until_owner("old0", "old1", "new") == owner
        status, said = await stage.run("old2", ["-m", "callboard.cli", "serve"], older)
        assert status != 0
        assert "0002" in said
        assert "0003" in said

        # A new one takes the pool from an old one that is stopped by a signal, while the other old one sleeps.
        new = await stack.enter_async_context(stage.serving("new", newer))
        await until_ready(new)
        first, second = sorted(olds, key=lambda old: old.name != owner)
        second.signal(signal.SIGSTOP)
        first.signal(signal.SIGTERM)
        assert await ended(first) == 0
        await stage.until_owner("new")
        second.signal(signal.SIGCONT)
        await stage.until_more()

        # The old one takes it back when the new one dies, and hands it over once more.
        await stage.kill(new)
        await stage.until_owner(second.name)
        await stage.until_more()
        await until_ready(await stack.enter_async_context(stage.serving("newest", newer)))
        second.signal(signal.SIGTERM)
        assert await ended(second) == 0
        await stage.until_owner("newest")
        await stage.until_more()

        # And now clients and agents of the newer version.
        async with stage.load("newer-load", newer):
            await stage.until_more()
    await stage.check()


async def test_whoever_the_schema_does_not_serve_stops_and_this_version_takes_over(
    stage: Stage, tmp_path: Path, database_url: str
) -> None:
    older_revision = f"{int(OLDEST_SERVED) - 1:04}"
    older = before(older_revision, OLDEST_SERVED, tmp_path / "older")
    assert (await stage.run("older-migrate", MIGRATE, older))[0] == 0
    await database_log.install(stage.connect_args)
    async with AsyncExitStack() as stack, AsyncExitStack() as loads:
        olds = [await stack.enter_async_context(stage.serving(f"old{number}", older)) for number in range(2)]
        await stage.until_owner("old0", "old1")
        await loads.enter_async_context(stage.load("older-load", older))
        await stage.until_more()

        assert await migrate(database_url) == MigrationReport(older_revision, SCHEMA_REVISION)
        await until_ready(await stack.enter_async_context(stage.serving("new")))
        await stage.until_owner("new")
        for old in olds:
            assert await ended(old) != 0
            last = old.log.read_text().splitlines()[-1]
            assert older_revision in last
            assert OLDEST_SERVED in last
        await stage.until_more()
        async with stage.load("newer-load"):
            await stage.until_more()
    await stage.check()


async def until_ready(program: Program) -> None:
    """Wait until a program has said so; an owner elsewhere answers for the pool meanwhile."""
    async with asyncio.timeout(WITHIN_S):
        while b'"ready"' not in program.log.read_bytes():
            await tick()
