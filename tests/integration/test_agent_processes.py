"""Agents in processes of their own: signals, and commands that end with their agent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.agent_side import WITHIN_S, AgentSide
from tests.support.processes import Watched
from tests.support.wire import peer

from callboard.agents import ExecAgent
from callboard.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.bus.embedded import EmbeddedNats

pytestmark = pytest.mark.anyio

AGENT = str(Path(__file__).parents[1] / "support" / "agent_process.py")
ECHO = ("-m", "callboard.agents.echo")

# Tells its own process id and that of a child, then waits for both of them to end.
TELL_AND_WAIT = 'sleep 1000 & echo $$ $! > "$(cat)"; wait'
# The same, deaf to SIGTERM, the child too.
DEAF = 'trap "" TERM; sleep 1000 & echo $$ $! > "$(cat)"; while :; do wait; done'


@asynccontextmanager
async def running(*arguments: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env={**os.environ, **variables}, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


@asynccontextmanager
async def process(side: AgentSide, url: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    async with running(*arguments, NATS_URL=url, CALLBOARD_AGENT_ID=side.agent_id, CALLBOARD_SLOTS="4") as started:
        await side.seen("register")
        yield started


async def ended(started: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(WITHIN_S):
        return await started.wait()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
async def side(nats_server: EmbeddedNats, request: pytest.FixtureRequest) -> AsyncIterator[AgentSide]:
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:64]
    async with AgentSide(nats_server.url, name) as side:
        yield side


@pytest.fixture
def url(nats_server: EmbeddedNats) -> str:
    return nats_server.url


async def pids(fifo: Path) -> list[int]:
    async with asyncio.timeout(WITHIN_S):
        return [int(word) for word in (await asyncio.to_thread(fifo.read_text)).split()]


@pytest.mark.parametrize("task_type", ["patient", "blocking"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(side: AgentSide, url: str, fifo: Path, task_type: str, number: signal.Signals) -> None:
    async with process(side, url, AGENT) as started:
        await side.accepted(task_type, str(fifo))
        await side.more("heartbeat")
        started.send_signal(number)
        async with asyncio.timeout(WITHIN_S):
            while not (await side.more("heartbeat")).get("draining"):
                pass
        assert (await side.offer("patient", str(fifo)))[1]["reason"] == "draining"
        await asyncio.to_thread(fifo.write_text, "finished")
        assert (await side.seen("complete"))["result"] == "finished"
        await side.seen("leave")
        assert await ended(started) == 0


async def test_a_second_signal_stops_at_once_and_gives_the_work_back(side: AgentSide, url: str, tmp_path: Path) -> None:
    async with process(side, url, AGENT, "exec", "sleep", "1000") as started:
        which = await side.accepted("any", str(tmp_path))
        started.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WITHIN_S):
            while not (await side.more("heartbeat")).get("draining"):
                pass
        started.send_signal(signal.SIGTERM)
        await side.seen("leave")
        assert await ended(started) == 0
        assert side.requests["heartbeat"][-1]["running"] == [{"task_id": which, "attempt": 1}], "released, not crashed"
        assert not side.requests["fail"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("arguments", [ECHO, (AGENT, "exec", "true")])
async def test_a_signal_while_it_starts_is_remembered(
    url: str, tmp_path: Path, arguments: tuple[str, ...], number: signal.Signals
) -> None:
    """It looks for a selected context once its handlers are installed; a pipe that says nothing keeps it there."""
    selected = tmp_path / "nats" / "context.txt"
    selected.parent.mkdir()
    os.mkfifo(selected)
    async with running(*arguments, NATS_URL=url, NATS_CONTEXT="", XDG_CONFIG_HOME=str(tmp_path)) as started:
        async with asyncio.timeout(WITHIN_S):
            pipe = await asyncio.to_thread(selected.open, "w")
        started.send_signal(number)
        pipe.close()
        assert await ended(started) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_nats_says_nothing_ends_it(number: signal.Signals) -> None:
    connected = asyncio.Event()

    async def mute(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        connected.set()
        await asyncio.Event().wait()

    async with peer(mute) as url, running(*ECHO, NATS_URL=url) as started:
        async with asyncio.timeout(WITHIN_S):
            await connected.wait()
        started.send_signal(number)
        assert await ended(started) == 0


async def test_shutdown_ends_the_process(side: AgentSide, url: str) -> None:
    async with process(side, url, *ECHO) as started:
        assert await side.tell("shutdown", grace_ms=5_000) == {}
        assert await ended(started) == 0
        assert side.requests["leave"]


async def test_the_echo_agent_takes_any_type(side: AgentSide, url: str) -> None:
    async with process(side, url, *ECHO):
        await side.accepted("whatever", {"n": 1.0})
        assert (await side.seen("complete"))["result"] == {"echo": {"n": 1.0}}


async def test_the_echo_agent_says_in_a_line_what_is_wrong(nats_server: EmbeddedNats) -> None:
    environment = {**os.environ, "NATS_URL": nats_server.url, "CALLBOARD_SLOTS": "many"}
    started = await asyncio.create_subprocess_exec(
        sys.executable, *ECHO, env=environment, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(WITHIN_S):
        _, complaint = await started.communicate()
    assert started.returncode == 1
    assert complaint.decode() == "callboard echo agent: CALLBOARD_SLOTS is not a number: 'many'\n"


@asynccontextmanager
async def commanding(side: AgentSide, url: str, agent: ExecAgent) -> AsyncIterator[AgentSide]:
    await agent.agent.start(url)
    try:
        yield side
    finally:
        await agent.agent.stop()


async def test_a_command_gets_the_payload_and_its_output_is_the_result(side: AgentSide, url: str) -> None:
    async with commanding(side, url, ExecAgent(["cat"], side.agent_id)):
        for count, (payload, result) in enumerate(
            [("plain\ntext ü", "plain\ntext ü"), ({"a": [1]}, '{"a":[1]}'), (None, ""), ("", "")], 1
        ):
            data = payload
            await side.accepted("any", data)
            answer = (await side.seen("complete", count))["result"]
            assert answer.replace(" ", "") == result.replace(" ", "")


async def test_a_large_payload_that_nobody_reads_blocks_nothing(side: AgentSide, url: str) -> None:
    async with commanding(side, url, ExecAgent(["true"], side.agent_id)):
        await side.accepted("any", "x" * 200_000)
        assert (await side.seen("complete"))["result"] == ""


async def test_json_output_is_parsed_or_fails(side: AgentSide, url: str) -> None:
    async with commanding(side, url, ExecAgent(["cat"], side.agent_id, output="json")):
        await side.accepted("any", {"a": 1})
        assert (await side.seen("complete"))["result"] == {"a": 1}
        await side.accepted("any", "no json")
        error = (await side.seen("fail"))["error"]
        assert (error["type"], error["retryable"]) == ("invalid_output", False)


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ("echo first >&2; echo why >&2; exit 3", "exit_status", "ended with exit status 3: first\nwhy"),
        ("kill -KILL $$", "signal", "was ended by SIGKILL"),
        ("yes", "output_too_large", "wrote more than 1000 bytes"),
        ("sleep 1000", "timeout", "took longer than 2 s"),
    ],
)
async def test_how_a_command_fails(side: AgentSide, url: str, script: str, kind: str, words: str) -> None:
    agent = ExecAgent(["sh", "-c", script], side.agent_id, timeout_s=2, max_output_bytes=1_000)
    async with commanding(side, url, agent):
        await side.accepted("any")
        error = (await side.seen("fail"))["error"]
        assert error["type"] == kind
        assert words in error["message"]


async def test_the_environment_tells_which_task_it_is(side: AgentSide, url: str) -> None:
    script = "echo $CALLBOARD_TASK_ID $CALLBOARD_ATTEMPT $CALLBOARD_TASK_TYPE"
    async with commanding(side, url, ExecAgent(["sh", "-c", script], side.agent_id)):
        which = await side.accepted("any")
        assert (await side.seen("complete"))["result"] == f"{which} 1 any\n"


@pytest.mark.parametrize(("script", "grace_s"), [(TELL_AND_WAIT, 1_000.0), (DEAF, 0.2)])
async def test_cancel_ends_the_whole_group(side: AgentSide, url: str, fifo: Path, script: str, grace_s: float) -> None:
    async with commanding(side, url, ExecAgent(["sh", "-c", script], side.agent_id, grace_s=grace_s)):
        which = await side.accepted("any", str(fifo))
        watched = Watched(await pids(fifo))
        assert await side.tell("cancel", task_id=which, attempt=1) == {}
        await watched.gone()
        assert (await side.more("heartbeat"))["running"] == []
    assert not side.requests["fail"]


async def test_what_a_command_leaves_running_ends_with_it(side: AgentSide, url: str, fifo: Path) -> None:
    script = 'path=$(cat); sleep 1000 & echo done; echo $! > "$path"'
    async with commanding(side, url, ExecAgent(["sh", "-c", script], side.agent_id)):
        await side.accepted("any", str(fifo))
        watched = Watched(await pids(fifo))
        assert (await side.seen("complete"))["result"] == "done\n"
        await watched.gone()


async def test_a_killed_agent_leaves_no_process_behind(side: AgentSide, url: str, fifo: Path) -> None:
    async with process(side, url, AGENT, "exec", "sh", "-c", DEAF) as started:
        await side.accepted("any", str(fifo))
        watched = Watched(await pids(fifo))
        started.kill()
        await watched.gone()


def test_a_command_that_does_not_exist_is_found_out_before_it_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="no such command: 'no-such-command'"):
        ExecAgent(["no-such-command"])
