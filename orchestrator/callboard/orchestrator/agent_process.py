"""One running process of a spawned agent.

Rules (as `callboard.bus.child`, whose guard it uses, but its output is read and not kept in a file):
- It leads a session of its own, and is told to end (SIGTERM) when the orchestrator dies, even by SIGKILL.
- When `wait` has answered, nothing of its process group is left and all that it printed was read.
- Spawn from the event loop's thread: the parent-death signal follows the thread that spawned.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from callboard.bus.child import DEATH_NOTICE, GUARD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from callboard.orchestrator.agent_output import AgentOutput

CHUNK_BYTES: Final = 16 * 1024
LAST_WORDS_S: Final = 1.0
"""How long the output may stay open once the process and its group have ended: a descendant that left the group may
hold it for ever."""


class AgentProcess:
    """A process; made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, output: asyncio.Task[None]) -> None:
        self._process = process
        self._output = output

    @classmethod
    async def start(cls, argv: Sequence[str], *, env: Mapping[str, str], output: AgentOutput) -> Self:
        """Start `argv` (the first entry a path) with `env` as its whole environment.

        Raises:
            OSError: No process could be made. That `argv` cannot be *executed* shows as exit status 126.
        """
        locale = "keep" if "LC_CTYPE" in env else "drop"
        guard = [DEATH_NOTICE, str(os.getpid()), str(int(signal.SIGTERM)), "-", "-", locale]
        # A pipe of our own: asyncio's would tie `wait` to the end of the output on some versions of Python.
        read_end, write_end = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
        )
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(GUARD), *guard, *argv,
                env=dict(env), start_new_session=True, stdout=write_end, stderr=write_end,
                stdin=asyncio.subprocess.PIPE if DEATH_NOTICE == "pipe" else asyncio.subprocess.DEVNULL,
            )  # fmt: skip
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
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to the whole group, at once. A group that is gone already is what was wanted."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


async def _read(reader: asyncio.StreamReader, transport: asyncio.ReadTransport, output: AgentOutput) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(CHUNK_BYTES):
            output.feed(data, loop.time())
    finally:
        output.close()
        transport.close()
