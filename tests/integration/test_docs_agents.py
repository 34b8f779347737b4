"""Every command of docs/agents.md, as it is printed: terminals that keep running, and commands with what they answer.

`sh` blocks are terminals, `console` blocks are commands and what they print, where `…` stands for anything.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.chat_server import ChatServer
from tests.support.synadia_peer import Peer

from callboard.bus.context import options_from_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.bus.options import BusOptions

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INTRODUCTION, *_PARTS = PAGE.split("\n## ")
PARTS = {part.partition("\n")[0]: part for part in _PARTS}
ELSEWHERE = "Other languages"
SYNADIA = "Agents of the Synadia Agent Protocol"
"""What needs other toolchains is run by tests/polyglot."""
WITHIN_S = 60.0

CLAUDE = """#!/bin/sh
[ "$*" = "-p --output-format json" ] || { echo "unknown: $*" >&2; exit 1; }
[ -z "$(ls -A)" ] || { echo "not an empty directory" >&2; exit 1; }
printf '{"type":"result","is_error":false,"result":"You said: %s"}' "$(cat)"
"""
CODEX = """#!/bin/sh
[ "$*" = "exec --skip-git-repo-check -" ] || { echo "unknown: $*" >&2; exit 1; }
echo thinking >&2
echo "You said: $(cat)"
"""


class Desk:
    """Terminals in one directory, with the commands and the board of the page."""

    def __init__(self, home: Path, llm_url: str) -> None:
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


@pytest.fixture(scope="module")
async def desk(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:  # noqa: ARG001 - orders the loop
    home = tmp_path_factory.mktemp("desk")
    (home / "bin").mkdir()
    for name, script in (("claude", CLAUDE), ("codex", CODEX)):
        (home / "bin" / name).write_text(script)
        (home / "bin" / name).chmod(0o755)
    board, address = blocks(INTRODUCTION, "sh")
    async with ChatServer() as server:
        desk = Desk(home, server.base_url)
        async with desk.terminal(board, ready=b"callboard.json"):
            desk.export(address.strip())
            yield desk


@pytest.mark.parametrize("part", sorted(set(PARTS) - {ELSEWHERE}))
async def test_every_command_does_what_the_page_says(desk: Desk, part: str) -> None:
    text = PARTS[part]
    for program in blocks(text, "python"):
        name = re.search(r"`(\w+\.py)`", text)
        assert name is not None
        (desk._home / name[1]).write_text(program)
    terminals, commands = blocks(text, "sh"), "".join(blocks(text, "console"))
    assert terminals
    assert commands
    async with AsyncExitStack() as open_ones:
        if part == SYNADIA:
            # In the place of Claude Code, which does not run here.
            await open_ones.enter_async_context(Peer(desk.nats, agent="claude-code"))
        for terminal in terminals:
            await open_ones.enter_async_context(desk.terminal(terminal))
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", commands, re.MULTILINE):
            pattern = ".+".join(re.escape(fixed) for fixed in expected.strip().split("…"))
            answer = await desk.answer(command)
            assert re.fullmatch(pattern, answer, re.DOTALL), f"{command}\nprinted {answer}\nand not {expected}"


def test_each_part_takes_under_ten_lines() -> None:
    for part, text in PARTS.items():
        written = "".join(blocks(text, "python") + blocks(text, "sh")).splitlines()
        assert len([line for line in written if line.strip()]) < 10, part
    assert ELSEWHERE in PARTS
