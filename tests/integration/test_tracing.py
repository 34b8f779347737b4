"""Traces: from the submitter through the assignment to the agent and into the events, and the spans on the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.support.replica import environment

from callboard.agents import Agent, TaskContext, TaskFailed
from callboard.bus.client import Client
from callboard.bus.connection import Bus, BusOptions
from callboard.bus.tracing import traceparent_of
from callboard.orchestrator import Orchestrator
from callboard.orchestrator.config import NatsSettings, OrchestratorConfig, OrchestratorMode
from callboard.schemas.tasks import TaskSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.sdk.trace import ReadableSpan

    from callboard.bus.embedded import EmbeddedNats

pytestmark = pytest.mark.anyio

WITHIN_S = 30.0
POOL = "traced"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Where the spans of this process go; the provider can be set only once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
async def bus(nats_server: EmbeddedNats) -> AsyncIterator[Bus]:
    """A bus, while an orchestrator in this process has the pool."""
    config = OrchestratorConfig(
        mode=OrchestratorMode.TEST,
        pools=(POOL,),
        nats=NatsSettings(url=nats_server.url),
        enable_database_persistence=False,
        http_port=0,
    )
    async with Orchestrator(config), await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus:
        yield bus


def agent() -> Agent:
    agent = Agent(agent_id="tracer-1", pool=POOL, slots=4)

    @agent.task("outer")
    async def outer(ctx: TaskContext) -> str | None:
        async with Client.connect(pool=POOL) as client:
            await client.run("inner")
        return ctx.traceparent

    @agent.task("inner")
    def inner(_ctx: TaskContext) -> str:
        return format(trace.get_current_span().get_span_context().span_id, "016x")

    @agent.task("bad")
    async def bad(_ctx: TaskContext) -> None:
        raise TaskFailed("no such file", type="missing", retryable=False)

    return agent


@contextlib.asynccontextmanager
async def running(agent: Agent, url: str) -> AsyncIterator[None]:
    task = asyncio.create_task(agent.run(url))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_one_trace_from_the_submit_to_the_run_and_what_it_submits(
    bus: Bus, exporter: InMemorySpanExporter, nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    exporter.clear()
    events: asyncio.Queue[Any] = asyncio.Queue()
    await bus.subscribe(
        f"callboard.v1.{POOL}.event.task.>", lambda message: events.put_nowait(json.loads(message.data))
    )
    await bus.flush()
    async with asyncio.timeout(WITHIN_S), running(agent(), nats_server.url):
        client = Client(bus, pool=POOL)
        with trace.get_tracer("test").start_as_current_span("caller") as caller:
            answer = await client.submit("outer")
        carried = await client.result(answer.task_id)
        failed = await client.wait((await client.submit("bad")).task_id)
        while (event := await events.get())["type"] != "callboard.task.succeeded" or event["data"]["type"] != "outer":
            assert event["traceparent"] == event["data"]["traceparent"]
        assert event["traceparent"] == carried
    submit, run = one(exporter, "submit outer"), one(exporter, "run outer")
    queue, dispatch = one(exporter, "queue outer"), one(exporter, "dispatch outer")
    assert parent_of(submit) == caller.get_span_context().span_id
    assert carried == traceparent_of(submit.context)
    for span in (run, queue, dispatch):
        assert (span.context.trace_id, parent_of(span)) == (submit.context.trace_id, submit.context.span_id), span.name
    assert (submit.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert dict(submit.attributes or {}) == {
        "messaging.system": "callboard",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": "outer",
        "messaging.destination.partition.id": POOL,
        "messaging.message.id": answer.task_id,
    }
    assert dict(run.attributes or {}) == {
        "messaging.system": "callboard",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": "outer",
        "messaging.message.id": answer.task_id,
        "messaging.client.id": "tracer-1",
        "callboard.task.attempt": 1,
    }
    inner_submit, inner = one(exporter, "submit inner"), one(exporter, "run inner")
    assert parent_of(inner_submit) == run.context.span_id
    assert parent_of(inner) == inner_submit.context.span_id
    bad = one(exporter, "run bad")
    assert (bad.status.status_code, bad.status.description) == (StatusCode.ERROR, "no such file")
    assert (bad.attributes or {})["error.type"] == "missing"
    assert failed.traceparent is not None


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def one(exporter: InMemorySpanExporter, name: str) -> Any:  # noqa: ANN401 - its context is optional by type only
    [span] = named(exporter, name)
    return span


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def test_many_at_once_share_the_submits_span(bus: Bus, exporter: InMemorySpanExporter) -> None:
    exporter.clear()
    client = Client(bus, pool=POOL)
    mine = TaskSpec(type="batch", traceparent=TRACEPARENT)
    results = await client.submit_many([TaskSpec(type="batch"), TaskSpec(type="batch"), mine])
    span = one(exporter, "submit batch")
    assert (span.attributes or {})["messaging.batch.message_count"] == 3
    carried = [(await client.get(result.task_id)).traceparent for result in results if result.task_id]
    ours = traceparent_of(span.context)
    assert carried == [ours, ours, TRACEPARENT]


@pytest.mark.parametrize(
    ("header", "body", "carried"),
    [
        (TRACEPARENT, {}, TRACEPARENT),
        (TRACEPARENT, {"traceparent": TRACEPARENT.replace("b7", "c8")}, TRACEPARENT.replace("b7", "c8")),
        ("00-zz-1", {}, None),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", {}, None),
    ],
)
@pytest.mark.parametrize("many", [False, True])
async def test_a_request_may_carry_its_trace_in_a_header(
    bus: Bus, header: str, body: dict[str, str], carried: str | None, many: bool
) -> None:
    subject = f"callboard.v1.{POOL}.tasks.{'submit_many' if many else 'submit'}"
    spec = {"type": "headed", **body}
    asked = json.dumps({"tasks": [spec]} if many else spec).encode()
    answer = json.loads((await bus.request(subject, asked, timeout_s=WITHIN_S, headers={"Traceparent": header})).data)
    task_id = answer["results"][0]["task_id"] if many else answer["task_id"]
    assert (await Client(bus, pool=POOL).get(task_id)).traceparent == carried


async def test_a_key_stands_for_the_same_task_in_any_trace(bus: Bus) -> None:
    client = Client(bus, pool=POOL)
    first = await client.submit_spec(TaskSpec(type="once", key="traced", traceparent=TRACEPARENT))
    again = await client.submit_spec(TaskSpec(type="once", key="traced"))
    assert (first.task_id, first.created, again.created) == (again.task_id, True, False)


def test_nothing_of_opentelemetry_is_imported_by_us(nats_server: EmbeddedNats) -> None:
    code = "import sys, callboard.agents, callboard.bus.client, callboard.orchestrator"
    code += "; print('opentelemetry' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment(nats_server.url, "")
    )
    assert done.stdout == "False\n"
