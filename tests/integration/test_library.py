"""The orchestrator embedded in a program: the promised example as it stands, and what else the object does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from callboard.agents import Agent, TaskContext
from callboard.bus.client import Client
from callboard.orchestrator import (
    AgentNotFoundError,
    AgentRole,
    ConfigurationError,
    OrchestratorConfig,
    OrchestratorMode,
    TaskAssignmentStrategy,
    TaskDelegationError,
    TaskNotFoundError,
    TaskPriority,
    TaskState,
    create_orchestrator,
)
from callboard.schemas.tasks import TaskSpec
from callboard.schemas.vocabulary import Durability, OnUnsatisfiable

if TYPE_CHECKING:
    from pathlib import Path

    from callboard.bus.embedded import EmbeddedNats

pytestmark = pytest.mark.anyio

NOBODY = "01900000-0000-7000-8000-000000000000"


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NATS_URL", "NATS_CONTEXT", "DATABASE_URL", "CALLBOARD_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("CALLBOARD_HTTP_PORT", "0")


@pytest.mark.usefixtures("no_environment")
async def test_the_promised_example_runs_as_it_stands() -> None:
    orch = create_orchestrator()
    await orch.start()
    agent_id = await orch.spawn_agent(role=AgentRole.BACKEND_DEVELOPER, capabilities=["python", "api"])
    task_id = await orch.delegate_task(
        task_description="Implement API endpoint", task_type="backend_api", priority=TaskPriority.HIGH
    )
    await orch.complete_task(task_id, result={"status": "success"})
    status = await orch.get_system_status()
    task = await orch.get_task(task_id)
    assert await orch.shutdown_agent(agent_id) is True
    await orch.shutdown()

    assert status.agents.total == 1
    assert status.tasks.by_state[TaskState.SUCCEEDED] == 1
    assert status.durability is Durability.FSYNC
    assert task.state is TaskState.SUCCEEDED
    assert task.priority is TaskPriority.HIGH


@pytest.mark.usefixtures("no_environment")
async def test_production_takes_its_addresses_from_the_environment_and_refuses_to_guess(
    monkeypatch: pytest.MonkeyPatch, nats_server: EmbeddedNats, database_url: str
) -> None:
    config = OrchestratorConfig(
        mode=OrchestratorMode.PRODUCTION,
        max_concurrent_agents=20,
        default_task_assignment_strategy=TaskAssignmentStrategy.PERFORMANCE_BASED,
        enable_performance_monitoring=True,
        heartbeat_interval_seconds=30,
    )
    with pytest.raises(ConfigurationError, match="NATS_URL"):
        create_orchestrator(config=config)
    monkeypatch.setenv("NATS_URL", nats_server.url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    orch = create_orchestrator(config=config)
    assert orch.config.max_concurrent_agents == 20
    assert orch.config.database_url == database_url
    with pytest.raises(ConfigurationError, match="callboard migrate"):
        await orch.start()


@pytest.fixture
def in_memory(nats_server: EmbeddedNats) -> OrchestratorConfig:
    """Throw-away: no database, the session's NATS."""
    return OrchestratorConfig(
        mode=OrchestratorMode.TEST,
        nats={"url": nats_server.url},  # type: ignore[arg-type] # the configuration converts what it is given
        enable_database_persistence=False,
        heartbeat_interval_seconds=0.3,
        prefix="memory",
    )


async def test_errors_are_the_same_from_within_as_over_the_wire(
    in_memory: OrchestratorConfig, nats_server: EmbeddedNats
) -> None:
    async with create_orchestrator(in_memory) as orch, Client.connect(nats_server.url, prefix="memory") as client:
        for lookup in (orch.get_task, client.get):
            with pytest.raises(TaskNotFoundError, match=NOBODY):
                await lookup(NOBODY)
        with pytest.raises(AgentNotFoundError, match="nobody"):
            await orch.shutdown_agent("nobody")
        with pytest.raises(TaskDelegationError):
            await orch.delegate_task("", "t", role="unheard-of", on_unsatisfiable=OnUnsatisfiable.REJECT)
        status = await orch.get_system_status()
        assert status.durability is Durability.MEMORY
    with pytest.raises(ConfigurationError, match="not started"):
        await orch.get_system_status()


async def test_work_is_done_by_an_agent_in_the_same_program(
    in_memory: OrchestratorConfig, nats_server: EmbeddedNats
) -> None:
    agent = Agent("adder", capabilities=["sums"], slots=4, prefix="memory")

    @agent.task("add")
    async def add(ctx: TaskContext) -> int:
        return sum(ctx.payload)

    async with create_orchestrator(in_memory) as orch:
        await agent.start(nats_server.url)
        try:
            task_ids = [
                await orch.delegate_task("", "add", payload=[n, n], required_capabilities=["sums"]) for n in range(50)
            ]
            async with asyncio.timeout(30):
                tasks = [await orch.wait_for_task(task_id) for task_id in task_ids]
        finally:
            await agent.stop()
    assert [task.result_value() for task in tasks] == [2 * n for n in range(50)]
    assert {task.agent_id for task in tasks} == {"adder"}


async def test_many_are_submitted_in_one_call_and_safely_repeated(
    in_memory: OrchestratorConfig, nats_server: EmbeddedNats
) -> None:
    async with create_orchestrator(in_memory), Client.connect(nats_server.url, prefix="memory") as client:
        specs = [TaskSpec(type="bulk", key=f"k{n % 2}") for n in range(4)]
        first = await client.submit_many(specs)
        again = await client.submit_many(specs)
    assert [result.created for result in first] == [True, True, False, False]
    assert {result.created for result in again} == {False}
    assert [result.task_id for result in again] == [result.task_id for result in first]
    assert len({result.task_id for result in first}) == 2
