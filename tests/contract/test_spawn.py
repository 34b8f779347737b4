"""Section 5, `agents.spawn`: real processes, by role. Two at once is this orchestrator's limit.

A process may outlive its goodbye by a moment, and counts until it has ended: a refusal by the limit is asked again.
"""

from __future__ import annotations

import pytest
from tests.contract.support import Json, Wire, unique

pytestmark = pytest.mark.anyio


async def stop(wire: Wire, agent_id: str) -> None:
    await wire.ask("agents.shutdown", agent_id=agent_id, grace_ms=5000)
    await wire.events.until(agent_id, "stopped")


async def test_a_spawned_agent_comes_online_works_and_is_shut_down(wire: Wire) -> None:
    agent_id, skill = unique("spawned"), unique("skill")
    order: Json = {
        "role": "echoer", "agent_id": agent_id, "capabilities": [skill], "slots": 2, "labels": {"a": 1},
        "env": {"GREETING": "hello"},
    }  # fmt: skip
    answer = await wire.accepted("agents.spawn", **order)
    assert answer == {"agent_id": agent_id, "state": "online"}
    shown = await wire.ask("agents.get", agent_id=agent_id)
    assert (shown["role"], shown["capabilities"], shown["slots"], shown["labels"]) == ("echoer", [skill], 2, {"a": 1})
    # Asked again with the same id: the same agent.
    assert await wire.ask("agents.spawn", **order) == answer
    assert (await wire.ask("agents.get", agent_id=agent_id))["incarnation"] == shown["incarnation"]
    task = await wire.final(await wire.submit(requires={"capabilities": [skill]}, payload={"say": "hello"}))
    assert (task["state"], task["agent_id"]) == ("succeeded", agent_id)
    assert (await wire.ask("agents.shutdown", agent_id=agent_id, grace_ms=5000))["changed"] is True
    await wire.events.until(agent_id, "stopped")
    assert (await wire.ask("agents.get", agent_id=agent_id))["state"] == "stopped"


async def test_an_agent_without_an_id_gets_one(wire: Wire) -> None:
    answer = await wire.accepted("agents.spawn", role="echoer")
    assert answer["state"] == "online"
    await stop(wire, answer["agent_id"])


async def test_what_the_configuration_does_not_allow_is_refused(wire: Wire) -> None:
    agent_id = unique("spawned")
    assert (await wire.refusal("agents.spawn", role="broken", agent_id=agent_id)).code == "configuration_error"
    assert (await wire.refusal("agents.get", agent_id=agent_id)).code == "agent_not_found"
    error = await wire.refusal("agents.spawn", role="echoer", env={"PATH": "/tmp"})  # noqa: S108 - a value to refuse
    assert error.code in {"configuration_error", "invalid_request"}


@pytest.mark.parametrize(
    ("large", "path"),
    [({"labels": {"a": "x" * 200_000}}, "capabilities and labels"), ({"env": {"GREETING": "x" * 200_000}}, "env")],
    ids=["labels", "env"],
)
async def test_what_no_process_could_be_given_is_refused_at_once(wire: Wire, large: Json, path: str) -> None:
    agent_id = unique("spawned")
    error = await wire.refusal("agents.spawn", role="echoer", agent_id=agent_id, **large)
    assert (error.code, error.details["path"]) == ("payload_too_large", path)
    assert (await wire.refusal("agents.get", agent_id=agent_id)).code == "agent_not_found"


async def test_an_id_in_use_by_a_live_agent_is_refused(wire: Wire) -> None:
    agent_id = unique("taken")
    await wire.ask(f"agent.{agent_id}.register", incarnation="5d1f6f0e-9a3b-4a52-8c8e-0d9f4f5b2a11")
    error = await wire.refusal("agents.spawn", role="echoer", agent_id=agent_id)
    assert (error.code, error.details["path"]) == ("invalid_request", "agent_id")
    assert (await wire.ask("agents.get", agent_id=agent_id))["state"] in {"online", "suspect"}
    await wire.ask(f"agent.{agent_id}.leave", incarnation="5d1f6f0e-9a3b-4a52-8c8e-0d9f4f5b2a11")


async def test_no_more_are_spawned_than_the_limit_allows(wire: Wire) -> None:
    spawned = [(await wire.accepted("agents.spawn", role="echoer"))["agent_id"] for _ in range(2)]
    refused_id = unique("spawned")
    error = await wire.refusal("agents.spawn", role="echoer", agent_id=refused_id)
    assert error.code == "resource_limit"
    assert (await wire.refusal("agents.get", agent_id=refused_id)).code == "agent_not_found"
    await stop(wire, spawned[0])
    third = await wire.accepted("agents.spawn", role="echoer")
    for agent_id in (spawned[1], third["agent_id"]):
        await stop(wire, agent_id)
