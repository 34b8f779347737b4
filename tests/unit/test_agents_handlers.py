"""Handlers and their context, without a server."""

from __future__ import annotations

import asyncio
import re
import threading
import uuid
from dataclasses import dataclass

import msgspec
import pytest
import structlog

from callboard.agents import Agent, TaskCancelled, TaskContext, TaskFailed
from callboard.agents.handlers import HandlerHost, Handlers
from callboard.agents.session.effects import StartHandler
from callboard.agents.testing import run_handler
from callboard.schemas.agents import Assign
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.tasks import AttemptRef, Progress
from callboard.schemas.vocabulary import TaskPriority

pytestmark = pytest.mark.anyio


@dataclass
class Point:
    x: float


async def test_a_handler_can_be_run_without_a_server() -> None:
    async def review(ctx: TaskContext) -> dict[str, object]:
        await ctx.progress(50, "half-way", {"at": 1})
        return {"lines": len(ctx.payload["text"].splitlines()), "resumed": ctx.previous_progress is not None}

    run = await run_handler(review, {"text": "a\nb"}, previous_progress=Progress(percent=10))
    assert run.result == {"lines": 2, "resumed": True}
    assert [(progress.percent, progress.message) for progress in run.progress] == [(50, "half-way")]


async def test_a_synchronous_handler_has_a_thread_of_its_own() -> None:
    run = await run_handler(lambda _: threading.current_thread().name)
    assert run.result == "callboard-handler"


async def test_what_a_handler_logs_says_whose_it_is_and_nothing_of_that_stays() -> None:
    async def here(_ctx: TaskContext) -> dict[str, object]:
        return structlog.contextvars.get_contextvars()

    run = await run_handler(here, attempt=3)
    assert run.result == (await run_handler(lambda _: structlog.contextvars.get_contextvars(), attempt=3)).result
    assert set(run.result) == {"task_id", "attempt"}
    assert structlog.contextvars.get_contextvars() == {}


async def test_handlers_of_an_agent_do_not_see_one_anothers_log_context() -> None:
    started: list[str] = []
    both = asyncio.Event()
    seen: dict[str, dict[str, object]] = {}

    async def work(ctx: TaskContext) -> None:
        started.append(ctx.task_id)
        if len(started) == len(offers):
            both.set()
        await both.wait()
        seen[ctx.task_id] = structlog.contextvars.get_contextvars()

    handlers = Handlers()
    handlers.add("work", work)
    ended: asyncio.Queue[object] = asyncio.Queue()
    host = HandlerHost(handlers, "a")
    offers = [
        Assign(
            epoch=1, task_id=str(uuid.uuid4()), attempt=attempt, type="work", priority=TaskPriority.NORMAL, metadata={}
        )
        for attempt in (1, 2)
    ]
    for offer in offers:
        host.start(StartHandler(AttemptRef(task_id=offer.task_id, attempt=offer.attempt), offer), ended.put_nowait)
    async with asyncio.timeout(5):
        for _ in offers:
            await ended.get()
    assert seen == {offer.task_id: {"task_id": offer.task_id, "attempt": offer.attempt} for offer in offers}


async def test_an_object_with_an_asynchronous_call_is_asynchronous() -> None:
    class Callee:
        async def __call__(self, ctx: TaskContext) -> str:
            return f"{threading.current_thread().name} {ctx.type}"

    assert (await run_handler(Callee())).result == "MainThread test"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "cannot be written"),
        ("\ud800", "cannot be written"),
        ({1, "a", 2.5j}, "cannot"),
        (float("nan"), "cannot be written as JSON: nan at `$`"),
        ({"scores": [None, (1.5, float("-inf"))]}, "-inf at `$.scores[1][1]`"),
        ([msgspec.Raw(b"null"), Point(x=float("inf"))], "inf at `$[1].x`"),
    ],
)
async def test_a_result_that_is_no_json_is_not_worth_another_attempt(value: object, words: str) -> None:
    with pytest.raises(TaskFailed, match=re.escape(words)) as failed:
        await run_handler(lambda _: value)
    assert failed.value.error.type == "result_refused"
    assert failed.value.error.retryable is False


async def test_null_and_a_word_for_it_are_results() -> None:
    value = {"null": None, "words": ["null", "nan"], "raw": msgspec.Raw(b"null"), "number": 1e308}
    assert (await run_handler(lambda _: value)).result == {**value, "raw": None}


@pytest.mark.parametrize("data", [[float("nan")], object()], ids=["nan", "object"])
@pytest.mark.parametrize("how", ["progress", "ask"])
async def test_data_that_is_no_json_is_not_worth_another_attempt(data: object, how: str) -> None:
    async def tell(ctx: TaskContext) -> None:
        await (ctx.progress(1, data=data) if how == "progress" else ctx.ask("which?", data))

    with pytest.raises(TaskFailed, match="data cannot be written as JSON") as failed:
        await run_handler(tell, answers=["this"])
    assert (failed.value.error.type, failed.value.error.retryable) == ("data_refused", False)


async def test_an_error_is_told_by_its_type_and_words() -> None:
    def fails(_ctx: TaskContext) -> None:
        raise LookupError("no such file\x00")

    with pytest.raises(TaskFailed) as failed:
        await run_handler(fails)
    assert failed.value.error.type == "LookupError"
    assert failed.value.error.message == "no such file�"


async def test_progress_out_of_range_is_the_handlers_mistake() -> None:
    with pytest.raises(TaskFailed, match="percent must be from 0 to 100, not 101"):
        await run_handler(lambda ctx: ctx.progress_nowait(101))


async def test_a_cancelled_context_stops_a_synchronous_handler_where_it_looks() -> None:
    def cancelled(ctx: TaskContext) -> None:
        ctx.cancel()
        assert ctx.cancelled
        with pytest.raises(TaskCancelled):
            ctx.progress_nowait(1)
        ctx.raise_if_cancelled()

    with pytest.raises(TaskFailed) as failed:
        await run_handler(cancelled)
    assert failed.value.error.type == "TaskCancelled"


@pytest.mark.parametrize("task_type", ["", "a b", "a.b", "**", "x" * 65])
def test_a_type_must_be_a_name(task_type: str) -> None:
    with pytest.raises(ConfigurationError, match="not a task type"):
        Agent("a").task(task_type)(lambda _: None)


def test_a_type_has_one_handler() -> None:
    agent = Agent("a")
    agent.task("x")(lambda _: None)
    with pytest.raises(ConfigurationError, match="'x' has a handler already"):
        agent.task("x")(lambda _: None)


class MuteError(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError


ODD = [MuteError(), BaseException("x"), GeneratorExit(), SystemExit(3), StopIteration(3)]


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_whatever_a_handler_raises_is_its_failure(kind: str, error: BaseException) -> None:
    def raises(_ctx: TaskContext) -> None:
        raise error

    async def raises_on_the_loop(_ctx: TaskContext) -> None:
        raise error

    with pytest.raises(TaskFailed) as failed:
        await run_handler(raises_on_the_loop if kind == "async" else raises)
    assert failed.value.error.type in {type(error).__name__, "RuntimeError"}
