"""What an operator sees: metrics that count, health that is a real round trip, a mirror to watch."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from callboard.agents import Agent, TaskContext
from callboard.agents.errors import TaskFailed
from callboard.bus.connection import Bus, BusMessage, BusOptions
from callboard.bus.embedded import EmbeddedNats
from callboard.orchestrator import OrchestratorConfig, OrchestratorMode, TaskNotFoundError, create_orchestrator
from callboard.orchestrator.store.migrate import migrate
from callboard.schemas.vocabulary import TaskState

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

WITHIN_S = 30.0


async def fetch(url: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own loopback address
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(get)


def values(text: str) -> dict[str, float]:
    """Each sample by its name and labels."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def config(nats_url: str, database_url: str, **settings: Any) -> OrchestratorConfig:  # noqa: ANN401 - any setting
    return OrchestratorConfig(
        mode=OrchestratorMode.TEST,
        nats={"url": nats_url},  # type: ignore[arg-type] # the configuration converts what it is given
        database_url=database_url,
        heartbeat_interval_seconds=0.3,
        **settings,
    )


async def test_metrics_count_what_happened(nats_server: EmbeddedNats, database_url: str) -> None:
    await migrate(database_url)
    agent = Agent("observed", prefix="seen", slots=2)

    @agent.task("well")
    async def well(_: TaskContext) -> int:
        return 1

    @agent.task("ill")
    async def ill(_: TaskContext) -> int:
        raise TaskFailed("no", retryable=False)

    async with create_orchestrator(config(nats_server.url, database_url, prefix="seen")) as orch:
        await agent.start(nats_server.url)
        try:
            for task_type, state in (
                ("well", TaskState.SUCCEEDED),
                ("well", TaskState.SUCCEEDED),
                ("ill", TaskState.FAILED),
            ):
                task_id = await orch.delegate_task("", task_type)
                assert (await orch.wait_for_task(task_id, timeout_seconds=WITHIN_S)).state is state
            with pytest.raises(TaskNotFoundError):
                await orch.get_task("01900000-0000-7000-8000-000000000000")
            status, text = await fetch(f"{orch.http_url}/metrics")
            performance = (await orch.get_system_status()).performance
        finally:
            await agent.stop()
    seen = values(text)
    assert status == 200
    pool = 'pool="default"'
    assert seen[f'callboard_tasks_submitted_total{{{pool},priority="normal"}}'] == 3
    assert seen[f'callboard_tasks_finished_total{{{pool},state="succeeded"}}'] == 2
    assert seen[f'callboard_tasks_finished_total{{{pool},state="failed"}}'] == 1
    assert seen[f'callboard_attempts_ended_total{{outcome="succeeded",{pool}}}'] == 2
    assert seen[f'callboard_attempts_ended_total{{outcome="failed",{pool}}}'] == 1
    assert seen[f'callboard_requests_total{{code="200",endpoint="tasks_submit",{pool}}}'] == 3
    assert seen[f'callboard_requests_total{{code="404",endpoint="tasks_get",{pool}}}'] == 1
    assert seen[f"callboard_offers_total{{{pool}}}"] == 3
    for duration in ("submit", "dispatch", "run", "end_to_end"):
        assert seen[f"callboard_{duration}_seconds_count{{{pool}}}"] == 3, duration
    assert seen[f"callboard_commits_total{{{pool}}}"] == seen[f"callboard_commit_seconds_count{{{pool}}}"] > 0
    assert seen[f'callboard_agents{{{pool},state="online"}}'] == 1
    assert seen[f"callboard_agent_slots{{{pool}}}"] == 2
    assert seen[f"callboard_pool_owner{{{pool}}}"] == 1
    assert seen[f"callboard_database_up{{{pool}}}"] == 1
    assert seen["callboard_bus_connected"] == 1
    assert performance.success_rate == pytest.approx(2 / 3)
    assert performance.end_to_end.count == 3
    assert performance.end_to_end.p99_ms is not None


async def test_readiness_is_a_real_round_trip(tmp_path: Path, database_url: str) -> None:
    await migrate(database_url)
    async with EmbeddedNats(tmp_path / "nats", token="t") as nats:  # noqa: S106, SIM117 - first the server, then its user
        async with create_orchestrator(config(nats.url, database_url)) as orch:
            assert (await fetch(f"{orch.http_url}/readyz"))[0] == 200
            await nats.kill()
            status, text = await fetch(f"{orch.http_url}/readyz")
            assert (status, list(json.loads(text)["reasons"])) == (503, ["bus"])
            assert (await fetch(f"{orch.http_url}/healthz"))[0] == 200
            await nats.start()


async def test_the_directory_and_the_status_are_mirrored(nats_server: EmbeddedNats, database_url: str) -> None:
    await migrate(database_url)
    written: asyncio.Queue[BusMessage] = asyncio.Queue()
    agent = Agent("mirrored", prefix="kv", pool="kv", capabilities=["glass"])
    agent.task("t")(lambda _: None)
    async with (
        await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus,
        create_orchestrator(config(nats_server.url, database_url, prefix="kv", pools=["kv"], enable_caching=True)),
    ):
        await bus.subscribe("$KV.callboard_kv.>", written.put_nowait)
        await bus.flush()
        await agent.start(nats_server.url)
        try:
            found: dict[str, Any] = {}
            async with asyncio.timeout(WITHIN_S):
                while not {"agents.mirrored", "status"} <= found.keys():
                    message = await written.get()
                    found[message.subject.removeprefix("$KV.callboard_kv.")] = json.loads(message.data)
        finally:
            await agent.stop()
    assert found["agents.mirrored"]["capabilities"] == ["glass"]
    assert found["status"]["pool"] == "kv"
