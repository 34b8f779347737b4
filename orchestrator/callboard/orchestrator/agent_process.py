"""One running process of a spawned agent.

Rules (as `callboard.bus.child`, but its output is read and not kept in a file):
- It leads a session of its own, and is told to end (SIGTERM) when the orchestrator dies, even by SIGKILL. What asks the
  kernel for that is util-linux's `setpriv` where there is one, since another interpreter, the guard of `child`, takes
  30 ms to start.
- When `wait` has answered, nothing of its process group is left and all that it printed was read.
- Spawn from the event loop's thread: the parent-death signal follows the thread that spawned.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Final

from callboard.bus.child import DEATH_NOTICE, GUARD
from callboard.bus.guard import UNSET
from callboard.bus.processes import Process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from callboard.orchestrator.agent_output import AgentOutput

CHUNK_BYTES: Final = 16 * 1024
LAST_WORDS_S: Final = 1.0
"""How long the output may stay open once the process and its group have ended: a descendant that left the group may
hold it for ever."""

_STILL_OURS: Final = 'test "$PPID" = "$0" || exit 126; unset PWD OLDPWD SHLVL _; exec "$@"'
"""The kernel does not notice a parent that died before it was asked. What a shell sets in its own environment is not
passed on; bash passes `SHLVL` all the same."""


class AgentProcess:
    """A process; made by `start`."""

    def __init__(self, process: Process, output: asyncio.Task[None]) -> None:
        self._process = process
        self._output = output

    @classmethod
    async def start(cls, argv: Sequence[str], *, env: Mapping[str, str], output: AgentOutput) -> Self:
        """Start `argv` (the first entry a path) with `env` as its whole environment.

        Raises:
            OSError: No process could be made. That `argv` cannot be *executed* shows as exit status 126 or 127.
        """
        # A pipe of our own: asyncio's would tie `wait` to the end of the output on some versions of Python.
        read_end, write_end = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
        )
        try:
            process = Process(
                [*_guard(env), *argv],
                env=env,
                stdin=subprocess.PIPE if DEATH_NOTICE == "pipe" else subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
            )
        except BaseException:
            transport.close()
            raise
        finally:
            # The output ends when its last writer does: that must not be us.
            os.close(write_end)
        reading = asyncio.create_task(_read(reader, transport, output), name="agent output")
        return cls(process, reading)

    @property
    def pid(self) -> int:
        """The process id, which is the id of its group too."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the end; the exit status, `-N` after signal N."""
        status = await self._process.wait()
        self.kill()
        _, reading = await asyncio.wait([self._output], timeout=LAST_WORDS_S)
        for task in reading:
            task.cancel()
        return status

    def terminate(self) -> None:
        """SIGTERM to the process alone: what it has started is its own to end."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the whole group, at once. A group that is gone already is what was wanted."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _guard(env: Mapping[str, str]) -> list[str]:
    """What a command is put behind, to end with us."""
    ours = str(os.getpid())
    setpriv = setpriv_path()
    if setpriv is not None:
        return [setpriv, "--pdeathsig", "TERM", "/bin/sh", "-c", _STILL_OURS, ours]
    locale = env.get("LC_CTYPE", UNSET)
    arguments = [DEATH_NOTICE, ours, str(int(signal.SIGTERM)), UNSET, UNSET, locale]
    return [sys.executable, "-I", "-S", str(GUARD), *arguments]


@cache
def setpriv_path() -> str | None:
    """Where `setpriv` is, if it can ask for a signal at the parent's death; that of busybox cannot."""
    path = shutil.which("setpriv") if DEATH_NOTICE == "signal" else None
    if path is None:
        return None
    tried = subprocess.run([path, "--pdeathsig", "TERM", "true"], check=False, capture_output=True)  # noqa: S603 - no word of it comes from outside
    return path if tried.returncode == 0 else None


async def _read(reader: asyncio.StreamReader, transport: asyncio.ReadTransport, output: AgentOutput) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(CHUNK_BYTES):
            output.feed(data, loop.time())
    finally:
        output.close()
        transport.close()
