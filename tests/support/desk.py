"""The commands of a page of the documentation, as they are printed.

`sh` blocks are terminals, `console` blocks are commands and what they print, where `…` stands for anything.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from callboard.bus.context import options_from_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.bus.options import BusOptions

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITHIN_S = 60.0


class Desk:
    """Terminals in one directory, with the commands and the board of the page."""

    def __init__(self, home: Path, llm_url: str = "") -> None:
        self._home = home
        self._llm_url = llm_url
        path = f"{home / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._env = {"PATH": path, "HOME": str(home), "NO_PROXY": "127.0.0.1", "CALLBOARD_LOG_LEVEL": "error"}
        self._before = ""

    @property
    def nats(self) -> BusOptions:
        """Where the board's NATS is, for whoever stands in for an agent."""
        context = self._home / ".config" / "nats" / "context" / "callboard-dev.json"
        return options_from_environment({"NATS_CONTEXT": str(context)})

    def export(self, line: str) -> None:
        """Have this said first in every terminal from now on."""
        assert line.startswith("export ")
        self._before = line

    async def _start(self, script: str) -> asyncio.subprocess.Process:
        if self._llm_url:
            script = script.replace("http://127.0.0.1:11434/v1", self._llm_url)
        return await asyncio.create_subprocess_exec(
            *("sh", "-ec", f"{self._before}\n{script}"),
            env=self._env,
            cwd=self._home,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if self._before else None,
            start_new_session=True,
        )

    @asynccontextmanager
    async def terminal(self, script: str, ready: bytes | None = None) -> AsyncIterator[None]:
        """One that keeps running, ended as Ctrl-C ends it."""
        process = await self._start(script)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(WITHIN_S):
                while ready and ready not in (line := await process.stdout.readline()):
                    assert line, "it ended before it was ready"
            yield
            assert process.returncode is None, (await process.communicate())[1].decode()
        finally:
            os.killpg(process.pid, signal.SIGINT)
            async with asyncio.timeout(WITHIN_S):
                await process.communicate()

    async def answer(self, command: str) -> str:
        process = await self._start(command)
        try:
            async with asyncio.timeout(WITHIN_S):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, err.decode()
        return out.decode().strip()


def blocks(text: str, kind: str) -> list[str]:
    return [content for found, content in BLOCK.findall(text) if found == kind]


async def check_commands(desk: Desk, commands: str) -> None:
    """Every command of a `console` block prints what stands below it."""
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", commands, re.MULTILINE):
        pattern = ".+".join(re.escape(fixed) for fixed in expected.strip().split("…"))
        answer = await desk.answer(command)
        assert re.fullmatch(pattern, answer, re.DOTALL), f"{command}\nprinted {answer}\nand not {expected}"
