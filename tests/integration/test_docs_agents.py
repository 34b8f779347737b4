"""Every command of docs/agents.md, as it is printed: terminals that keep running, and commands with what they answer.

`sh` blocks are terminals, `console` blocks are commands and what they print, where `…` stands for anything.
"""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.chat_server import ChatServer
from tests.support.desk import Desk, blocks, check_commands
from tests.support.synadia_peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
INTRODUCTION, *_PARTS = PAGE.split("\n## ")
PARTS = {part.partition("\n")[0]: part for part in _PARTS}
ELSEWHERE = "Other languages"
SYNADIA = "Agents of the Synadia Agent Protocol"
"""What needs other toolchains is run by tests/polyglot."""

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
        await check_commands(desk, commands)


def test_each_part_takes_under_ten_lines() -> None:
    for part, text in PARTS.items():
        written = "".join(blocks(text, "python") + blocks(text, "sh")).splitlines()
        assert len([line for line in written if line.strip()]) < 10, part
    assert ELSEWHERE in PARTS
