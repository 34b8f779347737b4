"""Section 5, `status`, and section 1, discovery: the pool as a NATS micro service."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.hand_agent import online, run_one
from tests.contract.support import PATIENCE_S, Json, Wire, unique

if TYPE_CHECKING:
    from nats.aio.msg import Msg

pytestmark = pytest.mark.anyio

NUMBER = (int, float)
STATUS: Json = {
    "pool": str,
    "mode": str,
    "version": str,
    "started_at": datetime,
    "uptime_ms": int,
    "owner": {"replica": str, "epoch": int, "since": datetime},
    "durability": str,
    "health": {"database": str, "bus": str, "degraded": bool},
    "agents": {"total": int, "by_state": dict, "slots": int, "slots_used": int},
    "tasks": {"by_state": dict, "oldest_queued_ms": int},
    "performance": {
        **{
            name: {"count": int, "p50_ms": NUMBER, "p95_ms": NUMBER, "p99_ms": NUMBER}
            for name in ("submit", "dispatch", "run", "end_to_end", "commit")
        },
        "success_rate": NUMBER,
        "tasks_per_minute": NUMBER,
    },
    "strategy": str,
    "paused": bool,
}
"""Every field of the answer once a task waits and another one has run."""
ENDPOINTS = {
    **{f"tasks_{verb}": f"tasks.{verb}" for verb in ("submit", "get", "list", "wait", "cancel", "retry", "complete")},
    **{f"agents_{verb}": f"agents.{verb}" for verb in ("list", "get", "spawn", "drain", "resume", "shutdown")},
    "status": "status",
}


def check(value: Any, form: Any, path: str = "status") -> None:  # noqa: ANN401 - any JSON
    if isinstance(form, dict):
        assert set(form) <= set(value), f"{path} lacks {set(form) - set(value)}"
        for name, inner in form.items():
            check(value[name], inner, f"{path}.{name}")
    elif form is datetime:
        assert value.endswith("Z"), path
        datetime.fromisoformat(value)
    else:
        assert isinstance(value, form), f"{path} is {value!r}"
        assert form is bool or not isinstance(value, bool), f"{path} is {value!r}"


async def test_status_has_every_field(wire: Wire) -> None:
    async with online(wire, slots=3) as agent:
        await wire.submit()
        _, offer = await run_one(wire, agent)
        await agent.complete(offer)
        _, offer = await run_one(wire, agent)
        status = await wire.ask("status")
        check(status, STATUS)
        assert (status["pool"], status["mode"]) == ("default", "test")
        assert status["health"] == {"database": "ok", "bus": "ok", "degraded": False}
        assert status["durability"] == "relaxed"  # the test database runs without fsync
        assert (status["strategy"], status["paused"]) == ("availability_based", False)
        by_state = status["agents"]["by_state"]
        assert by_state["online"] >= 1
        assert sum(by_state.values()) == status["agents"]["total"]
        assert status["agents"]["slots"] >= 3
        assert status["agents"]["slots_used"] >= 1
        assert status["tasks"]["by_state"]["succeeded"] >= 1
        for name in ("submit", "dispatch", "run", "end_to_end", "commit"):
            latency = status["performance"][name]
            assert latency["count"] >= 1
            assert 0 <= latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"]
        assert 0 <= status["performance"]["success_rate"] <= 1
        await agent.complete(offer)


async def test_status_counts_live_tasks_exactly(wire: Wire) -> None:
    async with online(wire) as agent:
        before = (await wire.ask("status"))["tasks"]["by_state"]
        queued = await wire.submit()
        deferred = await wire.submit(delay_ms=60_000)
        running, offer = await run_one(wire, agent)
        after = (await wire.ask("status"))["tasks"]["by_state"]
        change = {state: after[state] - before[state] for state in ("queued", "deferred", "assigned", "running")}
        # That it runs may be committed a second later (section 4).
        in_hand = change.pop("assigned") + change.pop("running")
        assert (change, in_hand) == ({"queued": 1, "deferred": 1}, 1)
        await agent.complete(offer)
        for task_id in (queued, deferred):
            await wire.ask("tasks.cancel", task_id=task_id)
        ended = (await wire.ask("status"))["tasks"]["by_state"]
        live = ("queued", "deferred", "assigned", "running")
        assert [ended[state] - before[state] for state in live] == [0, 0, 0, 0]
        assert ended["succeeded"] - before.get("succeeded", 0) == 1
        assert ended["cancelled"] - before.get("cancelled", 0) == 2
        assert (await wire.get(running))["state"] == "succeeded"


async def test_status_takes_an_empty_message(wire: Wire) -> None:
    assert (await wire.ask_raw("status", b""))["pool"] == "default"
    assert (await wire.ask_raw("status", b'{"anything": 1}'))["pool"] == "default"


async def test_pools_are_apart(wire: Wire, side: Wire) -> None:
    ours, theirs = await wire.ask("status"), await side.ask("status")
    assert (ours["pool"], theirs["pool"]) == ("default", "side")
    async with online(wire) as agent:
        assert (await side.refusal("agents.get", agent_id=agent.agent_id)).code == "agent_not_found"


# -- discovery ---------------------------------------------------------------------------------------------------------


async def discovered(wire: Wire, subject: str, count: int) -> list[Json]:
    """The first `count` answers to a question that every service hears."""
    inbox = wire.nats.new_inbox()
    answers = await wire.nats.subscribe(inbox)
    await wire.nats.publish(subject, b"", reply=inbox)
    messages: list[Msg] = [await answers.next_msg(timeout=PATIENCE_S) for _ in range(count)]
    await wire.round_trip()
    assert answers.pending_msgs == 0
    await answers.unsubscribe()
    return [json.loads(message.data) for message in messages]


async def test_each_pool_is_a_micro_service(wire: Wire) -> None:
    pings = {ping["name"]: ping for ping in await discovered(wire, "$SRV.PING", 2)}
    assert set(pings) == {"callboard", "callboard_side"}
    for name, ping in pings.items():
        assert ping["type"] == "io.nats.micro.v1.ping_response"
        assert re.fullmatch(r"\d+\.\d+\.\d+(\+[0-9A-Za-z-]+)?", ping["version"])
        assert set(ping["metadata"]) >= {"pool", "replica", "api"}
        assert all(isinstance(value, str) for value in ping["metadata"].values())
        assert ping["metadata"]["pool"] == ("default" if name == "callboard" else "side")
        for subject in (f"$SRV.PING.{name}", f"$SRV.PING.{name}.{ping['id']}"):
            assert await discovered(wire, subject, 1) == [ping]


async def test_the_service_lists_its_endpoints_and_they_answer(wire: Wire) -> None:
    [info] = await discovered(wire, "$SRV.INFO.callboard", 1)
    assert info["type"] == "io.nats.micro.v1.info_response"
    assert info["description"]
    subjects = {endpoint["name"]: endpoint["subject"] for endpoint in info["endpoints"]}
    expected = {name: f"{wire.root}.{verb}" for name, verb in ENDPOINTS.items()}
    assert {name: subjects[name] for name in expected} == expected
    answer = await wire.nats.request(subjects["status"], b"", timeout=PATIENCE_S)
    assert json.loads(answer.data)["pool"] == "default"


async def test_the_service_counts_requests_and_errors(wire: Wire) -> None:
    async def figures() -> Json:
        [stats] = await discovered(wire, "$SRV.STATS.callboard", 1)
        assert stats["type"] == "io.nats.micro.v1.stats_response"
        assert stats["started"].endswith("Z")
        [endpoint] = [each for each in stats["endpoints"] if each["name"] == "tasks_get"]
        found: Json = endpoint
        return found

    before = await figures()
    await wire.refusal("tasks.get", key=unique("no"))
    await wire.get(await wire.submit())
    after = await figures()
    assert after["num_requests"] - before["num_requests"] == 2
    assert after["num_errors"] - before["num_errors"] == 1
    assert after["last_error"].startswith("404:")
    assert after["processing_time"] > before["processing_time"]
    assert isinstance(after["average_processing_time"], int)
