"""Serving and asking over a real nats-server: the reply guard, errors both ways, and what must not leak."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.support.wire import publish, send_raw

from callboard.bus.ask import ask
from callboard.bus.connection import Bus, BusMessage, BusOptions, NoRespondersError
from callboard.bus.replies import DropReason
from callboard.bus.serve import Endpoint, Request, Server, answering
from callboard.schemas.agents import AgentVerb, GetAgent
from callboard.schemas.base import Nothing
from callboard.schemas.errors import (
    ERRORS,
    ErrorAnswer,
    InternalError,
    InvalidRequestError,
    OrchestratorError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    ResourceLimitError,
    StaleAttemptError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from callboard.bus.embedded import EmbeddedNats

pytestmark = pytest.mark.anyio

ROOT = "serve.v1.p"
ECHO = f"{ROOT}.echo"


@pytest.fixture
async def buses(nats_server: EmbeddedNats) -> AsyncIterator[tuple[Bus, Bus]]:
    """The serving one and the asking one."""
    options = BusOptions(servers=(nats_server.url,))
    async with await Bus.connect(options) as serving, await Bus.connect(options) as asking:
        yield serving, asking


@asynccontextmanager
async def served(
    bus: Bus,
    handle: Callable[[Any, Request], None] = lambda message, request: request.answer(message),
    subject: str = ECHO,
    request: type = GetAgent,
    *,
    expects_reply: bool = True,
) -> AsyncIterator[Server]:
    endpoint: Endpoint[Any] = Endpoint(
        name="echo", subject=subject, request=request, handle=handle, description="echo", expects_reply=expects_reply
    )
    server = Server(bus, [endpoint], own_root=ROOT)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_a_typed_question_gets_a_typed_answer(buses: tuple[Bus, Bus]) -> None:
    serving, asking = buses
    async with served(serving) as server:
        await server.start()
        assert await ask(asking, ECHO, GetAgent(agent_id="a"), GetAgent) == GetAgent(agent_id="a")
        stats = server.stats["echo"]
        assert (stats.num_requests, stats.num_errors, stats.last_error) == (1, 0, "")
        assert stats.processing_time_ns > 0
    await server.stop()
    await serving.flush()
    with pytest.raises(NoRespondersError):
        await ask(asking, ECHO, GetAgent(agent_id="a"), GetAgent)


async def test_an_empty_body_is_an_empty_object(buses: tuple[Bus, Bus]) -> None:
    serving, asking = buses
    async with served(serving, request=Nothing):
        assert (await asking.request(ECHO, b"", timeout_s=5)).data == b"{}"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"{", ""),
        (b"\xff", ""),
        (b"[]", ""),
        (b'{"agent_id": 1}', "agent_id"),
        (b'{"agent_id": "a b"}', "agent_id"),
        (b"{}", "agent_id"),
        (b"[" * 100_000, ""),
    ],
)
async def test_what_does_not_decode_is_an_invalid_request(buses: tuple[Bus, Bus], body: bytes, path: str) -> None:
    serving, asking = buses
    async with served(serving):
        answer = await asking.request(ECHO, body, timeout_s=5)
    assert answer.headers is not None
    assert answer.headers["Nats-Service-Error-Code"] == "400"
    error = msgspec.json.decode(answer.data, type=ErrorAnswer).error
    assert (error.code, error.details["path"]) == ("invalid_request", path)


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("later", [False, True])
async def test_every_error_arrives_as_itself(
    buses: tuple[Bus, Bus], kind: type[OrchestratorError], later: bool
) -> None:
    serving, asking = buses
    error = kind("what happened\r\nInjected: 1 ‰ ünïcode", retry_after_ms=7, path="x", n=1)

    def at_once(_message: GetAgent, _request: Request) -> None:
        raise error

    async def afterwards(_message: GetAgent, _request: Request) -> None:
        raise error

    async with asyncio.TaskGroup() as tasks:
        handle = answering(afterwards, tasks.create_task) if later else at_once
        async with served(serving, handle) as server:
            with pytest.raises(kind) as raised:
                await ask(asking, ECHO, GetAgent(agent_id="a"), GetAgent)
            raw = await asking.request(ECHO, b'{"agent_id":"a"}', timeout_s=5)
    assert type(raised.value) is kind
    assert raised.value.body() == error.body()
    assert raw.headers == {
        "Nats-Service-Error": "what happened Injected: 1 ? ?n?code",
        "Nats-Service-Error-Code": str(kind.number),
    }
    stats = server.stats["echo"]
    assert (stats.num_requests, stats.num_errors) == (2, 2)
    assert stats.last_error.startswith(f"{kind.number}:what happened")


@pytest.mark.parametrize("later", [False, True])
async def test_a_bug_leaks_nothing_but_its_id(buses: tuple[Bus, Bus], later: bool) -> None:
    serving, asking = buses

    def at_once(_message: GetAgent, _request: Request) -> None:
        raise ValueError("password=hunter2")

    async def afterwards(message: GetAgent, request: Request) -> None:
        at_once(message, request)

    with capture_logs() as logged:
        async with (
            asyncio.TaskGroup() as tasks,
            served(serving, answering(afterwards, tasks.create_task) if later else at_once),
        ):
            raw = await asking.request(ECHO, b'{"agent_id":"a"}', timeout_s=5)
    assert b"hunter2" not in raw.data
    assert b"ValueError" not in raw.data
    assert "hunter2" not in str(raw.headers)
    error = msgspec.json.decode(raw.data, type=ErrorAnswer).error
    assert error.code == "internal"
    [failure] = [entry for entry in logged if entry["event"] == "handler failed"]
    assert failure["incident"] == error.details["id"]
    assert "hunter2" in str(failure["exc_info"])


async def test_a_cancelled_handler_says_that_the_outcome_is_unknown(buses: tuple[Bus, Bus]) -> None:
    serving, asking = buses
    started: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()

    async def for_ever(_message: GetAgent, _request: Request) -> None:
        await asyncio.Event().wait()

    def spawn(run: Coroutine[Any, Any, None]) -> None:
        started.put_nowait(asyncio.create_task(run))

    async with served(serving, answering(for_ever, spawn)):
        asked = asyncio.create_task(ask(asking, ECHO, GetAgent(agent_id="a"), GetAgent))
        async with asyncio.timeout(5):
            task = await started.get()
            await asyncio.wait([task], timeout=0)
            task.cancel()
            with pytest.raises(OutcomeUnknownError, match="stopping"):
                await asked


async def test_a_second_answer_is_not_sent(buses: tuple[Bus, Bus]) -> None:
    serving, asking = buses
    got: list[BusMessage] = []

    def twice(_message: GetAgent, request: Request) -> None:
        request.answer({"n": 1})
        request.answer({"n": 2})
        request.refuse(StaleAttemptError())

    inbox = asking.new_inbox()
    await asking.subscribe(inbox, got.append)
    await asking.flush()
    async with served(serving, twice):
        await asking.publish(ECHO, b'{"agent_id":"a"}', reply=inbox)
        await asking.flush()
        await serving.flush()
        await asking.flush()
    assert [message.data for message in got] == [b'{"n":1}']


async def test_an_answer_that_does_not_fit_is_payload_too_large(buses: tuple[Bus, Bus]) -> None:
    serving, asking = buses
    async with served(serving, lambda _, request: request.answer("x" * serving.max_payload)):
        with pytest.raises(PayloadTooLargeError):
            await ask(asking, ECHO, GetAgent(agent_id="a"), GetAgent)


async def test_an_answer_that_does_not_encode_is_an_internal_error(buses: tuple[Bus, Bus]) -> None:
    serving, asking = buses
    async with served(serving, lambda _, request: request.answer(object())):
        with pytest.raises(InternalError, match=r"internal error [0-9a-f]{16}"):
            await ask(asking, ECHO, GetAgent(agent_id="a"), GetAgent)


@pytest.mark.parametrize(
    "reply",
    [
        b"serve.v1.p.agent.other.complete",
        b"serve.v1.p",
        b"other.subject",
        b"_INBOX",
        b"_INBOX.",
        b"_INBOX.*",
        b"_INBOX.a.>",
        b"_INBOX.a*",
        b"_INBOX..a",
        b"_INBOX.a\x0bb",
        b"_INBOX." + b"a" * 1500,
        b"_INBOXES.a",
        b"$SRV.PING",
        b"$JS.API.STREAM.DELETE.x",
        b"$SYS.REQ.SERVER.PING",
        b"",
    ],
)
async def test_a_reply_that_could_hurt_is_dropped(
    buses: tuple[Bus, Bus], nats_server: EmbeddedNats, reply: bytes
) -> None:
    serving, asking = buses
    handled: list[GetAgent] = []
    dropped: list[DropReason] = []
    endpoint = Endpoint(
        name="echo", subject=ECHO, request=GetAgent, handle=lambda message, _: handled.append(message), description=""
    )
    server = Server(serving, [endpoint], own_root=ROOT, on_drop=dropped.append)
    await server.start()
    try:
        await send_raw(nats_server.url, publish(ECHO.encode(), b'{"agent_id":"a"}', reply=reply))
        await serving.flush()
        reason = DropReason.BAD_REPLY if reply else DropReason.NO_REPLY
        assert dropped == [reason]
        assert server.guard.dropped == {reason: 1}
        assert handled == []
        # The same request with a good reply subject is handled: the reply alone was the reason.
        await asking.publish(ECHO, b'{"agent_id":"a"}', reply=asking.new_inbox())
        await asking.flush()
        await serving.flush()
        assert len(handled) == 1
    finally:
        await server.stop()


async def test_own_subjects_are_refused_whatever_the_prefixes(buses: tuple[Bus, Bus]) -> None:
    serving, asking = buses
    endpoint = Endpoint(
        name="echo",
        subject=ECHO,
        request=Nothing,
        handle=lambda message, request: request.answer(message),
        description="",
    )
    server = Server(serving, [endpoint], own_root=ROOT, reply_prefixes=("",))
    await server.start()
    await asking.publish(ECHO, b"", reply=f"{ROOT}.agent.a.complete")
    await asking.publish(ECHO, b"", reply="$JS.API.INFO")
    await asking.flush()
    await serving.flush()
    assert server.guard.dropped == {DropReason.BAD_REPLY: 2}
    await server.stop()


async def test_the_agent_is_the_token_of_the_subject(buses: tuple[Bus, Bus], nats_server: EmbeddedNats) -> None:
    serving, asking = buses
    seen: list[str | None] = []

    def handle(message: AgentVerb, request: Request) -> None:
        seen.append(request.agent_id)
        request.answer(message)

    async with served(serving, handle, f"{ROOT}.agent.*.leave", AgentVerb):
        await ask(asking, f"{ROOT}.agent.a-1.leave", AgentVerb(agent_id="another"), AgentVerb)
        for agent_id in ("ä", "a" * 65, "a$"):
            with pytest.raises(InvalidRequestError) as refused:
                await ask(asking, f"{ROOT}.agent.{agent_id}.leave", AgentVerb(agent_id="b"), AgentVerb)
            assert refused.value.details == {"path": "agent_id"}
        await send_raw(nats_server.url, publish(b"serve.v1.p.agent.a\x0b.leave", b"{}", reply=b"_INBOX.x"))
        await serving.flush()
    assert seen == ["a-1"]


async def test_what_expects_no_reply_is_handled_and_never_answered(buses: tuple[Bus, Bus]) -> None:
    serving, asking = buses
    got: list[BusMessage] = []
    handled: list[GetAgent] = []

    def handle(message: GetAgent, request: Request) -> None:
        handled.append(message)
        request.answer(message)

    inbox = asking.new_inbox()
    await asking.subscribe(inbox, got.append)
    async with served(serving, handle, expects_reply=False) as server:
        await asking.publish(ECHO, b'{"agent_id":"a"}')
        await asking.publish(ECHO, b'{"agent_id":"b"}', reply=inbox)
        await asking.publish(ECHO, b"nonsense")
        await asking.flush()
        await serving.flush()
        await asking.flush()
    assert [message.agent_id for message in handled] == ["a", "b"]
    assert got == []
    assert server.guard.dropped == {}
    assert server.stats["echo"].num_errors == 1


async def test_errors_of_strangers_are_errors(buses: tuple[Bus, Bus]) -> None:
    serving, asking = buses
    replies: dict[str, tuple[bytes, dict[str, str]]] = {
        "text": (b"", {"Nats-Service-Error": "no such thing", "Nats-Service-Error-Code": "404"}),
        "code": (b"{}", {"Nats-Service-Error-Code": "500"}),
        "future": (
            b'{"error":{"code":"quota","message":"too much","retryable":true,"new":1}}',
            {"Nats-Service-Error": "too much"},
        ),
    }

    def reply(message: BusMessage) -> None:
        data, headers = replies[message.subject.rpartition(".")[2]]
        serving.send(message.reply, data, headers=headers)

    await serving.subscribe("stranger.*", reply)
    await serving.flush()
    for name, expected in {"text": "404 no such thing", "code": "500", "future": "too much"}.items():
        with pytest.raises(InternalError, match=expected):
            await ask(asking, f"stranger.{name}", Nothing(), Nothing)


async def test_an_answer_of_another_kind_is_not_taken_for_ours(buses: tuple[Bus, Bus]) -> None:
    serving, asking = buses
    async with served(serving, lambda _, request: request.answer({"agent_id": 1})):
        with pytest.raises(InternalError, match="not understood: agent_id"):
            await ask(asking, ECHO, GetAgent(agent_id="a"), GetAgent)


async def test_retry_after_survives_the_wire(buses: tuple[Bus, Bus]) -> None:
    serving, asking = buses

    def handle(_message: GetAgent, request: Request) -> None:
        request.refuse(ResourceLimitError(retry_after_ms=250))

    async with served(serving, handle):
        with pytest.raises(ResourceLimitError) as refused:
            await ask(asking, ECHO, GetAgent(agent_id="a"), GetAgent)
    assert refused.value.retry_after_ms == 250
    assert refused.value.retryable
