"""The agent SDK over a real nats-server, against an orchestrator played by the test."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.agent_side import WITHIN_S, AgentSide

from callboard.agents import Agent, TaskCancelled, TaskContext, TaskFailed
from callboard.bus.embedded import EmbeddedNats
from callboard.schemas.errors import (
    ConfigurationError,
    IncarnationReplacedError,
    InvalidRequestError,
    PayloadTooLargeError,
    UnavailableError,
    UnknownIncarnationError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.agent_side import Answer

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(agent: Agent, url: str) -> AsyncIterator[asyncio.Task[None]]:
    """The agent, signed in; stopped at the end. The task ends as `wait` does."""
    async with asyncio.timeout(WITHIN_S):
        await agent.start(url)
    waiting = asyncio.create_task(agent.wait())
    try:
        yield waiting
    finally:
        await agent.stop()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.fixture
async def side(nats_server: EmbeddedNats, request: pytest.FixtureRequest) -> AsyncIterator[AgentSide]:
    """The orchestrator's side of an agent that is named after the test."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:64]
    async with AgentSide(nats_server.url, name) as side:
        yield side


@pytest.fixture
def url(nats_server: EmbeddedNats) -> str:
    return nats_server.url


async def test_it_signs_in_as_what_it_is_and_beats(side: AgentSide, url: str) -> None:
    agent = Agent(
        side.agent_id, capabilities=["b", "a", "b"], role="tester", slots=3, labels={"zone": 1}, version="1.2"
    )
    agent.task("*")(lambda _: None)
    async with serving(agent, url):
        register = await side.seen("register")
        assert register["incarnation"] == agent.incarnation
        assert register["capabilities"] == ["b", "a"]
        assert (register["role"], register["slots"], register["labels"]) == ("tester", 3, {"zone": 1})
        assert register["version"] == "1.2"
        beats = [await side.seen("heartbeat", count) for count in (1, 2, 3)]
        assert [beat["seq"] for beat in beats] == [1, 2, 3]
    assert side.requests["leave"], "a clean goodbye"


async def test_an_asynchronous_and_a_synchronous_handler(side: AgentSide, url: str) -> None:
    agent = Agent(side.agent_id, slots=2)
    caller = threading.get_ident()
    threads: list[int] = []

    @agent.task("async")
    async def on_loop(ctx: TaskContext) -> dict[str, Any]:
        threads.append(threading.get_ident())
        await ctx.progress(50, "half", {"at": 1})
        return {"got": ctx.payload, "raw": ctx.raw_payload.decode(), "type": ctx.type, "attempt": ctx.attempt}

    @agent.task("sync")
    def in_thread(ctx: TaskContext) -> list[Any]:
        threads.append(threading.get_ident())
        ctx.progress_nowait(25)
        assert ctx.remaining_ms is not None
        return [ctx.payload, ctx.metadata["a"], ctx.description, 0 < ctx.remaining_ms <= 5_000]

    async with serving(agent, url):
        await side.accepted("async", {"x": "ü"})
        complete = await side.seen("complete")
        assert complete["incarnation"] == agent.incarnation
        assert complete["result"]["got"] == {"x": "ü"}
        progress = await side.seen("progress")
        assert (progress["percent"], progress["message"], progress["data"]) == (50, "half", {"at": 1})
        await side.accepted("sync", 7, metadata={"a": "b"}, description="d", remaining_ms=5_000, run_timeout_ms=9_000)
        assert (await side.seen("complete", 2))["result"] == [7, "b", "d", True]
        assert (await side.seen("progress", 2))["percent"] == 25
    assert threads[0] == caller != threads[1]


async def test_what_a_handler_raises_is_told_without_its_traceback(side: AgentSide, url: str) -> None:
    agent = Agent(side.agent_id)

    @agent.task("bug")
    async def bug(_ctx: TaskContext) -> None:
        raise KeyError("a\x00\ud800b")

    @agent.task("typed")
    def typed(_ctx: TaskContext) -> None:
        raise TaskFailed("later", type="quota", retry_after_ms=9_000)

    @agent.task("unwritable")
    async def unwritable(_ctx: TaskContext) -> object:
        return object()

    @agent.task("exit")
    def leaves(_ctx: TaskContext) -> object:
        raise SystemExit(3)

    @agent.task("long")
    async def long(_ctx: TaskContext) -> object:
        raise ValueError("😀" * 10_000)

    async with serving(agent, url):
        for count, task_type in enumerate(["bug", "typed", "unwritable", "exit", "long"], 1):
            await side.accepted(task_type)
            await side.seen("fail", count)
    errors = [fail["error"] for fail in side.requests["fail"]]
    assert errors[0]["type"] == "KeyError"
    assert "Traceback" not in errors[0]["message"]
    assert errors[1] == {"type": "quota", "message": "later", "retryable": True, "retry_after_ms": 9_000}
    assert (errors[2]["type"], errors[2]["retryable"]) == ("result_refused", False)
    assert "SystemExit" in errors[3]["message"]
    assert len(str(errors[4]).encode()) < 16 * 1024


async def test_a_report_is_repeated_until_it_is_recorded(side: AgentSide, url: str) -> None:
    agent = Agent(side.agent_id)
    agent.task("work")(lambda _: "done")
    answers: Iterator[Answer] = iter(
        [UnavailableError(), {"recorded": False}, UnknownIncarnationError(), {"recorded": True}]
    )
    side.answers["complete"] = lambda _: next(answers)
    async with serving(agent, url):
        which = await side.accepted()
        await side.seen("complete", 4)
        register = await side.seen("register", 2)
        assert register["running"] == [{"task_id": which, "attempt": 1}], "known by then"
        assert {complete["result"] for complete in side.requests["complete"]} == {"done"}
        assert (await side.more("heartbeat"))["running"] == []


@pytest.mark.parametrize("error", [InvalidRequestError("too deep"), PayloadTooLargeError("too large")])
async def test_a_result_that_is_refused_fails_the_task(
    side: AgentSide, url: str, error: InvalidRequestError | PayloadTooLargeError
) -> None:
    agent = Agent(side.agent_id)
    agent.task("work")(lambda _: "done")
    side.answers["complete"] = lambda _: error
    async with serving(agent, url):
        await side.accepted()
        fail = await side.seen("fail")
        assert fail["error"] == {"type": "result_refused", "message": error.message, "retryable": False}


async def test_a_result_that_nats_cannot_carry_fails_the_task(side: AgentSide, url: str) -> None:
    agent = Agent(side.agent_id)
    agent.task("work")(lambda _: "x" * 2_000_000)
    async with serving(agent, url):
        await side.accepted()
        assert (await side.seen("fail"))["error"]["type"] == "result_refused"
    assert not side.requests["complete"]


async def test_the_same_offer_many_times_runs_once(side: AgentSide, url: str) -> None:
    agent = Agent(side.agent_id)
    runs = 0
    go = asyncio.Event()

    @agent.task("work")
    async def work(_ctx: TaskContext) -> None:
        nonlocal runs
        runs += 1
        await go.wait()

    async with serving(agent, url):
        which = await side.accepted()
        for _ in range(3):
            assert await side.offer_again(which) == {"accepted": True}
        _, busy = await side.offer()
        assert busy["reason"] == "busy"
        go.set()
        await side.seen("complete")
        assert await side.offer_again(which) == {"accepted": True}
        await side.more("heartbeat", 2)
    assert runs == 1
    assert len(side.requests["complete"]) == 1


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_cancel_ends_a_handler_and_nothing_more_is_said(side: AgentSide, url: str, kind: str) -> None:
    agent = Agent(side.agent_id)
    began, ended = threading.Event(), threading.Event()

    @agent.task("async")
    async def waits(_ctx: TaskContext) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    @agent.task("sync")
    def spins(ctx: TaskContext) -> None:
        began.set()
        try:
            while True:
                ctx.raise_if_cancelled()
        except TaskCancelled:
            ended.set()
            raise

    async with serving(agent, url):
        which = await side.accepted(kind)
        assert await asyncio.to_thread(began.wait, WITHIN_S)
        assert await side.tell("cancel", task_id=which, attempt=1) == {}
        assert await asyncio.to_thread(ended.wait, WITHIN_S)
        assert (await side.offer_again(which, kind))["reason"] == "cancelled"
        assert (await side.more("heartbeat", 2))["running"] == []
    assert not side.requests["complete"]
    assert not side.requests["fail"]


async def test_a_handler_that_blocks_the_event_loop_does_not_stop_the_heartbeats(side: AgentSide, url: str) -> None:
    """The agent has the loop of another thread; there the handler blocks, until the test has seen enough beats."""
    agent = Agent(side.agent_id)
    enough = threading.Event()
    began = threading.Event()

    @agent.task("work")
    async def work(_ctx: TaskContext) -> str:
        began.set()
        assert enough.wait(WITHIN_S)
        return "late"

    async def main() -> None:
        await agent.run(url)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        await side.seen("register")
        which = await side.accepted()
        assert await asyncio.to_thread(began.wait, WITHIN_S)
        for _ in range(10):
            assert (await side.more("heartbeat"))["running"] == [{"task_id": which, "attempt": 1}]
        assert len(side.requests["register"]) == 1, "the lease was never lost"
        assert await side.tell("drain") == {}
        enough.set()
        assert (await side.seen("complete"))["result"] == "late"
        assert await side.tell("shutdown", grace_ms=5_000) == {}
        await side.seen("leave")
    finally:
        enough.set()
        agent.request_stop()
        await asyncio.to_thread(thread.join, WITHIN_S)
    assert not thread.is_alive()


async def test_work_goes_on_while_nats_restarts_and_its_result_arrives(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path, token=None) as server, AgentSide(server.url, "rider") as side:
        agent = Agent("rider", slots=2)
        go = asyncio.Event()

        @agent.task("work")
        async def work(ctx: TaskContext) -> object:
            await go.wait()
            return ctx.payload

        async with serving(agent, server.url):
            which = await side.accepted("work", 1)
            await server.stop()
            go.set()
            await server.start()
            assert (await side.seen("complete"))["result"] == 1
            assert (await side.more("heartbeat"))["running"] == []
            assert len(side.requests["complete"]) == 1, which
            await side.accepted("work", 2)
            assert (await side.seen("complete", 2))["result"] == 2


async def test_without_an_orchestrator_it_holds_the_result_and_registers_again(side: AgentSide, url: str) -> None:
    agent = Agent(side.agent_id, slots=2)
    go = asyncio.Event()

    @agent.task("work")
    async def work(_ctx: TaskContext) -> int:
        await go.wait()
        return 1

    async with serving(agent, url):
        which = await side.accepted()
        side.answers["heartbeat"] = lambda _: None
        side.answers["register"] = lambda _: UnavailableError()
        await side.seen("register", 2)
        go.set()
        assert (await side.offer())[1]["reason"] == "lease_lost"
        await side.more("register")
        assert not side.requests["complete"], "held"
        side.answers["heartbeat"] = lambda _: side.pulse()
        side.answers["register"] = lambda _: side.welcome()
        assert (await side.seen("complete"))["result"] == 1
        assert side.requests["register"][-1]["running"] == [{"task_id": which, "attempt": 1}]


async def test_a_newer_process_with_the_same_id_ends_this_one(side: AgentSide, url: str) -> None:
    agent = Agent(side.agent_id)
    cancelled = asyncio.Event()

    @agent.task("work")
    async def work(_ctx: TaskContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving(agent, url) as waiting:
        await side.accepted()
        side.answers["heartbeat"] = lambda _: IncarnationReplacedError()
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(IncarnationReplacedError):
                await waiting
            await cancelled.wait()
    assert not side.requests["leave"]


async def test_a_registration_refused_for_good_is_raised(side: AgentSide, url: str) -> None:
    agent = Agent(side.agent_id)
    agent.task("work")(lambda _: None)
    side.answers["register"] = lambda _: InvalidRequestError("labels.zone: no")
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(InvalidRequestError, match=r"labels\.zone"):
            await agent.run(url)


async def test_start_and_stop_may_be_called_twice(side: AgentSide, url: str) -> None:
    agent = Agent(side.agent_id)
    await agent.stop()
    agent.task("work")(lambda _: None)
    await agent.start(url)
    await agent.start(url)
    await agent.stop()
    await agent.stop()
    await agent.wait()
    assert len(side.requests["register"]) == 1


async def test_stop_does_not_need_a_server(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path, token=None) as server:
        gone = server.url
    agent = Agent("nobody-there")
    agent.task("work")(lambda _: None)
    starting = asyncio.create_task(agent.start(gone))
    await asyncio.sleep(0)
    await agent.stop()
    await starting


async def test_a_cancelled_run_cancels_its_handlers_and_leaves(side: AgentSide, url: str) -> None:
    agent = Agent(side.agent_id)
    cancelled = asyncio.Event()

    @agent.task("work")
    async def work(_ctx: TaskContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    running = asyncio.create_task(agent.run(url))
    await side.accepted()
    running.cancel()
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(asyncio.CancelledError):
            await running
    assert cancelled.is_set()
    assert side.requests["leave"]


@pytest.mark.parametrize("data", [b"\xff", b"{}", b"[" * 100_000, b'{"epoch": "1", "task_id": "x"}'])
async def test_what_is_not_understood_is_declined_and_harms_nothing(side: AgentSide, url: str, data: bytes) -> None:
    agent = Agent(side.agent_id)
    agent.task("work")(lambda _: "fine")
    async with serving(agent, url):
        to = f"callboard.v1.default.to.{side.agent_id}"
        answer = await side.bus.request(f"{to}.assign", data, timeout_s=WITHIN_S)
        assert b"invalid_request" in answer.data
        for verb in ("cancel", "drain", "shutdown", "verb-of-tomorrow", "assign"):
            side.bus.send(f"{to}.{verb}", data)
            side.bus.send(f"{to}.{verb}", data, reply="_INBOX.nowhere" if verb != "assign" else "")
        await side.accepted()
        assert (await side.seen("complete"))["result"] == "fine"


def test_an_agent_without_handlers_does_not_start() -> None:
    with pytest.raises(ConfigurationError, match="no handler"):
        asyncio.run(Agent("idle").run("nats://127.0.0.1:4222"))
