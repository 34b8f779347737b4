"""What is told: every committed change, in order, as a CloudEvent; nothing of what was never committed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.contract.hand_agent import online
from tests.contract.support import unique

if TYPE_CHECKING:
    from tests.contract.support import Json, Wire

pytestmark = pytest.mark.anyio


async def test_every_change_of_a_task_is_told_in_order(wire: Wire) -> None:
    task_id = await wire.submit(unique("t"))
    await wire.ask("tasks.cancel", task_id=task_id, reason="enough")
    await wire.events.until(task_id, "cancelled")
    story = [body for kind, body in wire.events.seen if kind.endswith(task_id)]
    assert [event["data"]["version"] for event in story] == [1, 2]
    assert [event["id"] for event in story] == [f"{task_id}-1", f"{task_id}-2"]
    for event in story:
        state, pool = event["data"]["state"], event["data"]["pool"]
        assert (event["specversion"], event["source"]) == ("1.0", f"/callboard/{pool}")
        assert (event["type"], event["subject"]) == (f"callboard.task.{state}", task_id)
        assert event["time"] == event["data"]["at"]
    assert story[1]["data"]["reason"] == "enough"


async def test_headers_name_the_event_and_its_form(wire: Wire) -> None:
    subscription = await wire.nats.subscribe(f"{wire.root}.event.task.queued.*")
    await wire.nats.flush()
    task_id = await wire.submit(unique("t"))
    message = await subscription.next_msg(timeout=10)
    assert message.headers == {"content-type": "application/cloudevents+json", "Nats-Msg-Id": f"{task_id}-1"}
    assert json.loads(message.data)["id"] == f"{task_id}-1"


async def test_a_task_that_never_was_is_not_told_of(wire: Wire) -> None:
    key, kind = unique("key"), unique("t")
    nobody = {"capabilities": [unique("nobody")]}
    before: Json = await wire.ask("tasks.submit", type=kind, key=key, requires=nobody)
    again: Json = await wire.ask("tasks.submit", type=kind, key=key, requires=nobody)
    assert (again["task_id"], again["created"]) == (before["task_id"], False)
    last = await wire.submit(kind)
    await wire.events.until(last, "queued")
    told = {body["data"]["task_id"] for _, body in wire.events.seen if body["data"].get("type") == kind}
    assert told == {before["task_id"], last}


async def test_changes_of_agents_are_told_with_a_revision_that_rises(wire: Wire) -> None:
    async with online(wire) as agent:
        await wire.ask("agents.drain", agent_id=agent.agent_id)
        await wire.events.until(agent.agent_id, "draining")
        await wire.ask("agents.resume", agent_id=agent.agent_id)
        await wire.events.until(agent.agent_id, "online", 2)
        story = [body for kind, body in wire.events.seen if kind.endswith(f".{agent.agent_id}")]
        assert [event["data"]["state"] for event in story] == ["online", "draining", "online"]
        revisions = [tuple(map(int, event["data"]["revision"].split("-"))) for event in story]
        assert revisions == sorted(set(revisions))
        for event in story:
            pool = event["data"]["pool"]
            assert event["id"] == f"{pool}-{agent.agent_id}-{event['data']['revision']}"
            assert event["type"] == f"callboard.agent.{event['data']['state']}"
