"""The launcher with real processes. An agent's end is seen as the end of its connection to the test."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from callboard.orchestrator.agent_output import AgentOutput
from callboard.orchestrator.agent_process import AgentProcess, setpriv_path
from callboard.orchestrator.config import OrchestratorConfig, OrchestratorMode, RoleSettings
from callboard.orchestrator.launcher import INHERITED, Launcher, SpawnedAgent
from callboard.orchestrator.supervised import RestartPolicy
from callboard.schemas.agents import SpawnAgent
from callboard.schemas.errors import ConfigurationError, InvalidRequestError, ResourceLimitError, UnavailableError
from callboard.schemas.vocabulary import AgentState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.anyio

SUPPORT = Path(__file__).parent.parent / "support"
QUICKLY = RestartPolicy(first_ms=1, max_ms=2)
PATIENCE_S = 20
BY_BASH = {"SHLVL"}
"""Where it is the shell."""


@dataclass
class Caller:
    """The test's end of one agent process's connection."""

    pid: int
    env: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def tell(self, command: str) -> None:
        self.writer.write(command.encode() + b"\n")
        await self.writer.drain()

    async def ended(self) -> None:
        """Wait until no process holds the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await self.reader.readline():
                    pass
            except ConnectionResetError:
                return


class Stage:
    """A launcher, and the agents that have called."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.callers: asyncio.Queue[Caller] = asyncio.Queue()
        self.restarted: asyncio.Queue[SpawnedAgent] = asyncio.Queue()
        self.gone: asyncio.Queue[SpawnedAgent] = asyncio.Queue()
        self.launcher: Launcher = self.make()
        self._writers: list[asyncio.StreamWriter] = []

    def make(self, **settings: Any) -> Launcher:  # noqa: ANN401 - settings of any type
        command = (sys.executable, str(SUPPORT / "spawned_agent.py"), str(self.path))
        roles = {
            "tester": RoleSettings(command=command, env_allow=("GREETING",), env_inherit=("API_KEY",), slots=2),
            "stubborn": RoleSettings(command=(*command, "stubborn")),
            "silent": RoleSettings(command=command),
            "missing": RoleSettings(command=("no-such-command",)),
        }
        defaults: dict[str, Any] = {"mode": OrchestratorMode.TEST, "roles": roles}
        self.launcher = Launcher(
            OrchestratorConfig(**(defaults | settings)),
            agent_environment={"NATS_URL": "nats://127.0.0.1:4222"},
            restart=QUICKLY,
            on_restart=self.restarted.put_nowait,
            on_end=self.gone.put_nowait,
        )
        return self.launcher

    async def on_call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        hello = json.loads(await reader.readline())
        caller = Caller(hello["pid"], hello["env"], reader, writer)
        if caller.env["CALLBOARD_ROLE"] != "silent":
            self.launcher.came_online(caller.env["CALLBOARD_POOL"], caller.env["CALLBOARD_AGENT_ID"])
        self.callers.put_nowait(caller)

    async def caller(self) -> Caller:
        async with asyncio.timeout(PATIENCE_S):
            return await self.callers.get()

    async def end(self) -> SpawnedAgent:
        async with asyncio.timeout(PATIENCE_S):
            return await self.gone.get()

    async def spawn(
        self,
        role: str = "tester",
        agent_id: str | None = None,
        **order: Any,  # noqa: ANN401 - fields of the order
    ) -> tuple[SpawnedAgent, Caller]:
        agent = await self.launcher.spawn(SpawnAgent(role=role, agent_id=agent_id, **order), pool="default")
        return agent, await self.caller()

    async def close(self) -> None:
        await self.launcher.stop_all(grace_ms=0)
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def _stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path / "s")
    async with await asyncio.start_unix_server(stage.on_call, stage.path):
        try:
            yield stage
        finally:
            await stage.close()


@pytest.fixture(params=["setpriv", "an interpreter"])
def guard(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each of the ways in which an agent is made to end with the orchestrator."""
    if request.param == "an interpreter":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif sys.platform != "linux" or shutil.which("setpriv") is None:
        pytest.skip("no setpriv here: agents are started by an interpreter")
    setpriv_path.cache_clear()
    yield
    setpriv_path.cache_clear()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with _stage(tmp_path) as opened:
        yield opened


@pytest.mark.usefixtures("guard")
async def test_spawn_answers_once_online_with_the_agreed_environment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("API_KEY", "k")
    agent, caller = await stage.spawn(
        agent_id="a-1", capabilities=["python", "api"], labels={"gpu": True}, env={"GREETING": "hello"}
    )
    assert agent.state is AgentState.ONLINE
    assert (agent.agent_id, agent.role, agent.pid) == ("a-1", "tester", caller.pid)
    assert "DATABASE_URL" not in caller.env
    expected = {
        "NATS_URL": "nats://127.0.0.1:4222",
        "CALLBOARD_POOL": "default",
        "CALLBOARD_PREFIX": "callboard",
        "CALLBOARD_AGENT_ID": "a-1",
        "CALLBOARD_ROLE": "tester",
        "CALLBOARD_CAPABILITIES": "python,api",
        "CALLBOARD_SLOTS": "2",
        "CALLBOARD_LABELS": '{"gpu":true}',
        "GREETING": "hello",
        "API_KEY": "k",
    }
    assert {name: caller.env.get(name) for name in expected} == expected
    # The agent's own interpreter may set LC_CTYPE, by PEP 538.
    assert set(caller.env) - {*expected, *INHERITED, "PYTHONUNBUFFERED"} <= {"LC_CTYPE", *BY_BASH}
    assert caller.env.get("LC_CTYPE") in {None, "C.UTF-8", os.environ.get("LC_CTYPE")}


async def test_the_same_id_and_role_again_is_the_same_agent(stage: Stage) -> None:
    first, _ = await stage.spawn(agent_id="a-1")
    again = await stage.launcher.spawn(SpawnAgent(role="tester", agent_id="a-1"), pool="default")
    assert again.pid == first.pid
    with pytest.raises(InvalidRequestError, match="in use by an agent of role tester") as refusal:
        await stage.launcher.spawn(SpawnAgent(role="stubborn", agent_id="a-1"), pool="default")
    assert refusal.value.details == {"path": "agent_id"}
    elsewhere = await stage.launcher.spawn(SpawnAgent(role="tester", agent_id="a-1"), pool="other")
    assert elsewhere.pid != first.pid


async def test_two_orders_at_once_for_one_id_start_one_process(stage: Stage) -> None:
    order = SpawnAgent(role="tester", agent_id="a-1")
    one, two = await asyncio.gather(
        stage.launcher.spawn(order, pool="default"), stage.launcher.spawn(order, pool="default")
    )
    assert one.pid == two.pid
    assert len(stage.launcher.agents()) == 1


async def test_the_limit_counts_those_not_stopped(stage: Stage) -> None:
    stage.make(max_concurrent_agents=1)
    agent, _ = await stage.spawn()
    with pytest.raises(ResourceLimitError, match="1 agents are spawned already"):
        await stage.launcher.spawn(SpawnAgent(role="tester"), pool="default")
    assert await stage.launcher.stop("default", agent.agent_id)
    await stage.spawn()


@pytest.mark.parametrize("name", ["PATH", "CALLBOARD_AGENT_ID", "LD_PRELOAD"])
async def test_a_variable_that_the_role_does_not_allow_is_refused(stage: Stage, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=name) as refusal:
        await stage.launcher.spawn(SpawnAgent(role="tester", env={name: "x"}), pool="default")
    assert refusal.value.details == {"path": f"env.{name}"}
    assert stage.launcher.agents() == []


async def test_a_role_must_be_one_of_those_that_are_configured(stage: Stage) -> None:
    known = "role 'testr' is not configured: the roles are missing, silent, stubborn, tester"
    with pytest.raises(ConfigurationError, match=known):
        await stage.launcher.spawn(SpawnAgent(role="testr"), pool="default")
    assert stage.launcher.agents() == []


async def test_without_any_role_each_is_the_echo_agent_but_not_in_production(stage: Stage) -> None:
    stage.make(roles={}, spawn_timeout_seconds=0.001)
    # It would come online if there were a NATS server.
    with pytest.raises(UnavailableError, match="did not come online"):
        await stage.launcher.spawn(SpawnAgent(role="any"), pool="default")
    stage.make(roles={}, mode=OrchestratorMode.PRODUCTION)
    with pytest.raises(ConfigurationError, match="role 'any' is not configured: add it to `roles`"):
        await stage.launcher.spawn(SpawnAgent(role="any"), pool="default")


async def test_a_command_that_does_not_exist_is_a_mistake_of_the_configuration(stage: Stage) -> None:
    with pytest.raises(ConfigurationError, match="'no-such-command' of role 'missing' was not found"):
        await stage.launcher.spawn(SpawnAgent(role="missing"), pool="default")
    assert stage.launcher.agents() == []


async def test_an_agent_that_does_not_come_online_is_stopped_and_forgotten(stage: Stage) -> None:
    stage.make(spawn_timeout_seconds=0.01)
    with pytest.raises(UnavailableError, match="agent a-1 did not come online"):
        await stage.launcher.spawn(SpawnAgent(role="silent", agent_id="a-1"), pool="default")
    assert stage.launcher.agents() == []


async def test_an_agent_that_never_comes_up_says_its_last_status(stage: Stage) -> None:
    failing = RoleSettings(command=(sys.executable, "-c", "raise SystemExit(7)"))
    stage.make(roles={"failing": failing}, spawn_timeout_seconds=2)
    with pytest.raises(UnavailableError, match="last exit status was 7"):
        await stage.launcher.spawn(SpawnAgent(role="failing"), pool="default")
    assert not stage.restarted.empty()


async def test_an_agent_that_dies_is_started_again(stage: Stage) -> None:
    first, caller = await stage.spawn(agent_id="a-1")
    await caller.tell("exit 3")
    await caller.ended()
    second = await stage.caller()
    assert second.env["CALLBOARD_AGENT_ID"] == "a-1"
    assert second.pid != first.pid
    assert stage.launcher.find("default", "a-1") == SpawnedAgent(
        pool="default", agent_id="a-1", role="tester", state=AgentState.ONLINE, pid=second.pid, restarts=1
    )
    assert (await stage.restarted.get()).agent_id == "a-1"


async def test_an_agent_that_leaves_is_forgotten(stage: Stage) -> None:
    stage.make(max_concurrent_agents=1)
    _, caller = await stage.spawn(agent_id="a-1")
    with structlog.testing.capture_logs() as log:
        await caller.tell("exit 0")
        ended = await stage.end()
    assert (ended.agent_id, ended.state, ended.pid) == ("a-1", AgentState.STOPPED, None)
    assert stage.launcher.find("default", "a-1") is None
    assert [entry["status"] for entry in log if entry["event"] == "agent ended"] == [0]
    assert stage.restarted.empty()


async def test_stop_lets_a_willing_agent_end_by_itself(stage: Stage) -> None:
    agent, caller = await stage.spawn()
    assert await stage.launcher.stop("default", agent.agent_id, grace_ms=PATIENCE_S * 1000)
    await caller.ended()
    assert stage.launcher.agents() == []
    assert not await stage.launcher.stop("default", agent.agent_id)


@pytest.mark.parametrize("grace_ms", [0, 50])
async def test_stop_kills_a_stubborn_agent_and_its_children(stage: Stage, grace_ms: int) -> None:
    agent, caller = await stage.spawn("stubborn")
    await caller.tell("child")
    assert await caller.reader.readline() == b"ready\n"
    await stage.launcher.stop("default", agent.agent_id, grace_ms=grace_ms)
    await caller.ended()


async def test_a_shorter_grace_cuts_a_longer_one(stage: Stage) -> None:
    agent, caller = await stage.spawn("stubborn")
    patient = asyncio.create_task(stage.launcher.stop("default", agent.agent_id, grace_ms=3_600_000))
    async with asyncio.timeout(PATIENCE_S):
        await stage.launcher.stop_all(grace_ms=0)
        assert await patient
    await caller.ended()


async def test_a_dead_agents_children_do_not_outlive_it(stage: Stage) -> None:
    _, caller = await stage.spawn()
    await caller.tell("child")
    assert await caller.reader.readline() == b"ready\n"
    await caller.tell("exit 1")
    await caller.ended()


async def test_stop_all_ends_every_agent_and_starts_no_more(stage: Stage) -> None:
    callers = [(await stage.spawn(role))[1] for role in ("tester", "stubborn", "tester")]
    await stage.launcher.stop_all(grace_ms=100)
    await stage.launcher.stop_all(grace_ms=100)
    for caller in callers:
        await caller.ended()
    assert stage.launcher.agents() == []
    with pytest.raises(UnavailableError, match="stopping"):
        await stage.launcher.spawn(SpawnAgent(role="tester"), pool="default")


async def test_what_an_agent_prints_becomes_events_of_the_log(stage: Stage) -> None:
    with structlog.testing.capture_logs() as log:
        _, caller = await stage.spawn(agent_id="a-1")
        await caller.tell("print last words")
        await caller.tell("exit 0")
        await stage.end()
    output = [entry for entry in log if entry["event"] == "agent output"]
    assert output == [
        {"event": "agent output", "line": "last words", "pool": "default", "agent_id": "a-1", "log_level": "info"}
    ]


@pytest.mark.usefixtures("guard")
@pytest.mark.parametrize("env", [{"A": "1"}, {"LC_CTYPE": "C"}])
async def test_a_command_gets_the_environment_to_the_letter(env: dict[str, str]) -> None:
    lines: list[str] = []
    process = await AgentProcess.start(
        [shutil.which("env", path=os.defpath) or "env"],
        env=env,
        output=AgentOutput(on_line=lines.append, on_dropped=lambda _: None),
    )
    assert await process.wait() == 0
    passed = dict(line.split("=", 1) for line in lines)
    assert {name: value for name, value in passed.items() if name not in BY_BASH} == env


@pytest.mark.usefixtures("guard")
async def test_agents_end_with_a_killed_orchestrator(stage: Stage) -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, str(SUPPORT / "launching_parent.py"), str(stage.path))
    try:
        caller = await stage.caller()
    finally:
        parent.kill()
        await parent.wait()
    await caller.ended()
