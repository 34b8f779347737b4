"""Spawning an agent: how much of it is ours, beside what Python takes to start the same program.

Both ways take turns. By hand, the same command is started with the same variables, and the clock runs until the
orchestrator says that the agent is online; the guard that every spawned process is started through is part of ours.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Final

import nats
from benchmarks.bed import servers, serving
from benchmarks.limits.limit import Limit
from nats.aio.client import Client as Nats

from callboard.bus.client import Client
from callboard.orchestrator.launcher import INHERITED
from callboard.schemas.subjects import Subjects
from callboard.schemas.vocabulary import AgentState

TURNS: Final = 100
WITHIN_S: Final = 60.0
ECHO: Final = (sys.executable, "-m", "callboard.agents.echo")
AT: Final = Subjects("default")


async def spawn(directory: Path, scale: float) -> list[Limit]:
    """The median of the differences between neighbours, and the whole."""
    config = directory / "callboard.toml"
    config.write_text("[roles.worker]\nslots = 1\n", encoding="utf-8")
    turns = max(3, round(TURNS * scale))
    settings = {"CALLBOARD_CONFIG": str(config), "CALLBOARD_MAX_CONCURRENT_AGENTS": str(turns + 1)}
    ours: list[float] = []
    bare: list[float] = []
    async with (
        servers(directory) as both,
        serving(directory, both.environment, settings),
        Client.connect(both.nats.url) as client,
    ):
        bus = await nats.connect(both.nats.url)
        try:
            for number in range(turns):
                bare.append(await _by_hand_ms(bus, both.environment, f"hand-{number}"))
                ours.append(await _spawned_ms(bus, client, f"spawned-{number}"))
        finally:
            await bus.close()
    note = f"{median(ours):.0f} ms in all, {median(bare):.0f} ms by hand"
    share = median(mine - other for mine, other in zip(ours, bare, strict=True))
    return [Limit(name="agent spawn: our share", value=share, unit="ms", most=5, note=note)]


async def _spawned_ms(bus: Nats, client: Client, agent_id: str) -> float:
    stopped = await bus.subscribe(AT.agent_event(AgentState.STOPPED, agent_id))
    await bus.flush()
    began = time.perf_counter()
    await client.spawn("worker", agent_id=agent_id, timeout_s=WITHIN_S)
    spent = 1e3 * (time.perf_counter() - began)
    ended = _end_of(agent_id)
    await client.shutdown_agent(agent_id, grace_ms=0)
    await asyncio.wait_for(ended, WITHIN_S)
    await stopped.next_msg(timeout=WITHIN_S)
    await stopped.unsubscribe()
    return spent


def _end_of(agent_id: str) -> asyncio.Future[None]:
    """Done when the agent's process has ended, whose end would cost what the next start needs."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    name = f"CALLBOARD_AGENT_ID={agent_id}".encode()
    (pid,) = (int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if name in _lines(path))
    descriptor = os.pidfd_open(pid)

    def settle() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        ended.set_result(None)

    loop.add_reader(descriptor, settle)
    return ended


def _lines(environ: Path) -> list[bytes]:
    with contextlib.suppress(OSError):  # another's, or gone
        return environ.read_bytes().split(b"\0")
    return []


async def _by_hand_ms(bus: Nats, environment: Mapping[str, str], agent_id: str) -> float:
    online = await bus.subscribe(AT.agent_event(AgentState.ONLINE, agent_id))
    stopped = await bus.subscribe(AT.agent_event(AgentState.STOPPED, agent_id))
    await bus.flush()
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    ours = {"CALLBOARD_AGENT_ID": agent_id, "CALLBOARD_ROLE": "worker", "PYTHONUNBUFFERED": "1"}
    env = {**inherited, **environment, **ours}
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*ECHO, env=env, stderr=asyncio.subprocess.DEVNULL)
    try:
        await online.next_msg(timeout=WITHIN_S)
        return 1e3 * (time.perf_counter() - began)
    finally:
        process.terminate()
        await process.wait()
        await stopped.next_msg(timeout=WITHIN_S)
        await stopped.unsubscribe()
        await online.unsubscribe()
