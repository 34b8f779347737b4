"""Child processes, started without a copy of our memory's page tables.

Rules:
- `subprocess.Popen` starts by `vfork` on Linux, which takes 0.3 ms for a parent of any size; uvloop forks, which takes
  5 ms for one of 90 MB, and the loop stands still meanwhile.
- The end is learned from the kernel by a descriptor of the process, or by a thread where there is none.
- Start from the event loop's thread: on Linux a parent-death signal follows the thread that spawned.
- A child leads a session of its own, and gets descriptors, never pipes of ours: waiting for it is waiting for nothing
  else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


LOST: Final = 255
"""The exit status when somebody else has taken it: `Popen` would say 0, as if all were well."""


class Process:
    """A running or ended child of the running event loop.

    Args:
        argv: The command; its first entry is a path.
        env: Its whole environment.
        stdin, stdout, stderr: A descriptor, a file, or one of `subprocess`'s constants.
        cwd: Its working directory; none for ours.
        pass_fds: Descriptors that it inherits besides.

    Raises:
        OSError: It could not be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: int,
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
        cwd: str | os.PathLike[str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._popen = subprocess.Popen(  # noqa: S603 - there is no shell; what is started is the caller's business
            list(argv), env=dict(env), stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, pass_fds=tuple(pass_fds),
            start_new_session=True,
        )  # fmt: skip
        self._ended: asyncio.Future[int] = self._loop.create_future()
        try:
            self._watch()
        except BaseException:
            self._popen.kill()
            self._popen.wait()
            raise

    @property
    def pid(self) -> int:
        """Its id, and that of its group."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, `-N` after signal N; none while it runs."""
        return self._popen.returncode

    async def wait(self) -> int:
        """Wait for its end, as many as like; its exit status."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process alone; one that has ended is left alone."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _watch(self) -> None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            # Not Linux, an old one, or a sandbox that does not know the call.
            threading.Thread(target=self._wait_in_thread, name=f"wait for {self.pid}", daemon=True).start()
        else:
            self._loop.add_reader(descriptor, self._on_end, descriptor)

    def _on_end(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        self._settle(self._reaped())

    def _wait_in_thread(self) -> None:
        status = self._reaped()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._settle, status)

    def _reaped(self) -> int:
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            return LOST
        return os.waitstatus_to_exitcode(status)

    def _settle(self, status: int) -> None:
        self._popen.returncode = status
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        if not self._ended.done():
            self._ended.set_result(status)
