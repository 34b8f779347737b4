"""One owner per directory, by `flock`.

Rules:
- The kernel drops the lock when the last process that holds the descriptor ends, so no crash leaves one behind; the
  file itself stays, and is never removed (a new file under the old name would be a second lock).
- A child that inherits the descriptor (`Child.spawn(pass_fds=...)`) keeps the lock until it has ended as well.
- The file holds the owner's process id, for the message only: it is never trusted as a lock.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from typing import TYPE_CHECKING

from callboard.bus.child import EmbeddedServerError

if TYPE_CHECKING:
    from pathlib import Path

RETRY_S = 0.02
"""Between two tries in seconds; `flock` has no wait that an event loop can take part in."""


class DirectoryLock:
    """An exclusive lock on the file `path`, which is made when missing (mode 0600) in a directory that exists."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def fileno(self) -> int:
        """The descriptor to pass to children that share the lock.

        Raises:
            ValueError: The lock is not held.
        """
        if self._fd is None:
            raise ValueError(f"the lock {self.path} is not held")
        return self._fd

    async def acquire(self, *, wait_s: float = 10.0) -> None:
        """Take the lock; nothing happens when it is held by this object already.

        A holder that lives is an error at once. One that is dead has left servers that are just ending: they are given
        `wait_s` seconds.

        Raises:
            EmbeddedServerError: Another process holds it, or the file cannot be opened.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        while not self._try_acquire():
            holder = self._holder()
            if holder is not None and _alive(holder):
                raise EmbeddedServerError(
                    f"{self.path.parent} is in use by process {holder}: stop it, or choose another directory"
                )
            if asyncio.get_running_loop().time() >= deadline:
                owner = "its owner" if holder is None else f"its owner, process {holder},"
                raise EmbeddedServerError(
                    f"{self.path.parent} is still in use {wait_s:g} s after {owner} ended:"
                    " a server started there is left; stop that, or choose another directory"
                )
            await asyncio.sleep(RETRY_S)

    def release(self) -> None:
        """Let go of the lock; may be called twice. Children that inherited it hold it until they end."""
        if self._fd is not None:
            # Nobody is to be named while a child of ours that holds the lock is still ending.
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def _try_acquire(self) -> bool:
        if self._fd is not None:
            return True
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedServerError(f"the lock {self.path} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError as error:
            os.close(fd)
            raise EmbeddedServerError(f"{self.path} is on a file system without locks: {error.strerror}") from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return True

    def _holder(self) -> int | None:
        text = self.path.read_text(encoding="ascii", errors="replace").strip()
        return int(text) if text.isdigit() else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's: it lives
    return True
