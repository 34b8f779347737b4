"""Process groups of commands: ended as one, and not outliving the agent even when that is killed by SIGKILL.

A group is led by the command itself (`start_new_session`), so a signal reaches all that it started, unless one of them
made a session of its own; such a daemon is beyond anybody's reach.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

from callboard.bus.processes import Process

_REAPER = str(Path(__file__).with_name("reaper.py"))


class GroupList:
    """The groups to be killed if this process dies; one reaper process holds the list. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._pipe: int | None = None

    def add(self, group: int) -> None:
        """From now on it dies with us."""
        with self._lock:
            self._groups.add(group)
            self._tell(b"+%d\n" % group)

    def discard(self, group: int) -> None:
        """It has ended: its number may soon be somebody else's."""
        with self._lock:
            self._groups.discard(group)
            self._tell(b"-%d\n" % group)

    def _tell(self, line: bytes) -> None:
        if self._pipe is not None:
            try:
                os.write(self._pipe, line)
            except BrokenPipeError:
                # Somebody killed the reaper: another one takes the whole list.
                os.close(self._pipe)
            else:
                return
        self._pipe = _start_reaper()
        os.write(self._pipe, b"".join(b"+%d\n" % group for group in self._groups))


GROUPS = GroupList()
"""Of this process."""


def signal_group(group: int, number: signal.Signals) -> None:
    """Signal every process of the group, if there is one left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def end_group(process: Process, grace_s: float) -> None:
    """SIGTERM to the group, `grace_s` for its leader to end, SIGKILL to all that is left; a cancel ends the grace."""
    try:
        if process.returncode is None:
            signal_group(process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await process.wait()
    finally:
        # Also after the leader has ended: its number is the group's while any member lives.
        signal_group(process.pid, signal.SIGKILL)
        GROUPS.discard(process.pid)


def _start_reaper() -> int:
    """The pipe to a new reaper; not inherited by anything else that we start."""
    read_end, write_end = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        # Not a `Popen`: it is meant to outlive us, and nobody will wait for it.
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", _REAPER],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, opened, wanted) for wanted, opened in enumerate((read_end, null, null))
            ],
        )
    finally:
        os.close(read_end)
        os.close(null)
    return write_end
