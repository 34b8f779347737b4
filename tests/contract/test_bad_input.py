"""Any bytes on any subject: the typed error or nothing, and nothing changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest
from nats.errors import NoRespondersError
from tests.contract.conftest import Served, connected
from tests.contract.hand_agent import HandAgent, held, online, run_one
from tests.contract.support import NO_TASK, Json, RefusedError, Wire, read_answer, refused, unique
from tests.support.wire import publish, publish_with_headers, send_raw

from callboard.schemas.events import Envelopes
from callboard.schemas.status import OwnerEvent
from callboard.schemas.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.msg import Msg

pytestmark = pytest.mark.anyio

AGENT: Final = "witness"
INCARNATION: Final = "7d0c3d5e-6f43-4a19-9a57-2f6f3a1f9a10"
VALID: Final[dict[str, Json]] = {
    "tasks.submit": {
        "type": "t", "description": "d", "payload": 1, "metadata": {"a": "b"}, "priority": "low", "key": "k",
        "requires": {"role": "r", "agent_id": "a", "capabilities": ["c"]}, "strategy": "round_robin",
        "max_attempts": 1, "backoff": {"initial_ms": 1, "factor": 2, "max_ms": 3}, "run_timeout_ms": 1,
        "prefers": [{"key": "a", "op": "exists", "weight": 1}], "affinity_key": "a",
        "concurrency_key": "a", "concurrency_limit": 1,
        "progress_timeout_ms": 1, "ttl_ms": 1, "delay_ms": 1, "on_unsatisfiable": "wait",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    },
    "tasks.get": {"task_id": NO_TASK},
    "tasks.list": {"state": "queued", "type": "t", "agent_id": "a", "limit": 1},
    "tasks.wait": {"task_id": NO_TASK, "timeout_ms": 0},
    "tasks.wait_many": {"task_ids": [NO_TASK], "timeout_ms": 0},
    "tasks.cancel": {"task_id": NO_TASK, "reason": "r"},
    "tasks.answer": {"task_id": NO_TASK, "attempt": 1, "query": 1, "answer": 1},
    "tasks.retry": {"task_id": NO_TASK},
    "tasks.complete": {"task_id": NO_TASK, "result": 1},
    "agents.list": {"state": "online", "capability": "c", "limit": 1},
    "agents.get": {"agent_id": "a"},
    "agents.spawn": {
        "role": "broken", "capabilities": ["c"], "agent_id": "a", "slots": 1, "labels": {"a": 1}, "env": {"A": "b"},
    },
    "agents.drain": {"agent_id": "a", "grace_ms": 1, "reason": "r"},
    "agents.resume": {"agent_id": "a"},
    "agents.shutdown": {"agent_id": "a", "grace_ms": 1, "reason": "r"},
    "status": {},
    "agent.stranger.register": {
        "incarnation": INCARNATION, "role": "r", "capabilities": ["c"], "labels": {"a": 1}, "slots": 1,
        "version": "1", "metadata": {"a": "b"}, "running": [{"task_id": NO_TASK, "attempt": 1}], "draining": True,
        "batches": True,
    },
    "agent.stranger.heartbeat": {
        "incarnation": INCARNATION, "seq": 1, "running": [{"task_id": NO_TASK, "attempt": 1}], "draining": True,
    },
    "agent.stranger.complete": {"task_id": NO_TASK, "attempt": 1, "incarnation": INCARNATION, "result": 1},
    "agent.stranger.report_many": {
        "incarnation": INCARNATION, "reports": [{"task_id": NO_TASK, "attempt": 1, "result": 1}],
    },
    "agent.stranger.fail": {
        "task_id": NO_TASK, "attempt": 1, "incarnation": INCARNATION,
        "error": {"message": "m", "type": "t", "retryable": True, "retry_after_ms": 1},
    },
    "agent.stranger.query": {
        "task_id": NO_TASK, "attempt": 1, "incarnation": INCARNATION, "query": 1, "prompt": "p", "data": 1,
    },
    "agent.stranger.leave": {"incarnation": INCARNATION, "reason": "r"},
}  # fmt: skip
"""Every request with every field of its that this version takes."""
REQUIRED: Final = {
    "tasks.submit": ["type"],
    "tasks.wait": ["task_id", "timeout_ms"],
    "tasks.wait_many": ["task_ids", "timeout_ms"],
    "tasks.cancel": ["task_id"],
    "tasks.answer": ["task_id"],
    "tasks.retry": ["task_id"],
    "tasks.complete": ["task_id"],
    "agents.get": ["agent_id"],
    "agents.spawn": ["role"],
    "agents.drain": ["agent_id"],
    "agents.resume": ["agent_id"],
    "agents.shutdown": ["agent_id"],
    "agent.stranger.register": ["incarnation"],
    "agent.stranger.heartbeat": ["incarnation", "seq", "running"],
    "agent.stranger.complete": ["task_id", "attempt", "incarnation"],
    "agent.stranger.report_many": ["incarnation", "reports"],
    "agent.stranger.fail": ["task_id", "attempt", "incarnation", "error"],
    "agent.stranger.query": ["task_id", "attempt", "incarnation", "query", "prompt"],
    "agent.stranger.leave": ["incarnation"],
}
NOT_JSON: Final = {
    "cut short": b'{"type": "x"',
    "text": b"hello",
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"type": "x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"type": "x"}',
    "NUL": b"\x00",
    "list": b"[]",
    "string": b'"x"',
    "number": b"1",
    "null": b"null",
    "true": b"true",
    "NaN": b"NaN",
    "two documents": b"{}{}",
    "single quotes": b"{'type': 'x'}",
    "trailing comma": b'{"type": "x",}',
    "key that is a number": b'{1: "x"}',
    "brackets": b"[" * (1024 * 1024 - 8),
    "braces": b'{"a":' * 200_000,
    "blanks": b" " * 1_000_000,
}
NOT_NAMES: Final = [
    '""', '"a.b"', '"a b"', '"*"', '"a*"', '">"', '"a\\u0000"', '"a\\n"',
    '"é"', '"\\ud800"', '"😀"', f'"{"a" * 65}"', "1", "[]", "true",
]  # fmt: skip
NOT_CHOICES: Final = ['"other"', '""', "1", "[]", '"\\ud800"']
NOT_TEXT: Final = ["1", "true", "[]", "{}", '"\\ud800"', '"a\\u0000b"']
NOT_NUMBERS: Final = [
    '"1"', "true", "[]", "{}", "-1", "NaN", "Infinity", "-Infinity", "1e999", "9223372036854775808", "1" * 400,
]  # fmt: skip
NOT_INTEGERS: Final = [*NOT_NUMBERS, "1.5", "9007199254740993"]
NOT_NUMBERED: Final = [*NOT_INTEGERS, "0"]
NOT_VALUES: Final = ["NaN", "[-Infinity]", "1e999", '"\\ud800"', "[" * 33 + "]" * 33]
NOT_FLAGS: Final = ['"true"', "1", "[]"]
NOT_LISTS: Final = ['"c"', "1", "{}"]
NOT_OBJECTS: Final = ['"c"', "1", "[]", "true"]
NOT_INSTANTS: Final = ['"soon"', '"2026-01-01T00:00:00"', '"2026-01-01"', '"2026-13-01T00:00:00Z"', "1767225600", "{}"]
NOT_TASK_IDS: Final = ['"x"', '"a.b"', f'"{uuid.UUID(int=0)}"', f'"{NO_TASK.upper()}"', f'"{NO_TASK} "', "1", "{}"]
NOT_INCARNATIONS: Final = ['"x"', '""', f'"{INCARNATION}."', f'"{INCARNATION}\\n"', "1", "{}"]
BAD_RUNNING: Final = [*NOT_LISTS, "[1]", "[{}]", f'[{{"task_id": "{NO_TASK}", "attempt": 0}}]', '[{"attempt": 1}]']
BAD: Final[dict[tuple[str, str], list[str]]] = {
    ("tasks.submit", "key"): ['""', f'"{"k" * 257}"', *NOT_TEXT],
    ("tasks.submit", "traceparent"): [
        '"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"',
        '"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"',
        *NOT_TEXT,
    ],
    ("tasks.submit", "affinity_key"): ['""', f'"{"k" * 257}"', *NOT_TEXT],
    ("tasks.submit", "concurrency_key"): ['""', f'"{"k" * 257}"', *NOT_TEXT],
    ("tasks.submit", "concurrency_limit"): [*NOT_INTEGERS, "0"],
    ("tasks.submit", "payload"): [
        "NaN", "[Infinity]", "1e999", '"\\ud800"', '"\\ud800x"', "[" * 33 + "]" * 33, '{"a":}',
    ],
    ("tasks.submit", "metadata"): [*NOT_OBJECTS, '{"a": 1}', '{"a": null}', '{"a": "\\u0000"}', '{"\\u0000": "a"}'],
    ("tasks.submit", "requires"): [
        *NOT_OBJECTS, '{"capability": ["a"]}', '{"capabilities": "a"}', '{"capabilities": [1]}', '{"role": ["a"]}',
        '{"capabilities": ["a b"]}', '{"agent_id": "a.b"}', '{"labels": {"a": 1}}',
        '{"labels": [{"key": "a b", "op": "exists"}]}', '{"labels": [{"key": "a", "op": "=="}]}',
        '{"labels": [{"key": "a", "op": "in", "value": "b"}]}', '{"labels": [{"key": "a", "op": ">", "value": "8"}]}',
        '{"labels": [{"key": "a", "op": "=", "values": ["b"]}]}',
    ],
    ("tasks.submit", "prefers"): [
        *NOT_LISTS, '[{"key": "a", "op": "exists"}]', '[{"key": "a", "op": "exists", "weight": 0}]',
        '[{"key": "a", "op": "exists", "weight": "1"}]',
    ],
    ("tasks.submit", "backoff"): [
        *NOT_OBJECTS, '{"initial_ms": -1}', '{"factor": 0.5}', '{"factor": NaN}', '{"max_ms": "1"}', '{"base": 1}',
    ],
    ("tasks.submit", "max_attempts"): [*NOT_INTEGERS, "0"],
    ("tasks.submit", "run_timeout_ms"): [*NOT_INTEGERS, "0"],
    ("tasks.submit", "progress_timeout_ms"): [*NOT_INTEGERS, "0"],
    ("tasks.submit", "ttl_ms"): [*NOT_INTEGERS, "0"],
    ("tasks.submit", "deadline"): NOT_INSTANTS,
    ("tasks.submit", "not_before"): NOT_INSTANTS,
    ("tasks.wait", "timeout_ms"): [*NOT_INTEGERS, "60001", "null"],
    ("tasks.wait_many", "timeout_ms"): [*NOT_INTEGERS, "60001", "null"],
    ("tasks.wait_many", "task_ids"): [*NOT_LISTS, "[]", "[1]", '["x"]', "[null]"],
    ("agent.stranger.register", "batches"): NOT_FLAGS,
    ("agent.stranger.report_many", "reports"): [*NOT_LISTS, "[]", "[1]", "[{}]", '[{"attempt": 1}]'],
    ("agents.spawn", "slots"): [*NOT_INTEGERS, "0"],
    ("agents.spawn", "env"): [*NOT_OBJECTS, '{"A": 1}', '{"A": "a\\u0000b"}'],
    ("agent.stranger.register", "slots"): [*NOT_INTEGERS, "0"],
    ("agent.stranger.fail", "error"): [
        *NOT_OBJECTS, "{}", '{"message": 1}', '{"message": "a\\u0000"}', '{"message": "m", "retryable": "no"}',
        '{"message": "m", "retry_after_ms": -1}', '{"message": "m", "type": 1}',
    ],
}  # fmt: skip
BY_FIELD: Final = {
    **dict.fromkeys(("type", "role", "agent_id", "capability"), NOT_NAMES),
    **dict.fromkeys(("description", "reason", "version", "prompt"), NOT_TEXT),
    **dict.fromkeys(("priority", "strategy", "on_unsatisfiable", "state"), NOT_CHOICES),
    **dict.fromkeys(("delay_ms", "grace_ms", "seq", "limit"), NOT_INTEGERS),
    "draining": NOT_FLAGS,
    **dict.fromkeys(("attempt", "query"), NOT_NUMBERED),
    "capabilities": [*NOT_LISTS, "[1]", '["a b"]', '[""]', '["a", null]'],
    "labels": [*NOT_OBJECTS, '{"a b": 1}', '{"a": []}', '{"a": null}', '{"a": NaN}', '{"a": 1e999}'],
    "metadata": [*NOT_OBJECTS, '{"a": 1}', '{"a": "\\u0000"}'],
    "running": BAD_RUNNING,
    "task_id": NOT_TASK_IDS,
    "incarnation": NOT_INCARNATIONS,
    **dict.fromkeys(("result", "answer", "data"), NOT_VALUES),
}
FIELDS: Final = sorted(
    {(verb, name) for verb, fields in VALID.items() for name in fields if name in BY_FIELD} | set(BAD)
)


class Witness:
    """What must not change: a running task, a waiting one, their agent, and the number of tasks and agents."""

    def __init__(self, side: Wire, agent: HandAgent, tasks: list[str]) -> None:
        self._side = side
        self._agent = agent
        self._tasks = tasks

    async def testimony(self) -> list[object]:
        # Answered with the batch that it is decided in, so that what came before is committed by then.
        assert (await self._side.ask("agents.resume", agent_id=self._agent.agent_id))["changed"] is False
        shown = await self._side.ask("agents.get", agent_id=self._agent.agent_id)
        del shown["last_seen_at"]
        status = await self._side.ask("status")
        documents = [await self._side.get(task_id) for task_id in self._tasks]
        known = [agent["agent_id"] for agent in (await self._side.ask("agents.list", limit=500))["agents"]]
        return [shown, documents, sum(status["tasks"]["by_state"].values()), known]


@pytest.fixture(scope="module")
async def witness(orchestrator: Served) -> AsyncIterator[Witness]:
    """A fleet at work in the pool `side`, on a connection of its own."""
    async with connected(orchestrator.nats_url, "callboard.v1.side") as wire, online(wire, AGENT) as agent:
        running, offer = await run_one(wire, agent)
        await wire.state(running, "running")
        waiting = await wire.submit(requires={"agent_id": AGENT})
        yield Witness(wire, agent, [running, waiting])
        for task_id in (waiting, running):
            await wire.ask("tasks.cancel", task_id=task_id)
        agent.unlist(offer)


@pytest.fixture
async def unchanged(witness: Witness) -> AsyncIterator[None]:
    """Around a test that must change nothing."""
    before = await witness.testimony()
    yield
    assert await witness.testimony() == before


def with_field(verb: str, name: str, text: str) -> bytes:
    """The valid request, but with this raw text as the value of one field."""
    instead_of = {"deadline": "ttl_ms", "not_before": "delay_ms"}.get(name)
    body = {key: value for key, value in VALID[verb].items() if key not in {name, instead_of}}
    comma = ", " if body else ""
    return f'{json.dumps(body)[:-1]}{comma}"{name}": {text}}}'.encode()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("verb", VALID)
async def test_what_is_no_json_object_is_refused(side: Wire, verb: str) -> None:
    for name, data in NOT_JSON.items():
        error = await refused(side.ask_raw(verb, data))
        assert error.code == "invalid_request", name
        assert isinstance(error.details["path"], str)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("verb", "name"), FIELDS)
async def test_a_field_of_the_wrong_type_or_range_is_refused(side: Wire, verb: str, name: str) -> None:
    for text in BAD.get((verb, name)) or BY_FIELD[name]:
        error = await refused(side.ask_raw(verb, with_field(verb, name, text)))
        assert error.code == "invalid_request", text[:80]
        # What is not JSON at all has no path.
        path = error.details["path"]
        named = re.split(r"[.\[]", path)[0] == name
        assert named or (path == "" and is_not_json(text)), f"{path!r} for {text[:80]}"


def is_not_json(text: str) -> bool:
    """Whether a strict reader may give up on it before it knows of fields."""
    return any(part in text for part in ("NaN", "Infinity", "1e999", "\\ud800", ":}", "1" * 400))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("verb", REQUIRED)
async def test_a_required_field_that_is_missing_is_named(side: Wire, verb: str) -> None:
    for name in REQUIRED[verb]:
        body = {key: value for key, value in VALID[verb].items() if key != name}
        error = await refused(side.ask_raw(verb, json.dumps(body).encode()))
        assert (error.code, error.details["path"]) == ("invalid_request", name)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "field",
    [
        {"requirements": {"capabilities": ["gpu"]}}, {"prefer": []}, {"affinity": "a"},
        {"concurrency": 1}, {"max_attempt": 1}, {"Type": "x"},
        {"requires": {"label": []}}, {"requires": {"capabilites": ["a"]}}, {"backoff": {"jitter": True}}, {"": 1},
    ],
    ids=str,
)  # fmt: skip
async def test_an_unknown_field_of_a_specification_is_refused(side: Wire, field: Json) -> None:
    error = await side.refusal("tasks.submit", type="x", **field)
    assert error.code == "invalid_request"
    [name] = list(field)[:1]
    assert error.details["path"].split(".")[0] == name


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", ["not_before", "deadline"])
@pytest.mark.parametrize("instant", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
async def test_an_instant_of_no_year_is_refused(side: Wire, name: str, instant: str) -> None:
    """It decodes, by its offset; in UTC, in which every answer would tell it, there is no such year."""
    error = await side.refusal("tasks.submit", type="x", **{name: instant})
    assert (error.code, error.details["path"]) == ("invalid_request", name)
    result = (await side.ask("tasks.submit_many", tasks=[{"type": "x", name: instant}]))["results"][0]
    assert result["error"]["code"] == "invalid_request"


@pytest.mark.usefixtures("unchanged")
async def test_a_refusal_fits_whatever_the_name_of_the_field(side: Wire) -> None:
    error = await side.refusal("tasks.submit", type="x", **{"\N{LATIN SMALL LETTER E WITH ACUTE}" * 100_000: 1})
    assert error.code == "invalid_request"
    assert len(error.details["path"]) <= 512


async def test_unknown_fields_elsewhere_are_ignored(wire: Wire) -> None:
    task_id = await wire.submit()
    extra: Json = {"unknown": {"a": [1]}, "type_": None, "agent": "x"}
    assert (await wire.ask("tasks.get", task_id=task_id, **extra))["task_id"] == task_id
    assert (await wire.ask("tasks.list", **extra))["tasks"]
    assert (await wire.ask("tasks.wait", task_id=task_id, timeout_ms=0, **extra))["task_id"] == task_id
    async with online(wire, **extra) as agent:
        await agent.beat(**extra)
        mine = await wire.submit(requires={"agent_id": agent.agent_id})
        offer = await agent.offered(mine)
        assert await agent.ask("complete", **held(offer), result=1, **extra) == {"recorded": True}
        agent.unlist(offer)
    assert (await wire.ask("tasks.cancel", task_id=task_id, **extra))["changed"] is True


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"payload": "x" * (256 * 1024 - 1)}, "payload"),
        ({"description": "x" * (32 * 1024 + 1)}, None),
        ({"metadata": {"a": "x" * (32 * 1024)}}, None),
        ({"description": "x" * (16 * 1024), "metadata": {"a": "x" * (16 * 1024)}}, None),
        ({"description": "é" * (16 * 1024 + 1)}, None),
        ({"requires": {"labels": [{"key": "a", "op": "!=", "value": "x" * (32 * 1024)}]}}, None),
        ({"prefers": [{"key": "a", "op": "!=", "value": "x" * (32 * 1024), "weight": 1}]}, None),
    ],
    ids=["payload", "description", "metadata", "both", "bytes, not characters", "requires", "prefers"],
)
async def test_what_is_too_large_is_refused(side: Wire, fields: Json, path: str | None) -> None:
    error = await side.refusal("tasks.submit", type="x", **fields)
    assert error.code == "payload_too_large"
    assert path in (None, error.details["path"])


@pytest.mark.usefixtures("unchanged")
async def test_what_an_agent_says_of_itself_is_bounded(side: Wire) -> None:
    about: Json = {"incarnation": INCARNATION, "labels": {"a": "x" * (32 * 1024)}}
    assert (await side.refusal("agent.stranger.register", **about)).code == "payload_too_large"


async def test_what_is_just_not_too_large_is_taken(side: Wire) -> None:
    payload = "x" * (256 * 1024 - 2)
    task_id = await side.submit(payload=payload, description="x" * (32 * 1024))
    assert (await side.get(task_id))["payload"] == payload
    too_large = "x" * (256 * 1024 - 1)
    task_id = await side.submit()
    assert (await side.refusal("tasks.complete", task_id=task_id, result=too_large)).code == "payload_too_large"
    assert (await side.get(task_id))["state"] == "queued"


async def test_32_levels_are_deep_enough(side: Wire) -> None:
    payload: object = 0
    for _ in range(32):
        payload = [payload]
    task_id = await side.submit(payload=payload)
    assert (await side.get(task_id))["payload"] == payload


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("agent_id", ["a*b", "*", ">", "a>", "é", "😀", "a" * 65, "a/b", "$SYS"])
@pytest.mark.parametrize("verb", ["register", "heartbeat", "complete", "fail", "leave", "progress"])
async def test_a_bad_agent_id_in_the_subject_is_refused(
    orchestrator: Served, side: Wire, agent_id: str, verb: str
) -> None:
    # Servers let wildcards through in the subject of a message, where they mean nothing.
    body = json.dumps(VALID.get(f"agent.stranger.{verb}", {"task_id": NO_TASK, "attempt": 1})).encode()
    inbox = side.nats.new_inbox()
    answers = await side.nats.subscribe(inbox)
    await side.nats.flush()
    await send_raw(
        orchestrator.nats_url, publish(f"{side.root}.agent.{agent_id}.{verb}".encode(), body, inbox.encode())
    )
    await side.round_trip()
    if verb == "progress":
        assert answers.pending_msgs == 0
    else:
        with pytest.raises(RefusedError, match="invalid_request"):
            read_answer(await answers.next_msg(timeout=10))


# -- where answers may go ----------------------------------------------------------------------------------------------


def requests_to(side: Wire, reply: bytes) -> list[bytes]:
    """Requests that would change something, or tell something, if they were heard."""
    submit = b'{"type": "stolen"}'
    register = json.dumps({"incarnation": INCARNATION}).encode()
    root = side.root.encode()
    return [
        publish(root + b".tasks.submit", submit, reply),
        publish(root + b".tasks.submit", b"{", reply),
        publish(root + b".status", b"", reply),
        publish(root + b".agents.list", b"{}", reply),
        publish(root + b".agent.stranger.register", register, reply),
        publish(b"$SRV.PING", b"", reply),
        publish(b"$SRV.INFO.callboard_side", b"", reply),
        publish(b"$SRV.STATS", b"", reply),
    ]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "reply",
    [
        b"elsewhere.a",
        b"_INBOX",
        b"_INBOXES.a",
        b"_inbox.a",
        b"callboard.v1.side.to.witness.assign",
        b"callboard.v1.side.agent.witness.leave",
        b"callboard.v1.side.tasks.submit",
        b"callboard.v1.side.status",
        b"callboard.v1.default.to.victim.shutdown",
        b"callboard.v1.side.event.owner",
        b"$SRV.PING",
        b"$SYS.REQ.SERVER.PING",
        b"$JS.API.INFO",
    ],
)
async def test_nobody_aims_our_answers(orchestrator: Served, side: Wire, reply: bytes) -> None:
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    await side.nats.subscribe(reply.decode(), cb=hear)
    await side.nats.flush()
    await send_raw(orchestrator.nats_url, *requests_to(side, reply))
    await side.round_trip()
    await side.round_trip()
    # Requests to that very subject have a reply subject; an answer has none.
    assert [message for message in heard if not message.reply] == []


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "reply", [b"_INBOX.*", b"_INBOX.>", b"_INBOX.a.*.b", b"_INBOX..a", b"_INBOX.a.", b"_INBOX.\x0b"]
)
async def test_a_reply_subject_with_wildcards_or_empty_tokens_is_not_answered(
    orchestrator: Served, side: Wire, reply: bytes
) -> None:
    everything = await side.nats.subscribe("_INBOX.a.>")
    await side.nats.flush()
    for frame in requests_to(side, reply):
        try:
            await send_raw(orchestrator.nats_url, frame)
        except AssertionError:
            continue  # the server itself refused it
    await side.round_trip()
    await side.round_trip()
    assert everything.pending_msgs == 0


@pytest.mark.usefixtures("unchanged")
async def test_a_request_without_a_reply_subject_does_nothing(side: Wire) -> None:
    await side.nats.publish(f"{side.root}.tasks.submit", b'{"type": "unheard"}')
    await side.nats.publish(f"{side.root}.agent.stranger.register", json.dumps({"incarnation": INCARNATION}).encode())
    await side.nats.publish(f"{side.root}.agent.{AGENT}.leave", b"{}")
    await side.round_trip()


# -- headers and bytes -------------------------------------------------------------------------------------------------


async def test_headers_of_a_request_mean_nothing(orchestrator: Served, side: Wire) -> None:
    forged = {"Nats-Service-Error": "forged", "Nats-Service-Error-Code": "500", "Status": "503", "Reply-To": "x"}
    body = json.dumps({"type": "x", "requires": {"role": unique("none")}}).encode()
    assert (await side.ask_raw("tasks.submit", body, headers=forged))["created"] is True
    inbox = side.nats.new_inbox()
    answers = await side.nats.subscribe(inbox)
    await side.nats.flush()
    blocks = [
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 503 No Responders\r\n\r\n",
        b"NATS/1.0 abc\r\nno colon\r\n: no name\r\n\r\n",
        b"NATS/1.0\r\n\xff\xfe: \xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\r\n\r\n",
        b"\x00\x01\x02",
    ]
    subject = f"{side.root}.status".encode()
    for block in blocks:
        await send_raw(orchestrator.nats_url, publish_with_headers(subject, block, b"{}", inbox.encode()))
        assert json.loads((await answers.next_msg(timeout=10)).data)["pool"] == "side", block


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUB\r\n",
        b"PUB callboard.v1.side.status -1\r\n\r\n",
        b"PUB callboard.v1.side.status 99999999999999999999\r\n",
        b"PUB callboard.v1.side.status 5\r\nab\r\nPUB",
        b"HPUB callboard.v1.side.status _INBOX.x 9 5\r\nNATS/1.0\r\n",
        b"MSG callboard.v1.side.status 1 2\r\nhi\r\n",
        b"\x00" * 4096,
        b"\xff" * 4096,
        b"A" * 100_000,
    ],
    ids=lambda garbage: repr(garbage[:30]),
)
async def test_garbage_at_the_servers_port_harms_nobody_else(orchestrator: Served, side: Wire, garbage: bytes) -> None:
    host, _, port = orchestrator.nats_url.removeprefix("nats://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.suppress(OSError):  # the server may close before all is written
        async with asyncio.timeout(10):
            await reader.readline()
            writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + garbage)
            writer.write_eof()
            await reader.read()
    writer.close()
    await side.round_trip()


@pytest.mark.usefixtures("unchanged")
async def test_strange_subjects_and_payloads_reach_and_harm_nobody(orchestrator: Served, side: Wire) -> None:
    root = side.root.encode()
    strange = [
        b"", b".", b"..", b".a", b"a.", b"agent", b"agent.", b"agent.x", b"agent.x.register.y", b"agent..register",
        b"tasks", b"tasks.", b"tasks.*", b"tasks.>", b"tasks.Submit", b"tasks.submit.x", b"to.witness.assign2",
        b"\xff\xfe", b"tasks.\x0bsubmit", b"event.task.queued.x", b"event.agent.online.witness", b"event.owner",
    ]  # fmt: skip
    for name in strange:
        for data in (b"", b"{}", b"\xff", b"{", b"null"):
            try:
                await send_raw(orchestrator.nats_url, publish(root + b"." + name, data, b"_INBOX.strange"))
            except AssertionError:
                continue  # the server itself refused it
    await side.round_trip()


@pytest.mark.usefixtures("unchanged")
async def test_a_forged_announcement_of_another_owner_is_not_believed(side: Wire) -> None:
    owner = (await side.ask("status"))["owner"]
    event = OwnerEvent(pool="side", replica="nobody", epoch=owner["epoch"] + 1000, at=datetime(2030, 1, 1, tzinfo=UTC))
    forged = Envelopes(Subjects("side")).of_owner(event)
    await side.nats.publish(forged.subject, forged.body)
    await side.round_trip()
    assert (await side.ask("status"))["owner"] == owner


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("verb", ["assign", "assign_many", "answer", "cancel", "drain", "shutdown"])
async def test_the_orchestrator_does_not_listen_where_agents_do(side: Wire, verb: str) -> None:
    """Anybody may say anything there; and an offer to an agent that is gone is `undelivered` for want of responders."""
    with pytest.raises(NoRespondersError):
        await side.nats.request(f"{side.root}.to.nobody.{verb}", b'{"accepted": true}')
