"""The demonstration as a user runs it: a process of its own, judged by its output, its status and what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.processes import Watched

from callboard.demo.fleet import FLEET, VICTIM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio
WITHIN_S = 90.0
SUBMITTING = "submitting all tasks"


class Demo:
    """A running `callboard demo` whose temporary directories are made below `directory`."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self.process = process
        self.directory = directory

    async def line(self, words: str) -> str:
        """The next line of its output that holds `words`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            while line := await self.process.stdout.readline():
                if words in line.decode():
                    return line.decode()
        raise AssertionError(f"no line with {words!r}")

    async def end(self) -> tuple[int, str]:
        """Its exit status and the rest of its output."""
        async with asyncio.timeout(WITHIN_S):
            rest, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, rest.decode()

    def left_over(self) -> list[Path]:
        """The temporary directories that it has not removed."""
        return list(self.directory.glob("callboard-demo-*"))

    def children(self) -> dict[int, bytes]:
        """The processes that it started, and those that they did: by command line, or by where they work."""
        found: dict[int, bytes] = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # not a process, or it has ended
                arguments = (entry / "cmdline").read_bytes()
                here = (entry / "cwd").readlink()
                if here.is_relative_to(self.directory) or os.fsencode(self.directory) in arguments:
                    found[int(entry.name)] = arguments
        return found


@contextlib.asynccontextmanager
async def demo(directory: Path, *arguments: str) -> AsyncIterator[Demo]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "callboard.cli", "demo", *arguments,
        env={"PATH": os.defpath, "HOME": str(directory), "TMPDIR": str(directory), "NATS_URL": "nats://203.0.113.1"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield Demo(process, directory)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_it_kills_an_agent_loses_no_task_and_leaves_nothing(tmp_path: Path) -> None:
    async with demo(tmp_path, "--modules", "100") as run:
        await run.line(SUBMITTING)
        children = run.children()
        assert len(children) > len(FLEET)
        watched = Watched(children)
        status, output = await run.end()
        assert status == 0, output
        await watched.gone()
        assert f"SIGKILL to {VICTIM}" in output
        assert f"{VICTIM} crashed, then generalist succeeded" in output
        assert "tasks succeeded, with the results of the plain loop" in output
        assert run.left_over() == []


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interrupt_cleans_up(tmp_path: Path, number: signal.Signals, expected: int) -> None:
    async with demo(tmp_path) as run:
        await run.line(SUBMITTING)
        watched = Watched(run.children())
        run.process.send_signal(number)
        status, output = await run.end()
        assert status == expected, output
        assert "Traceback" not in output
        await watched.gone()
        assert run.left_over() == []


async def test_a_process_that_ends_unasked_fails_it_with_one_line_and_keeps_the_logs(tmp_path: Path) -> None:
    async with demo(tmp_path) as run:
        await run.line(SUBMITTING)
        children = run.children()
        watched = Watched(children)
        (exec_agent,) = [pid for pid, arguments in children.items() if b"exec\0--\0" in arguments]
        os.kill(exec_agent, signal.SIGKILL)
        status, output = await run.end()
        assert status == 1
        await watched.gone()
        wrong, logs = [line for line in output.splitlines() if "tasks, " not in line][-2:]
        assert "wrong: command ended with code -9" in wrong, output
        (kept,) = run.left_over()
        assert logs.endswith(f"logs and data: {kept}")
        assert {Path(name).stem for name in os.listdir(kept / "logs")} == {"server", *(one.agent_id for one in FLEET)}  # noqa: PTH208 - names are enough
