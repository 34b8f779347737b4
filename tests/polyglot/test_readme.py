"""The README's quickstart for the `nats` command works as it is printed."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest
from tests.polyglot.conftest import WITHIN_S
from tests.polyglot.toolchains import NATSCLI_VERSION, REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


def printed_commands() -> list[str]:
    """The block of the README that begins by choosing the context."""
    blocks = re.findall(r"^```\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if block.startswith("export NATS_CONTEXT=callboard-dev\n")]
    return str(block).splitlines()


def test_the_readme_says_how_to_get_the_command_that_is_tested() -> None:
    assert f"`go install github.com/nats-io/natscli/nats@{NATSCLI_VERSION}`" in (REPOSITORY / "README.md").read_text()


async def test_the_five_commands_of_the_quickstart(nats_program: Path, dev: dict[str, str], tmp_path: Path) -> None:
    export, *commands = printed_commands()
    assert len(commands) == 5
    outputs: list[str] = []
    environment = {name: value for name, value in dev.items() if name != "NATS_CONTEXT"}
    path = f"{nats_program.parent}:{environment['PATH']}"
    for command in commands:
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", f"{export}\n{command}", cwd=tmp_path, env={**environment, "PATH": path},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(WITHIN_S):
            output, log = await process.communicate()
        assert process.returncode == 0, (command, output, log)
        outputs.append(output.decode())
    services, status, spawned, submitted, task = outputs
    assert "callboard" in services
    assert json.loads(status)["pool"] == "default"
    assert json.loads(spawned)["state"] == "online"
    assert json.loads(submitted)["created"] is True
    read = json.loads(task)
    assert (read["task_id"], read["type"]) == (json.loads(submitted)["task_id"], "greet")
