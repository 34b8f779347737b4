"""A chat endpoint as an agent, against a server that speaks that API on loopback."""

from __future__ import annotations

import asyncio
import itertools
import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.agent_side import WITHIN_S, AgentSide
from tests.support.chat_server import MODEL, USAGE, ChatServer, broken, delta, event, said, streamed, whole

from callboard.agents import TaskFailed
from callboard.agents.llm import Chat, LlmAgent
from callboard.agents.testing import HandlerRun, run_handler
from callboard.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.bus.embedded import EmbeddedNats
    from callboard.schemas.tasks import TaskError

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789"


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy this machine has, loopback is not behind it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    async with ChatServer() as server:
        yield server


async def ask(  # what a test asks, and of whom
    server: ChatServer,
    payload: object = "hello there",
    *,
    stream: bool = True,
    timeout_s: float | None = None,
    idle_timeout_s: float = WITHIN_S,
) -> HandlerRun:
    chat = Chat(
        server.base_url, "asked", api_key=KEY, stream=stream, timeout_s=timeout_s, idle_timeout_s=idle_timeout_s
    )
    try:
        return await run_handler(chat, payload)
    finally:
        await chat.close()


async def failure(server: ChatServer, **options: float) -> TaskError:
    with pytest.raises(TaskFailed) as failed:
        await ask(server, **options)  # type: ignore[arg-type]  # each is a time
    return failed.value.error


async def test_a_prompt_is_asked_and_answered(server: ChatServer) -> None:
    run = await ask(server)
    assert run.result == {"text": "hello there", "model": MODEL, "finish_reason": "stop", "usage": USAGE}
    [request] = server.requests
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "messages": [{"role": "user", "content": "hello there"}],
        "model": "asked",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_messages_and_options_are_passed_on(server: ChatServer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "ü"}]
    assert (await ask(server, {"messages": messages, "temperature": 0}, stream=False)).result["text"] == "ü"
    assert server.requests[0].body == {"messages": messages, "temperature": 0, "model": "asked", "stream": False}


async def test_an_answer_in_one_is_read_as_well(server: ChatServer) -> None:
    server.on(whole({"model": MODEL, "choices": [{"message": {"content": "hi"}, "finish_reason": "length"}]}))
    result = {"text": "hi", "model": MODEL, "finish_reason": "length", "usage": None}
    run = await ask(server, stream=False)
    assert (run.result, run.progress) == (result, ())


async def test_what_comes_is_progress_until_it_is_whole_wherever_it_is_cut(server: ChatServer) -> None:
    answer = said("grü", "ße 🙂", " 日本")
    server.on(streamed(*(bytes([byte]) for byte in answer)))
    run = await ask(server)
    assert run.result["text"] == "grüße 🙂 日本"
    assert [progress.message for progress in run.progress] == ["grü", "grüße 🙂", "grüße 🙂 日本"]


async def test_an_answer_ends_with_done_though_the_connection_stays(server: ChatServer) -> None:
    server.on(server.hanging(said("all")))
    assert (await ask(server)).result["text"] == "all"


async def test_an_answer_without_done_ends_with_its_reason(server: ChatServer) -> None:
    server.on(streamed(event(delta("stop", content="all"))))
    assert (await ask(server)).result["text"] == "all"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry_after": "3"}, 3_000),
        ({"retry_after": "Fri, 02 Jan 2026 03:04:15 GMT", "date": "Fri, 02 Jan 2026 03:04:05 GMT"}, 10_000),
    ],
)
async def test_too_many_requests_are_told_when_to_come_again(
    server: ChatServer, headers: dict[str, str], expected: int | None
) -> None:
    server.on(whole({"error": {"message": "slow down"}}, "429 Too Many Requests", **headers))
    error = await failure(server)
    assert (error.type, error.retryable, error.retry_after_ms) == ("http_429", True, expected)
    assert error.message == "HTTP 429 Too Many Requests: slow down"


@pytest.mark.parametrize(
    ("status", "body", "retryable", "words"),
    [
        ("500 Internal Server Error", {"error": {"message": "oops"}}, True, "HTTP 500 Internal Server Error: oops"),
        ("503 Service Unavailable", b"<html>", True, "HTTP 503 Service Unavailable: <html>"),
        ("401 Unauthorized", {"error": {"message": f"bad key {KEY}"}}, True, "HTTP 401 Unauthorized: bad key [key]"),
        ("400 Bad Request", {"error": "no"}, False, "HTTP 400 Bad Request: no"),
        ("404 Not Found", {"detail": "none"}, False, 'HTTP 404 Not Found: {"detail":"none"}'),
        ("422 Unprocessable", b"", False, "HTTP 422 Unprocessable"),
        ("302 Found", b"", False, "HTTP 302 Found"),
        ("400 Bad Request", b"[" * 100_000, False, "HTTP 400 Bad Request: [[["),
    ],
)
async def test_a_refusal_says_why_and_whether_to_try_again(
    server: ChatServer, status: str, body: object, retryable: bool, words: str
) -> None:
    server.on(whole(body, status, retry_after="1", location="http://127.0.0.1:1/"))
    error = await failure(server)
    assert (error.type, error.retryable) == (f"http_{status[:3]}", retryable)
    assert error.retry_after_ms == (1_000 if retryable else None)
    assert error.message.startswith(words)
    assert len(server.requests) == 1


async def test_an_error_in_the_midst_of_an_answer_fails_the_attempt(server: ChatServer) -> None:
    server.on(streamed(event(delta(content="a")), event({"error": {"message": f"overloaded {KEY}", "code": 503}})))
    error = await failure(server)
    assert (error.type, error.retryable) == ("server_error", True)
    assert error.message == "the server broke off: overloaded [key]"


async def test_an_answer_that_just_stops_is_none(server: ChatServer) -> None:
    server.on(broken(event(delta(content="a"))))
    assert (await failure(server)).type == "unreachable"
    server.on(streamed(event(delta(content="a"))))
    error = await failure(server)
    assert (error.type, error.retryable) == ("incomplete", True)


async def test_an_answer_of_something_else_is_none(server: ChatServer) -> None:
    server.on(whole(b"<html>"))
    assert (await failure(server)).type == "invalid_answer"
    server.on(streamed(b"x" * 600_000, b"x" * 600_000))
    assert (await failure(server)).type == "invalid_answer"


@pytest.mark.parametrize("begins", [False, True])
async def test_a_server_that_hangs_is_left(server: ChatServer, begins: bool) -> None:
    server.on(server.hanging(begins=begins))
    error = await failure(server, idle_timeout_s=0.2)
    assert (error.type, error.retryable) == ("timeout", True)
    assert error.message == f"{server.origin} said nothing for 0.2 s"
    async with asyncio.timeout(WITHIN_S):
        await server.hung_up.wait()


async def test_a_server_that_never_ends_a_line_is_left(server: ChatServer) -> None:
    server.on(server.dripping(itertools.repeat(b"x")))
    error = await failure(server, idle_timeout_s=0.2, timeout_s=WITHIN_S)
    assert (error.type, error.message) == ("timeout", f"{server.origin} said nothing for 0.2 s")
    async with asyncio.timeout(WITHIN_S):
        await server.hung_up.wait()


async def test_a_server_that_asks_for_patience_has_it(server: ChatServer) -> None:
    server.on(server.dripping([*[b": keep-alive\n"] * 40, said("all")]))
    assert (await ask(server, idle_timeout_s=0.4)).result["text"] == "all"


async def test_an_answer_has_its_time(server: ChatServer) -> None:
    server.on(server.hanging(event(delta(content="a"))))
    assert (await failure(server, timeout_s=0.2)).message == "the answer took longer than 0.2 s"
    async with asyncio.timeout(WITHIN_S):
        await server.hung_up.wait()


async def test_a_server_that_is_not_there_may_be_there_later() -> None:
    chat = Chat("http://127.0.0.1:1/v1", "m")
    with pytest.raises(TaskFailed, match=r"no answer from http://127\.0\.0\.1:1: ") as failed:
        await run_handler(chat, "x")
    await chat.close()
    assert (failed.value.error.type, failed.value.error.retryable) == ("unreachable", True)


async def test_the_key_is_in_no_log(
    server: ChatServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    await ask(server)
    assert any("chat/completions" in record.getMessage() for record in caplog.records), (
        "it logs nothing: look elsewhere"
    )
    assert KEY not in caplog.text
    assert KEY not in "".join(capfd.readouterr())


async def test_without_a_key_none_is_sent_and_the_query_of_the_address_stays(server: ChatServer) -> None:
    chat = Chat(f"{server.base_url}/?api-version=1", "m")
    await run_handler(chat, "x")
    await chat.close()
    assert server.requests[0].line == "POST /v1/chat/completions?api-version=1 HTTP/1.1"
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("base_url", "key", "words"),
    [
        ("127.0.0.1:80/v1", None, "write https://host/v1"),
        ("ftp://host/v1", None, "write https://host/v1"),
        ("http:///v1", None, "write https://host/v1"),
        ("http://host:x/", None, "not an address of a server"),
        ("http://user:secret@host/v1", None, "must not hold a key"),
        ("http://host/v1", "secret\nkey", "the key holds"),
        ("http://host/v1", "secret kéy", "the key holds"),
    ],
)
async def test_what_cannot_be_used_is_refused_without_telling_secrets(
    base_url: str, key: str | None, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        Chat(base_url, "m", api_key=key)
    assert "secret" not in str(refused.value)


async def test_a_cancel_closes_the_connection(server: ChatServer, nats_server: EmbeddedNats) -> None:
    server.on(server.hanging(event(delta(content="begun"))))
    async with AgentSide(nats_server.url, "llm-cancel") as side:
        agent = LlmAgent(server.base_url, "m", side.agent_id)
        await agent.agent.start(nats_server.url)
        try:
            which = await side.accepted("ask", "something long")
            assert (await side.seen("progress"))["message"] == "begun"
            assert await side.tell("cancel", task_id=which, attempt=1) == {}
            async with asyncio.timeout(WITHIN_S):
                await server.hung_up.wait()
            assert (await side.more("heartbeat"))["running"] == []
        finally:
            await agent.agent.stop()
        assert not side.requests["fail"]


async def test_the_orchestrator_is_told_all_of_it(server: ChatServer, nats_server: EmbeddedNats) -> None:
    server.on(whole({}, "429 Too Many Requests", retry_after="2"), streamed(said("hi")))
    async with AgentSide(nats_server.url, "llm-told") as side:
        agent = LlmAgent(server.base_url, "m", side.agent_id)
        await agent.agent.start(nats_server.url)
        try:
            await side.accepted("ask", "hi")
            error = (await side.seen("fail"))["error"]
            assert (error["type"], error["retryable"], error["retry_after_ms"]) == ("http_429", True, 2_000)
            await side.accepted("ask", "hi")
            assert (await side.seen("complete"))["result"]["text"] == "hi"
        finally:
            await agent.agent.stop()


@pytest.mark.parametrize(
    ("arguments", "missing", "words"),
    [
        (["--key-env", "NO_SUCH_KEY"], "", "--key-env 'NO_SUCH_KEY': there is no such variable"),
        (["--base-url", "localhost"], "", "write https://host/v1"),
        ([], "httpx2", "pip install 'callboard[llm]'"),
    ],
)
async def test_what_is_wrong_is_one_line_at_the_start(arguments: list[str], missing: str, words: str) -> None:
    script = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[1].split()))\n"  # None there makes an import fail
        "from callboard.cli.main import run; sys.exit(run(sys.argv[2:]))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, missing, "agent", "llm", "--model", "m", *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        _, complaint = await process.communicate()
    assert process.returncode == 2
    assert complaint.decode().startswith("callboard: ")
    assert complaint.count(b"\n") == 1
    assert words in complaint.decode()


def test_the_sdk_needs_no_client_of_http() -> None:
    script = "import sys; sys.modules['httpx2'] = None; import callboard.agents, callboard.cli.main"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
