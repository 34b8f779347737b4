"""The server configurations that we ship, run as they are: who may do what in production (protocol, section 1)."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from callboard.bus.connection import Bus, BusChange, BusMessage, BusOptions, BusState
from callboard.bus.embedded import find_nats_server
from callboard.bus.keyvalue import Mirror
from callboard.schemas.errors import OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio

CONFIGURATIONS = Path(__file__).parents[2] / "bus" / "nats"
USERS = ("orchestrator", "client", "operator", "reviewer-1")
PASSWORDS = {f"CALLBOARD_{user.upper().replace('-', '_')}_PASSWORD": f"pw-{user}" for user in USERS}
ROOT = "callboard.v1.default"


@asynccontextmanager
async def running(name: str, cwd: Path) -> AsyncIterator[str]:
    """A server with one of our configurations, on another port; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    environment = {**os.environ, **PASSWORDS, "CALLBOARD_NATS_ADMIN_PASSWORD": "pw-admin"}
    configuration = cwd / name
    # The monitoring port is fixed in the file; two runs of the tests must not meet there.
    configuration.write_text((CONFIGURATIONS / name).read_text().replace("127.0.0.1:8222", "127.0.0.1:-1"))
    process = await asyncio.create_subprocess_exec(
        find_nats_server(), "-c", configuration, "-p", str(port), cwd=cwd, env=environment,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield address
    finally:
        process.terminate()
        async with asyncio.timeout(20):
            await process.wait()


class Refusals:
    """The permission violations that a bus heard of."""

    def __init__(self) -> None:
        self._texts: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, change: BusChange) -> None:
        if change.state is BusState.REFUSED:
            self._texts.put_nowait(change.reason)

    async def next(self) -> str:
        async with asyncio.timeout(5):
            return await self._texts.get()


async def connect(address: str, user: str, on_change: Callable[[BusChange], None] | None = None) -> Bus:
    options = BusOptions(
        servers=(f"nats://{address}",), user=user, password=f"pw-{user}", inbox_prefix=f"_INBOX.{user}"
    )
    async with asyncio.timeout(20):
        return await Bus.connect(options, on_change=on_change)


async def test_in_development_everything_is_open(tmp_path: Path) -> None:
    async with (
        running("development.conf", tmp_path) as address,
        asyncio.timeout(20),
        await Bus.connect(BusOptions(servers=(address,))) as bus,
    ):
        await (await Mirror.open(bus, "tasks")).put("k", b"v")
        assert bus.max_payload == 1024 * 1024


async def test_in_production_an_agent_is_who_it_says(tmp_path: Path) -> None:
    refusals = Refusals()
    heard: list[str] = []

    def answer_from(bus: Bus) -> Callable[[BusMessage], None]:
        def answer(message: BusMessage) -> None:
            heard.append(message.subject)
            bus.send(message.reply, b"{}")

        return answer

    async with (
        running("production.conf", tmp_path) as address,
        await connect(address, "orchestrator") as orchestrator,
        await connect(address, "reviewer-1", refusals) as agent,
    ):
        await orchestrator.subscribe(f"{ROOT}.agent.*.*", answer_from(orchestrator))
        await agent.subscribe(f"{ROOT}.to.reviewer-1.*", answer_from(agent))
        await orchestrator.flush()
        await agent.flush()

        await agent.request(f"{ROOT}.agent.reviewer-1.register", b"{}", timeout_s=5)
        await orchestrator.request(f"{ROOT}.to.reviewer-1.assign", b"{}", timeout_s=5)
        await orchestrator.request(f"{ROOT}.to.reviewer-1.assign", b"{}", timeout_s=5)
        assert heard == [
            f"{ROOT}.agent.reviewer-1.register",
            f"{ROOT}.to.reviewer-1.assign",
            f"{ROOT}.to.reviewer-1.assign",
        ]

        for subject in (
            f"{ROOT}.agent.other.complete",
            f"{ROOT}.to.other.assign",
            "_INBOX.other.x",
            f"{ROOT}.status",
        ):
            agent.send(subject, b"{}")
            assert f'Publish to "{subject}"' in await refusals.next()
        for pattern in (f"{ROOT}.to.>", "_INBOX.>", "$SRV.>", f"{ROOT}.agent.>", f"{ROOT}.event.>"):
            await agent.subscribe(pattern, lambda _: None)
            assert f'Subscription to "{pattern}"' in await refusals.next()
        assert agent.connected
        assert len(heard) == 3


async def test_in_production_a_client_is_no_operator(tmp_path: Path) -> None:
    refusals = Refusals()

    async with (
        running("production.conf", tmp_path) as address,
        await connect(address, "orchestrator") as orchestrator,
        await connect(address, "client", refusals) as client,
        await connect(address, "operator") as operator,
    ):
        await orchestrator.subscribe(f"{ROOT}.>", lambda message: orchestrator.send(message.reply, b"{}"))
        await orchestrator.subscribe("$SRV.PING", lambda message: orchestrator.send(message.reply, b"{}"))
        await orchestrator.flush()
        for subject in (f"{ROOT}.tasks.submit", f"{ROOT}.agents.list", f"{ROOT}.status", "$SRV.PING"):
            await client.request(subject, b"{}", timeout_s=5)
            await operator.request(subject, b"{}", timeout_s=5)
        for subject in (f"{ROOT}.agents.shutdown", f"{ROOT}.pool.pause"):
            await operator.request(subject, b"{}", timeout_s=5)
            with pytest.raises(OutcomeUnknownError):
                await client.request(subject, b"{}", timeout_s=0.05)
            assert f'Publish to "{subject}"' in await refusals.next()
        await client.subscribe("_INBOX.operator.>", lambda _: None)
        assert "_INBOX.operator.>" in await refusals.next()
        await client.subscribe(f"{ROOT}.event.>", lambda _: None)
        await client.rtt()
