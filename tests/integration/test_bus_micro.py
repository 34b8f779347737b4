"""Discovery as the `nats` command sees it: it hides, without a word, every answer that its JSON schemas refuse."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from tests.support.wire import publish, send_raw

from callboard.bus.ask import ask
from callboard.bus.connection import Bus, BusMessage, BusOptions, NoRespondersError
from callboard.bus.micro import MicroService
from callboard.bus.replies import DropReason
from callboard.bus.serve import Endpoint, Request, Server
from callboard.schemas.agents import GetAgent
from callboard.schemas.errors import AgentNotFoundError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.bus.embedded import EmbeddedNats

pytestmark = pytest.mark.anyio

ROOT = "micro.v1.p"
NAME = {"type": "string", "pattern": "^[a-zA-Z0-9_-]+$"}
COMMON = {
    "name": NAME,
    "id": {"type": "string", "minLength": 1},
    "version": {"type": "string", "pattern": r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(\+[0-9A-Za-z-]+)?$"},
    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
}
ENDPOINT = {"name": NAME, "subject": {"type": "string", "minLength": 1}}


def answer_schema(kind: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON schemas
    """The fields that ADR-32 asks for in every answer, and those of this one, all required."""
    properties = {"type": {"const": f"io.nats.micro.v1.{kind}_response"}, **COMMON, **fields}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def list_of(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON schemas
    return {
        "type": "array",
        "items": {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False},
    }


SCHEMAS = {
    "PING": answer_schema("ping"),
    "INFO": answer_schema(
        "info", description={"type": "string"}, endpoints=list_of(**ENDPOINT, metadata=COMMON["metadata"])
    ),
    "STATS": answer_schema(
        "stats",
        started={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"},
        endpoints=list_of(
            **ENDPOINT,
            num_requests={"type": "integer"},
            num_errors={"type": "integer"},
            last_error={"type": "string"},
            processing_time={"type": "integer"},
            average_processing_time={"type": "integer"},
        ),
    ),
}


def handle(message: GetAgent, request: Request) -> None:
    if message.agent_id == "absent":
        raise AgentNotFoundError
    request.answer(message)


@pytest.fixture
async def asking(nats_server: EmbeddedNats) -> AsyncIterator[Bus]:
    async with await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus:
        yield bus


@pytest.fixture
async def service(nats_server: EmbeddedNats) -> AsyncIterator[MicroService]:
    async with await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus:
        endpoints = [
            Endpoint(name="agents_get", subject=f"{ROOT}.agents.get", request=GetAgent, handle=handle, description="d"),
            Endpoint(
                name="agent_leave", subject=f"{ROOT}.agent.*.leave", request=GetAgent, handle=handle, description=""
            ),
        ]
        server = Server(bus, endpoints, own_root=ROOT)
        service = MicroService(
            bus, "callboard_micro", "1.2.3", "what it is", metadata={"pool": "p", "api": "v1"}, server=server
        )
        await server.start()
        await service.start()
        await service.start()
        yield service
        await service.stop()
        await service.stop()
        await server.stop()


async def answers(bus: Bus, subject: str) -> dict[str, Any]:
    message = await bus.request(subject, b"", timeout_s=5)
    answer: dict[str, Any] = json.loads(message.data)
    return answer


@pytest.mark.parametrize("verb", sorted(SCHEMAS))
async def test_every_form_of_the_subject_is_answered_to_the_schema(
    asking: Bus, service: MicroService, verb: str
) -> None:
    for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{service.name}", f"$SRV.{verb}.{service.name}.{service.id}"):
        answer = await answers(asking, subject)
        jsonschema.validate(answer, SCHEMAS[verb])
        assert (answer["name"], answer["id"], answer["version"]) == ("callboard_micro", service.id, "1.2.3")
        assert answer["metadata"] == {"pool": "p", "api": "v1"}


async def test_info_lists_the_endpoints(asking: Bus, service: MicroService) -> None:
    info = await answers(asking, f"$SRV.INFO.{service.name}")
    assert info["description"] == "what it is"
    assert info["endpoints"] == [
        {"name": "agents_get", "subject": f"{ROOT}.agents.get", "metadata": {"description": "d"}},
        {"name": "agent_leave", "subject": f"{ROOT}.agent.*.leave", "metadata": {"description": ""}},
    ]


async def test_stats_count_requests_and_errors(asking: Bus, service: MicroService) -> None:
    await ask(asking, f"{ROOT}.agents.get", GetAgent(agent_id="a"), GetAgent)
    with pytest.raises(AgentNotFoundError):
        await ask(asking, f"{ROOT}.agents.get", GetAgent(agent_id="absent"), GetAgent)
    first, second = (await answers(asking, f"$SRV.STATS.{service.name}"))["endpoints"]
    assert (first["num_requests"], first["num_errors"]) == (2, 1)
    assert first["last_error"] == "404:There is no such agent in this pool."
    assert first["processing_time"] // 2 == first["average_processing_time"] > 0
    assert (second["num_requests"], second["last_error"], second["average_processing_time"]) == (0, "", 0)


async def test_discovery_asks_all_at_once(asking: Bus, service: MicroService, nats_server: EmbeddedNats) -> None:
    got: asyncio.Queue[BusMessage] = asyncio.Queue()
    inbox = asking.new_inbox()
    await asking.subscribe(inbox, got.put_nowait)
    async with await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus:
        second = MicroService(bus, "callboard", "0.1.0.dev1", "", metadata={}, server=service._server)
        await second.start()
        await asking.publish("$SRV.PING", b"", reply=inbox)
        async with asyncio.timeout(5):
            pings = [json.loads((await got.get()).data) for _ in range(2)]
        await second.stop()
    assert {ping["id"] for ping in pings} == {service.id, second.id}
    for ping in pings:
        jsonschema.validate(ping, SCHEMAS["PING"])


async def test_the_reply_guard_holds_for_discovery(
    asking: Bus, service: MicroService, nats_server: EmbeddedNats
) -> None:
    await send_raw(
        nats_server.url,
        publish(b"$SRV.PING", reply=b"micro.v1.p.agent.a.complete"),
        publish(b"$SRV.INFO", reply=b"$SRV.PING"),
        publish(b"$SRV.STATS"),
    )
    await service._bus.flush()
    assert service._server.guard.dropped == {DropReason.BAD_REPLY: 2, DropReason.NO_REPLY: 1}
    await asking.flush()


async def test_nothing_is_answered_after_stop(asking: Bus, service: MicroService) -> None:
    await service.stop()
    await service._bus.flush()
    with pytest.raises(NoRespondersError):
        await asking.request(f"$SRV.PING.{service.name}", b"", timeout_s=5)


async def test_a_name_that_discovery_would_hide_is_refused(service: MicroService) -> None:
    with pytest.raises(ConfigurationError, match="micro service"):
        MicroService(service._bus, "call board", "1.0.0", "", metadata={}, server=service._server)
