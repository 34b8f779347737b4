"""`python -m tests.support.embedded_parent DIRECTORY DEATH_NOTICE [UID GID]`: owns both servers until stdin ends.

It prints one line of JSON when they run. With UID and GID it becomes that user first.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
from pathlib import Path

import asyncpg
from tests.support.processes import uid_of

from callboard.bus import child
from callboard.bus.embedded import EmbeddedNats
from callboard.orchestrator.store.embedded import EmbeddedPostgres

PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 47, 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522


def become(uid: int, gid: int) -> None:
    """Change user for good. Where Python itself is closed to that user (below /root), keep the right to reach it."""
    libc = ctypes.CDLL(None, use_errno=True)
    closed = not all(parent.stat().st_mode & 1 for parent in Path(sys.executable).resolve().parents)
    if closed:
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if closed:
        bit = 1 << CAP_DAC_OVERRIDE
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        capabilities = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
        if libc.capset(header, capabilities) or libc.prctl(
            PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0
        ):
            raise OSError(ctypes.get_errno(), "keeping CAP_DAC_OVERRIDE")


async def own(directory: Path) -> None:
    async with (
        EmbeddedNats(directory / "nats", token=None) as bus,
        EmbeddedPostgres(directory / "postgres") as database,
    ):
        connection = await asyncpg.connect(**database.connect_args)
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        await connection.execute("INSERT INTO kept VALUES (1)")
        postmaster = int((database.data / "postmaster.pid").read_text().split()[0])
        facts = {
            "uid": os.geteuid(),
            "owner": os.getpid(),
            "pids": sorted({bus.pid, database.pid, postmaster}),
            "server_uids": [uid_of(bus.pid), uid_of(database.pid)],
        }
        print(json.dumps(facts), flush=True)  # noqa: T201 - the line the test waits for
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await connection.close()


def main() -> None:
    directory, death_notice, *identity = sys.argv[1:]
    child.DEATH_NOTICE = death_notice
    if identity:
        become(int(identity[0]), int(identity[1]))
    asyncio.run(own(Path(directory)))


if __name__ == "__main__":
    main()
