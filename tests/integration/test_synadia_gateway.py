"""A pool as an agent of the Synadia Agent Protocol: over real servers, with a hand-written caller."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.memory_pool import memory_pool

from callboard.agents import Agent, TaskContext, TaskFailed
from callboard.agents.synadia.gateway import Gateway
from callboard.bus.client import Client
from callboard.bus.connection import Bus, BusMessage, BusOptions, BusSubscription
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.vocabulary import TaskPriority, TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

WITHIN_S = 20.0
PROMPT = "agents.prompt.callboard.tests.default"


@pytest.fixture(scope="module")
async def url(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:  # noqa: ARG001 - orders the loop
    async with memory_pool(tmp_path_factory.mktemp("nats")) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    async with Client.connect(url) as client:
        yield client


@pytest.fixture
async def bus(url: str) -> AsyncIterator[Bus]:
    async with await Bus.connect(BusOptions(servers=(url,))) as bus:
        yield bus


@asynccontextmanager
async def gateway(url: str, **options: Any) -> AsyncIterator[Gateway]:  # noqa: ANN401 - any option
    gate = Gateway(**{"owner": "tests", "interval_s": 0.2, "sign_of_life_s": 0.2, **options})
    await gate.start(url)
    try:
        yield gate
    finally:
        await gate.stop()


@asynccontextmanager
async def working(url: str, handler: Any) -> AsyncIterator[Agent]:  # noqa: ANN401 - any handler
    agent = Agent(slots=4, capabilities=["work"])
    agent.task("prompt")(handler)
    await agent.start(url)
    try:
        yield agent
    finally:
        await agent.stop()


async def echo(ctx: TaskContext) -> str:
    return f"echo: {ctx.payload['prompt']}"


class Call:
    """A caller's prompt, and what comes back."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inbox = bus.new_inbox()
        self._messages: asyncio.Queue[BusMessage] = asyncio.Queue()
        self.all: list[BusMessage] = []
        self.subscription: BusSubscription

    @classmethod
    async def of(cls, bus: Bus, data: bytes, headers: dict[str, str] | None = None, subject: str = PROMPT) -> Call:
        call = cls(bus)
        call.subscription = await bus.subscribe(call._inbox, call._messages.put_nowait)
        bus.send(subject, data, reply=call._inbox, headers=headers)
        return call

    async def message(self) -> BusMessage:
        async with asyncio.timeout(WITHIN_S):
            message = await self._messages.get()
        self.all.append(message)
        return message

    async def chunk(self, kind: str) -> Any:  # noqa: ANN401 - any data
        """The data of the next chunk of this type."""
        while True:
            message = await self.message()
            assert message.data, "it ended"
            assert message.headers is None, message.headers
            chunk = json.loads(message.data)
            if chunk["type"] == kind:
                return chunk["data"]

    async def end(self) -> list[BusMessage]:
        """All messages, up to the terminator."""
        while True:
            message = await self.message()
            if not message.data and message.headers is None:
                return self.all

    async def text(self) -> str:
        chunks = [json.loads(message.data) for message in (await self.end())[:-1]]
        pieces = [chunk["data"] for chunk in chunks if chunk["type"] == "response"]
        return "".join(piece if isinstance(piece, str) else piece["text"] for piece in pieces)

    async def error(self) -> tuple[int, str, dict[str, Any]]:
        *_, error, last = await self.end()
        assert last.data == b""
        assert error.headers is not None
        return (
            int(error.headers["Nats-Service-Error-Code"]),
            error.headers["Nats-Service-Error"],
            json.loads(error.data),
        )


async def test_it_is_found_as_any_agent(url: str, bus: Bus) -> None:
    beats: asyncio.Queue[BusMessage] = asyncio.Queue()
    await bus.subscribe("agents.hb.*.*.*", beats.put_nowait)
    async with gateway(url) as gate:
        info = json.loads((await bus.request("$SRV.INFO.agents", b"", timeout_s=WITHIN_S)).data)
        assert (info["name"], info["type"]) == ("agents", "io.nats.micro.v1.info_response")
        assert info["metadata"].items() >= {"agent": "callboard", "owner": "tests", "protocol_version": "0.3"}.items()
        prompt, status = info["endpoints"]
        assert (prompt["name"], prompt["subject"], prompt["queue_group"]) == ("prompt", gate.subject, "agents")
        assert prompt["metadata"] == {"max_payload": "262144B", "attachments_ok": "true"}
        for subject in ("$SRV.PING.agents", f"$SRV.INFO.agents.{info['id']}", "$SRV.STATS.agents"):
            assert json.loads((await bus.request(subject, b"", timeout_s=WITHIN_S)).data)["id"] == info["id"]
        told = json.loads((await bus.request(status["subject"], b"", timeout_s=WITHIN_S)).data)
        async with asyncio.timeout(WITHIN_S):
            message = await beats.get()
        beat = json.loads(message.data)
        assert message.subject == "agents.hb.callboard.tests.default"
        assert beat.keys() == told.keys() == {"agent", "owner", "session", "instance_id", "ts", "interval_s"}
        assert beat["instance_id"] == info["id"]


@pytest.mark.parametrize("data", [b"hello", b'{"prompt": "hello"}'])
async def test_a_prompt_is_acknowledged_followed_and_answered(url: str, bus: Bus, client: Client, data: bytes) -> None:
    heard = asyncio.Event()

    async def slow(ctx: TaskContext) -> str:
        await ctx.progress(50, "half")
        await heard.wait()
        return await echo(ctx)

    options: Any = {"priority": TaskPriority.HIGH, "capabilities": ["work"]}
    async with gateway(url, options=options), working(url, slow):
        call = await Call.of(bus, data)
        states: list[str] = []
        while states.count("ack") < 2 or "running 50% half" not in states:
            states.append(await call.chunk("status"))
        heard.set()
        messages = await call.end()
        chunks = [json.loads(message.data) for message in messages[:-1]]
        assert chunks[0] == {"type": "status", "data": "ack"}
        assert chunks[-1] == {"type": "response", "data": "echo: hello"}
        [task, *_] = (await client.list(type="prompt")).tasks
        assert (task.priority, task.state) == (TaskPriority.HIGH, TaskState.SUCCEEDED)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the prompt is empty"),
        (b"{}", "an envelope needs a prompt that is not empty"),
        (b"\xff", "the prompt is not UTF-8"),
        (b'{"prompt": "a", "attachments": [{"filename": "a", "content": "!"}]}', "attachment 'a' is not base64"),
        (b"x" * 300_000, "the prompt has 300000 bytes, of at most 262144"),
    ],
)
async def test_what_is_no_prompt_is_refused(url: str, bus: Bus, client: Client, data: bytes, text: str) -> None:
    async with gateway(url):
        known = (await client.status()).tasks.by_state
        code, said, body = await (await Call.of(bus, data)).error()
        assert (code, said, body["message"]) == (400, text, text)
        assert (await client.status()).tasks.by_state == known


async def test_attachments_go_both_ways(url: str, bus: Bus) -> None:
    async def back(ctx: TaskContext) -> dict[str, Any]:
        return {"text": "here", "attachments": [*ctx.payload["attachments"], {"not": "one"}]}

    async with gateway(url), working(url, back):
        file = {"filename": "a.txt", "content": "aGk="}
        call = await Call.of(bus, json.dumps({"prompt": "a", "attachments": [file]}).encode())
        assert await call.chunk("response") == "here"
        assert await call.chunk("response") == {"text": "", "attachments": [file]}


async def test_a_question_is_passed_on_and_its_answer_back(url: str, bus: Bus) -> None:
    async def choose(ctx: TaskContext) -> list[Any]:
        return [await ctx.ask("a or b?", ["a", "b"]), await ctx.ask("why?")]

    async with gateway(url), working(url, choose):
        call = await Call.of(bus, b"choose")
        first = await call.chunk("query")
        assert first["prompt"] == "a or b?\n- a\n- b"
        bus.send(first["reply_subject"], b"  ")  # no answer
        bus.send(first["reply_subject"], b"b")
        second = await call.chunk("query")
        assert (second["prompt"], second["id"] != first["id"]) == ("why?", True)
        bus.send(second["reply_subject"], b'{"prompt": "because", "more": 1}')
        assert json.loads(await call.text()) == ["b", {"prompt": "because", "more": 1}]


async def test_somebody_else_may_answer(url: str, bus: Bus, client: Client) -> None:
    async def choose(ctx: TaskContext) -> str:
        answer: str = await ctx.ask("a or b?")
        return answer

    async with gateway(url), working(url, choose):
        call = await Call.of(bus, b"choose")
        query = await call.chunk("query")
        await client.answer(query["id"].split("/")[0], "by hand")
        bus.send(query["reply_subject"], b"too late")
        assert await call.text() == "by hand"


@pytest.mark.parametrize(
    ("error", "code", "body"),
    [
        (TaskFailed("no", type="hopeless", retryable=False), 500, {"error": "hopeless"}),
        (TaskFailed("later", type="quota", retryable=False, retry_after_ms=2_500), 429, {"retry_after_s": 2.5}),
    ],
)
async def test_a_failure_is_an_error(url: str, bus: Bus, error: TaskFailed, code: int, body: dict[str, Any]) -> None:
    async def fail(_ctx: TaskContext) -> None:
        raise error

    async with gateway(url), working(url, fail):
        number, text, said = await (await Call.of(bus, b"x")).error()
        assert number == code
        assert error.error.message in text
        assert said.items() >= body.items()


async def test_retries_are_the_pools(url: str, bus: Bus) -> None:
    async def flaky(ctx: TaskContext) -> str:
        if ctx.attempt == 1:
            raise TaskFailed("not yet", retry_after_ms=1)
        return "at last"

    async with gateway(url), working(url, flaky):
        assert await (await Call.of(bus, b"x")).text() == "at last"


async def test_what_the_pool_refuses_is_an_error(url: str, bus: Bus) -> None:
    refused: Any = {"on_unsatisfiable": "reject", "capabilities": ["nobody-has-this"]}
    async with gateway(url, options=refused):
        code, _, body = await (await Call.of(bus, b"x")).error()
        assert (code, body["error"]) == (400, "task_delegation_failed")


async def test_a_repeated_prompt_is_one_task(url: str, bus: Bus) -> None:
    runs: list[str] = []

    async def count(ctx: TaskContext) -> int:
        runs.append(ctx.task_id)
        return len(runs)

    async with gateway(url), working(url, count):
        for _ in range(2):
            assert await (await Call.of(bus, b"x", {"Nats-Msg-Id": "same"})).text() == "1"
        assert await (await Call.of(bus, b"x")).text() == "2"


async def test_a_long_result_comes_in_pieces_that_fit(url: str, bus: Bus) -> None:
    text = 'ü\x00"🙂' * 40_000

    async def long(_ctx: TaskContext) -> str:
        return text[:60_000]

    async with gateway(url), working(url, long):
        call = await Call.of(bus, b"x")
        assert await call.text() == text[:60_000]


@pytest.mark.parametrize(("cancels", "state"), [(False, TaskState.SUCCEEDED), (True, TaskState.CANCELLED)])
async def test_the_task_of_a_caller_that_is_gone(
    url: str, bus: Bus, client: Client, cancels: bool, state: TaskState
) -> None:
    go = asyncio.Event()

    async def wait(ctx: TaskContext) -> str:
        await go.wait()
        return await echo(ctx)

    async with gateway(url, cancels=cancels) as gate, working(url, wait):
        call = await Call.of(bus, b"x")
        while not (await call.chunk("status")).startswith("running"):
            continue
        [task, *_] = (await client.list(state=TaskState.RUNNING)).tasks
        await call.subscription.unsubscribe()
        async with asyncio.timeout(WITHIN_S):
            while gate._running:
                await asyncio.wait(set(gate._running))
        go.set()
        assert (await client.wait(task.task_id, timeout_s=WITHIN_S)).state is state


async def test_a_gateway_that_ends_says_so_and_its_tasks_go_on(url: str, bus: Bus, client: Client) -> None:
    go = asyncio.Event()

    async def wait(ctx: TaskContext) -> str:
        await go.wait()
        return await echo(ctx)

    async with working(url, wait):
        async with gateway(url):
            call = await Call.of(bus, b"x")
            while not (await call.chunk("status")).startswith("running"):
                continue
        code, text, body = await call.error()
        assert (code, body["error"]) == (500, "gateway_ends")
        task_id = text.split()[-3]
        go.set()
        assert (await client.wait(task_id, timeout_s=WITHIN_S)).result_value() == "echo: x"


async def test_a_drain_lets_streams_end(url: str, bus: Bus) -> None:
    go = asyncio.Event()

    async def wait(ctx: TaskContext) -> str:
        await go.wait()
        return await echo(ctx)

    async with working(url, wait), gateway(url) as gate:
        call = await Call.of(bus, b"x")
        await call.chunk("status")
        draining = asyncio.create_task(gate.drain())
        await asyncio.sleep(0)
        go.set()
        assert await call.text() == "echo: x"
        await draining
        late = await Call.of(bus, b"late")
        assert (await late.message()).status == 503


async def test_two_gateways_share_the_prompts(url: str, bus: Bus, client: Client) -> None:
    async with gateway(url), gateway(url), working(url, echo):
        known = len((await client.list(limit=500)).tasks)
        calls = [await Call.of(bus, str(number).encode()) for number in range(6)]
        assert [await call.text() for call in calls] == [f"echo: {number}" for number in range(6)]
        assert len((await client.list(limit=500)).tasks) == known + 6, "each of them became one task"


async def test_an_answer_goes_to_an_inbox_only(url: str, bus: Bus) -> None:
    seen: asyncio.Queue[BusMessage] = asyncio.Queue()
    await bus.subscribe("elsewhere", seen.put_nowait)
    async with gateway(url), working(url, echo):
        bus.send(PROMPT, b"x", reply="elsewhere")
        assert await (await Call.of(bus, b"y")).text() == "echo: y"
        assert seen.empty()


@pytest.mark.parametrize("wrong", [{"owner": "a.b"}, {"owner": ""}, {"name": "a b"}, {"task_type": "a b"}])
def test_what_cannot_be_used_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Gateway(**{"owner": "tests", **wrong})
