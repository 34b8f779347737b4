"""The embedded default: a nats-server and a Postgres as our own children, for whoever has neither.

One owner per data directory; a server that dies is started again on the same port and data; nothing outlives us.
Loopback only, behind a generated token that is kept in the data directory.
"""

import secrets
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import structlog

from callboard.bus.embedded import EmbeddedNats
from callboard.bus.lock import DirectoryLock
from callboard.bus.supervise import Restart, Supervisor
from callboard.orchestrator.store.embedded import EmbeddedPostgres

log = structlog.get_logger("callboard.orchestrator")

TOKEN_BYTES: Final = 16


class EmbeddedServers:
    """The servers of one data directory; either may be left out.

    Args:
        directory: The data directory; made when it is missing.
        nats: Whether a nats-server is wanted, on `nats_port` (0 takes a free one).
        postgres: Whether a Postgres is wanted.
    """

    def __init__(self, directory: Path, *, nats: bool = True, postgres: bool = True, nats_port: int = 0) -> None:
        self.directory = directory
        self.nats_url: str | None = None
        self.database_url: str | None = None
        self._wanted = (nats, postgres)
        self._nats_port = nats_port
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Start what is wanted, and keep it running.

        Raises:
            EmbeddedServerError: Another process owns the directory, or a server does not start.
        """
        nats, postgres = self._wanted
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = DirectoryLock(self.directory / "lock")
        await lock.acquire()
        self._stack.callback(lock.release)
        try:
            if postgres:
                database = EmbeddedPostgres(self.directory / "postgres")
                await self._stack.enter_async_context(database)
                await self._stack.enter_async_context(Supervisor(database, _tell))
                self.database_url = database.dsn
            if nats:
                server = EmbeddedNats(self.directory / "nats", port=self._port(), token=self._token())
                await self._stack.enter_async_context(server)
                (self.directory / "nats-port").write_text(str(server.port))
                await self._stack.enter_async_context(Supervisor(server, _tell))
                self.nats_url = server.url
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop them, the newest first. May be called twice."""
        await self._stack.aclose()

    def _port(self) -> int:
        """The port that was asked for, or that of the start before if it is free still, or any (-1).

        Whoever waits over a restart finds the server again where it was.
        """
        if self._nats_port:
            return self._nats_port
        try:
            port = int((self.directory / "nats-port").read_text())
            with socket.create_server(("127.0.0.1", port)):
                return port
        except (OSError, ValueError):
            return -1

    def _token(self) -> str:
        """The token of this directory: the same at every start, so that clients find their way back."""
        file = self.directory / "token"
        if not file.exists():
            file.touch(mode=0o600)
        token = file.read_text().strip()
        if not token:
            token = secrets.token_hex(TOKEN_BYTES)
            file.write_text(token)
        return token


def _tell(restart: Restart) -> None:
    log.warning(
        "embedded server died and was started again" if restart.error is None else "embedded server does not start",
        server=restart.server,
        returncode=restart.returncode,
        attempt=restart.attempt,
        error=restart.error,
    )
