"""One child process: spawned so that it dies with us, and stopped by signal, grace, then kill.

Rules:
- Spawn from the event loop's thread (every coroutine does): on Linux the parent-death signal fires when the *thread*
  that spawned ends, so a worker thread would take its children along.
- The child leads a session of its own: Ctrl-C at a terminal reaches us alone, and we drain before we stop it.
- Its output goes to a file: a pipe that nobody reads would block it.
- When `stop` has ended a child, nothing of its process group is left.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from callboard.bus.guard import UNSET
from callboard.bus.processes import Process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import BinaryIO, Self

GUARD = Path(__file__).with_name("guard.py")
DEATH_NOTICE = "signal" if sys.platform == "linux" else "pipe"
"""How a child learns of our death: see `callboard.bus.guard`."""

DEFAULT_GRACE_S = 10.0
LOG_LIMIT = 8 * 1024 * 1024
"""Bytes after which a log is set aside (one generation, `.old`) at the next spawn."""

PROBE_INTERVAL_S = 0.01


class EmbeddedServerError(Exception):
    """A server of ours cannot run: what failed, which path, what to do, the last lines of its log; in one line."""


@dataclass(frozen=True, slots=True)
class Account:
    """The system user a child runs as."""

    uid: int
    gid: int


class Child:
    """A running (or ended) child process. Made by `Child.spawn`."""

    def __init__(
        self,
        process: Process,
        *,
        name: str,
        log: Path,
        log_start: int,
        stop_signal: signal.Signals,
        grace_s: float,
    ) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._stop_signal = stop_signal
        self._grace_s = grace_s
        self._log_start = log_start

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str | Path],
        *,
        name: str,
        log: Path,
        cwd: Path,
        env: Mapping[str, str],
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_s: float = DEFAULT_GRACE_S,
        account: Account | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """Start a command that dies with this process.

        Args:
            command: The argument vector; the first entry is a path, `PATH` is not searched.
            name: What the child is called in messages.
            log: The file that takes standard output and error (appended, mode 0600).
            cwd: Its working directory. It is entered before `account` is assumed, so its parents may be closed to
                that user.
            env: Its whole environment.
            stop_signal: Sent by `stop`, and on our death.
            grace_s: How long `stop` waits before it kills, in seconds.
            account: The user to run as; none keeps ours. Needs the right to change user.
            pass_fds: Descriptors the child inherits, such as that of a lock.

        Raises:
            EmbeddedServerError: The log or the working directory cannot be used. A command that cannot be *executed*
                shows as an exit with `guard.CANNOT_RUN` and its reason in the log.
        """
        identity = [str(account.uid), str(account.gid)] if account else [UNSET, UNSET]
        locale = env.get("LC_CTYPE", UNSET)
        guard = [DEATH_NOTICE, str(os.getpid()), str(int(stop_signal)), *identity, locale]
        try:
            with _open_log(log) as output:
                log_start = os.fstat(output.fileno()).st_size
                process = Process(
                    [sys.executable, "-I", "-S", str(GUARD), *guard, *map(str, command)],
                    env=env,
                    stdin=subprocess.PIPE if DEATH_NOTICE == "pipe" else subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=cwd,
                    pass_fds=pass_fds,
                )
        except OSError as error:
            raise EmbeddedServerError(f"{name} could not be started in {cwd}: {error}") from error
        return cls(process, name=name, log=log, log_start=log_start, stop_signal=stop_signal, grace_s=grace_s)

    @property
    def pid(self) -> int:
        """The process id, which is the id of its group too."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, `-N` after signal N, or none while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end; any number of callers may. Returns `returncode`."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Signal, wait for the grace, kill the group. Does nothing to a child that has ended and been stopped."""
        if self.returncode is None:
            self._process.send_signal(self._stop_signal)
            try:
                async with asyncio.timeout(self._grace_s):
                    await self.wait()
            except TimeoutError:
                pass  # the kill below is the answer
            finally:
                # Also when this task is cancelled in the grace, and for what the child itself had started.
                self._kill_group()
        await self.wait()

    def kill(self) -> None:
        """SIGKILL the group, at once. Does nothing to a child that has ended: its id may be another's by now."""
        if self.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # gone already, which is what was wanted

    async def wait_ready(self, probe: Callable[[], Awaitable[bool]], *, timeout_s: float) -> None:
        """Wait until `probe` holds. It is polled: the servers have no portable way to tell.

        Raises:
            EmbeddedServerError: The child ended, or was not ready in time; with the last lines of its log.
        """
        ended = asyncio.ensure_future(self.wait())
        try:
            async with asyncio.timeout(timeout_s):
                while not await probe():
                    if ended.done():
                        raise EmbeddedServerError(f"{self.name} ended with code {ended.result()}: {self.log_tail()}")
                    await asyncio.wait([ended], timeout=PROBE_INTERVAL_S)
        except TimeoutError:
            raise EmbeddedServerError(f"{self.name} was not ready within {timeout_s:g} s: {self.log_tail()}") from None
        finally:
            ended.cancel()

    def log_tail(self, lines: int = 5) -> str:
        """The last lines this child wrote, joined by ` | `, and where to read the rest."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - 4096))
            text = file.read().decode(errors="replace")
        tail = " | ".join(line.strip() for line in text.splitlines()[-lines:]) or "it wrote nothing"
        return f"{tail} (log: {self.log})"


def _open_log(log: Path) -> BinaryIO:
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_name(f"{log.name}.old"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(log, flags, 0o600), "ab")
