"""A running `callboard dev`, and the `nats` command that finds it by its context."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import pytest
from tests.polyglot.toolchains import BUILD_WITHIN_S, nats_cli

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

WITHIN_S = 30.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a language waits for its build."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_WITHIN_S))


@dataclass
class Cli:
    """The `nats` command, in an environment where nothing but the context leads to the servers."""

    program: Path
    environment: dict[str, str]

    async def run(self, *arguments: str, stdin: bytes | None = None) -> str:
        """What it prints; it must succeed."""
        async with self.started(*arguments, stdin=stdin is not None) as process, asyncio.timeout(WITHIN_S):
            output, errors = await process.communicate(stdin)
        assert process.returncode == 0, (arguments, output, errors)
        return output.decode()

    async def json(self, *arguments: str) -> Any:  # noqa: ANN401 - any JSON value
        """What it prints, as JSON."""
        return json.loads(await self.run(*arguments))

    async def ask(self, subject: str, **fields: object) -> Any:  # noqa: ANN401 - any JSON value
        """`nats req`, and the answer."""
        return await self.json("req", f"callboard.v1.default.{subject}", json.dumps(fields), "--raw")

    @asynccontextmanager
    async def started(self, *arguments: str, stdin: bool = False) -> AsyncIterator[asyncio.subprocess.Process]:
        """The command at work; ended afterwards if it has not."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            self.program, *arguments, env=self.environment, stdout=pipe, stderr=pipe,
            stdin=pipe if stdin else asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture(scope="session")
def nats_program() -> Path:
    return nats_cli()


@pytest.fixture(scope="session")
async def dev(
    anyio_backend: str,  # noqa: ARG001 - orders the loop before the servers
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[dict[str, str]]:
    """`callboard dev`, started as a user starts it; the environment that leads to it."""
    home = tmp_path_factory.mktemp("dev")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CALLBOARD_", "NATS_"))}
    environment = {**clean, "XDG_CONFIG_HOME": str(home / "config")}
    program = Path(sys.executable).with_name("callboard")
    process = await asyncio.create_subprocess_exec(
        program, "dev", "--data-dir", str(home / "data"), "--nats-port", "0", "--http-port", "0",
        env={**environment, "CALLBOARD_ENABLE_CACHING": "true"}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            while b"is ready" not in (line := await process.stdout.readline()):
                assert line, "callboard dev ended"
        yield {**environment, "NATS_CONTEXT": "callboard-dev", "CALLBOARD_DATA_DIR": str(home / "data")}
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(WITHIN_S):
            await process.communicate()
    assert process.returncode == 0


@pytest.fixture
def cli(nats_program: Path, dev: dict[str, str]) -> Cli:
    return Cli(nats_program, dev)


@pytest.fixture
async def bus(dev: dict[str, str]) -> AsyncIterator[Client]:
    """A plain connection to the same servers."""
    addresses = json.loads((Path(dev["CALLBOARD_DATA_DIR"]) / "callboard.json").read_text())
    connection = await nats.connect(addresses["nats_url"], allow_reconnect=False)
    yield connection
    await connection.close()
