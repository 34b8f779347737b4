"""Watching processes that are not our children, and running helpers as another user."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from callboard.bus.child import Account

REPOSITORY = Path(__file__).parents[2]
GONE_WITHIN_S = 20.0


class Watched:
    """Processes watched by descriptor: neither a reused id nor an unreaped zombie can mislead. Linux only."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._descriptors = [os.pidfd_open(pid) for pid in pids]

    async def gone(self) -> None:
        """Wait until all have ended.

        Raises:
            TimeoutError: One still runs.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(GONE_WITHIN_S):
                for descriptor in self._descriptors:
                    ended = asyncio.Event()
                    loop.add_reader(descriptor, ended.set)
                    try:
                        await ended.wait()
                    finally:
                        loop.remove_reader(descriptor)
        finally:
            for descriptor in self._descriptors:
                os.close(descriptor)


class Helper:
    """A running `tests.support.embedded_parent`."""

    def __init__(self, process: asyncio.subprocess.Process, facts: dict[str, Any]) -> None:
        self.process = process
        self.facts = facts

    async def kill(self) -> None:
        """SIGKILL the helper alone, not its servers."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def finish(self) -> int:
        """Let it stop its servers and exit."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await self.process.wait()


@contextlib.asynccontextmanager
async def embedded_parent(directory: Path, account: Account | None, death_notice: str) -> AsyncIterator[Helper]:
    """A process that owns both embedded servers below `directory`, as `account` if given."""
    identity = [] if account is None else [str(account.uid), str(account.gid)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.embedded_parent", str(directory), death_notice, *identity,
        cwd=REPOSITORY, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        yield Helper(process, json.loads(line))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def uid_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def program_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/exe").readlink()


def arguments_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def listening_addresses(port: int) -> list[str]:
    """The addresses, IPv4 and IPv6 in the kernel's hexadecimal, on which somebody listens at the TCP port."""
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1].split(":")[0] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]
