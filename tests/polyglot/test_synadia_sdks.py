"""Both sides of the Synadia Agent Protocol against the SDKs that its makers publish, in their own environment."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.polyglot.toolchains import BUILD, BUILD_WITHIN_S
from tests.support.memory_pool import memory_pool

from callboard.agents import Agent, TaskContext, TaskFailed
from callboard.agents.synadia.fleet import SynadiaFleet
from callboard.agents.synadia.gateway import Gateway
from callboard.bus.client import Client
from callboard.schemas.vocabulary import AgentState, Outcome, TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.schemas.tasks import TaskDocument

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent / "synadia"
WITHIN_S = 30.0


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of an environment with the SDKs, installed if need be."""
    wanted, place = HERE / "requirements.txt", BUILD / "synadia"
    stamp, program = place / "requirements.txt", place / "bin" / "python"
    if not (stamp.exists() and stamp.read_bytes() == wanted.read_bytes()):
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        install: list[str | Path] = [program, "-m", "pip", "install", "--quiet", "-r", wanted]
        done = subprocess.run(install, check=False, capture_output=True, text=True, timeout=BUILD_WITHIN_S)
        if done.returncode != 0:
            reason = f"the SDKs cannot be installed: {(done.stderr.strip().splitlines() or ['it wrote nothing'])[-1]}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        shutil.copyfile(wanted, stamp)
    return program


@pytest.fixture(scope="module")
async def url(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:  # noqa: ARG001 - orders the loop
    async with memory_pool(tmp_path_factory.mktemp("nats")) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    async with Client.connect(url) as client:
        yield client


@asynccontextmanager
async def hosting(python: Path, url: str, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """An agent of theirs, in a process of its own."""
    process = await asyncio.create_subprocess_exec(python, HERE / "host.py", url, name, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WITHIN_S):
            assert await process.stdout.readline() == b"READY\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def dispatching(url: str) -> AsyncIterator[None]:
    fleet = SynadiaFleet(idle_s=1.5)
    await fleet.start(url)
    try:
        yield
    finally:
        await fleet.stop()


async def online(client: Client, agent_id: str, state: AgentState = AgentState.ONLINE) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            if any(each.agent_id == agent_id and each.state is state for each in (await client.agents()).agents):
                return
            await asyncio.sleep(0.05)  # agents may be asked about only


async def run(client: Client, payload: object, **options: Any) -> TaskDocument:  # noqa: ANN401 - any option
    task_id = (await client.submit("prompt", payload, capabilities=["demo"], **options)).task_id
    return await client.wait(task_id, timeout_s=WITHIN_S)


async def test_their_agents_take_our_tasks_unmodified(python: Path, url: str, client: Client) -> None:
    async with dispatching(url), hosting(python, url, "worker1"):
        await online(client, "synadia-demo-alice-worker1")
        assert (await run(client, "hello")).result_value() == {"text": "echo: hello"}
        assert (await run(client, "slow")).result_value() == {"text": "slow"}
        file = {"filename": "a", "content": "aGk="}
        task = await run(client, {"prompt": "attach", "attachments": [file]})
        assert task.result_value() == {"text": "a", "attachments": [{"filename": "b", "content": "aGk="}]}
        task = await run(client, "fail", max_attempts=1)
        assert task.error is not None
        assert (task.state, task.error.type, task.error.retryable) == (TaskState.FAILED, "error_500", True)
        assert task.error.message == "handler error"


async def test_what_their_agents_ask_our_clients_answer(python: Path, url: str, client: Client) -> None:
    async with dispatching(url), hosting(python, url, "worker2"):
        await online(client, "synadia-demo-alice-worker2")
        task_id = (await client.submit("prompt", "ask a or b?", capabilities=["demo"])).task_id
        async with asyncio.timeout(WITHIN_S):
            async for task in client.watch(task_id):
                if task.question is not None:
                    assert task.question.prompt == "a or b?"
                    break
        await client.answer(task_id, "b")
        assert (await client.wait(task_id, timeout_s=WITHIN_S)).result_value() == {"text": "you said b"}


async def test_an_agent_of_theirs_is_killed_and_started_again(python: Path, url: str, client: Client) -> None:
    async with dispatching(url):
        async with hosting(python, url, "worker3") as process:
            await online(client, "synadia-demo-alice-worker3")
            task_id = (await client.submit("prompt", "hang", capabilities=["demo"], max_attempts=1)).task_id
            async with asyncio.timeout(WITHIN_S):
                async for task in client.watch(task_id):
                    if task.progress is not None:
                        break
            process.kill()
            task = await client.wait(task_id, timeout_s=WITHIN_S)
            assert [attempt.outcome for attempt in task.attempts or ()] in ([Outcome.CRASHED], [Outcome.FAILED])
        async with hosting(python, url, "worker3"):
            await online(client, "synadia-demo-alice-worker3")
            assert (await run(client, "again")).result_value() == {"text": "echo: again"}


async def called(python: Path, url: str, prompt: str, answer: str = "") -> dict[str, list[str]]:
    """What their caller hears."""
    process = await asyncio.create_subprocess_exec(
        python, HERE / "caller.py", url, "callboard", prompt, answer, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(WITHIN_S):
        out, _ = await process.communicate()
    assert process.returncode == 0
    heard: dict[str, list[str]] = json.loads(out)
    return heard


async def test_their_callers_prompt_our_pool(python: Path, url: str) -> None:
    agent, gateway = Agent(capabilities=["ours"]), Gateway(owner="tests", options={"capabilities": ["ours"]})

    @agent.task("prompt")
    async def work(ctx: TaskContext) -> object:
        match ctx.payload["prompt"]:
            case "ask":
                return {"text": f"you said {await ctx.ask('a or b?', ['a', 'b'])}"}
            case "fail":
                raise TaskFailed("as asked", type="hopeless", retryable=False)
            case prompt:
                await ctx.progress(50, "half")
                return f"echo: {prompt}"

    await agent.start(url)
    await gateway.start(url)
    try:
        heard = await called(python, url, "hello")
        assert ("".join(heard["text"]), heard["error"]) == ("echo: hello", [])
        assert heard["status"][0] == "ack"
        heard = await called(python, url, "ask", "b")
        assert (heard["query"], heard["text"]) == (["a or b?\n- a\n- b"], ["you said b"])
        heard = await called(python, url, "fail")
        assert "500" in heard["error"][0]
        assert "as asked" in heard["error"][0]
    finally:
        await gateway.stop()
        await agent.stop()
