"""`callboard dev`: ready, found, stopped, killed, and asked for twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.processes import Watched

from callboard.bus.client import Client
from callboard.schemas.vocabulary import TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

WITHIN_S = 60.0


class Dev:
    def __init__(self, process: asyncio.subprocess.Process, data_dir: Path) -> None:
        self.process = process
        self.data_dir = data_dir

    async def ready(self) -> dict[str, Any]:
        """What it wrote once it said that it is ready."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            while b"callboard.json" not in await self.process.stdout.readline():
                assert self.process.returncode is None, "callboard dev ended before it was ready"
        found: dict[str, Any] = json.loads((self.data_dir / "callboard.json").read_text())
        return found

    async def lines(self) -> AsyncIterator[str]:
        """What it says after that."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            yield line.decode()

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(WITHIN_S):
            return await self.process.wait()


@asynccontextmanager
async def dev(data_dir: Path) -> AsyncIterator[Dev]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "callboard.cli", "dev", "--data-dir", str(data_dir),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "CALLBOARD_LOG_LEVEL": "error", "XDG_CONFIG_HOME": str(data_dir.parent / "config")},
    )  # fmt: skip
    try:
        yield Dev(process, data_dir)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


async def test_state_survives_a_restart_and_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    async with dev(tmp_path / "data") as first:
        at = await first.ready()
        assert at["pid"] == first.process.pid
        async with Client.connect(at["nats_url"]) as client:
            task_id = (await client.submit("nobody", {"n": 1})).task_id
        ready = await asyncio.to_thread(urllib.request.urlopen, f"{at['http_url']}/readyz", timeout=10)
        with ready:
            assert ready.status == 200
        context = json.loads((tmp_path / "config" / "nats" / "context" / "callboard-dev.json").read_text())
        assert context["url"] == at["nats_url"]
        servers = Watched(children_of(first.process.pid))
        assert await first.end(signal.SIGINT) == 0
        await servers.gone()
        assert not (tmp_path / "data" / "callboard.json").exists()
    async with dev(tmp_path / "data") as second:
        at = await second.ready()
        async with Client.connect(at["nats_url"]) as client:
            assert (await client.get(task_id)).state is TaskState.QUEUED


async def test_kill_9_leaves_no_server_and_the_next_start_recovers(tmp_path: Path) -> None:
    async with dev(tmp_path / "data") as first:
        await first.ready()
        servers = Watched(children_of(first.process.pid))
        await first.end(signal.SIGKILL)
        await servers.gone()
    async with dev(tmp_path / "data") as second:
        await second.ready()
        assert await second.end(signal.SIGTERM) == 0


async def test_a_second_start_on_the_same_directory_says_so_on_one_line(tmp_path: Path) -> None:
    async with dev(tmp_path / "data") as first:
        await first.ready()
        async with dev(tmp_path / "data") as second:
            async with asyncio.timeout(WITHIN_S):
                _, complaint = await second.process.communicate()
            assert second.process.returncode != 0
            assert complaint.count(b"\n") == 1
            assert str(first.process.pid).encode() in complaint
            assert b"Traceback" not in complaint
        assert first.process.returncode is None


async def test_the_context_stays_that_of_the_first_while_it_runs(tmp_path: Path) -> None:
    context = tmp_path / "config" / "nats" / "context" / "callboard-dev.json"
    async with dev(tmp_path / "first") as first:
        at_first = await first.ready()
        async with dev(tmp_path / "second") as second:
            at_second = await second.ready()
            assert json.loads(context.read_text())["url"] == at_first["nats_url"]
            # Killed, and still in nobody's way.
            await first.end(signal.SIGKILL)
            async with asyncio.timeout(WITHIN_S):
                said = [await anext(second.lines()) for _ in range(3)]
        assert "another callboard dev" in said[0]
        assert at_second["nats_url"] in said[1]
        assert f"--data-dir {tmp_path / 'second'}" in said[2]
    async with dev(tmp_path / "third") as third:
        assert json.loads(context.read_text())["url"] == at_first["nats_url"]
        at_third = await third.ready()
        assert "--context callboard-dev" in await anext(third.lines())
        assert json.loads(context.read_text())["url"] == at_third["nats_url"]


async def test_a_server_that_dies_is_started_again(tmp_path: Path) -> None:
    async with dev(tmp_path / "data") as running:
        at = await running.ready()
        async with Client.connect(at["nats_url"]) as client:
            before = (await client.submit("nobody", 1)).task_id
            servers = children_of(running.process.pid)
            assert len(servers) == 2
            for pid in servers:
                os.kill(pid, signal.SIGKILL)
            after = (await client.submit("nobody", 2, timeout_s=WITHIN_S)).task_id
            for task_id in (before, after):
                assert (await client.get(task_id, timeout_s=WITHIN_S)).state is TaskState.QUEUED
