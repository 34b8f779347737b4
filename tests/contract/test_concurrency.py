"""`concurrency_key` and `concurrency_limit`: at most so many of a key at once, over all agents and across owners."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.contract.hand_agent import online
from tests.contract.support import unique

if TYPE_CHECKING:
    from tests.contract.support import Wire

pytestmark = pytest.mark.anyio


async def test_no_more_of_a_key_are_offered_than_its_limit(wire: Wire) -> None:
    skill, key = unique("skill"), unique("key")
    requires = {"capabilities": [skill]}
    async with online(wire, capabilities=[skill], slots=8) as agent:
        tasks = [
            await wire.submit(requires=requires, concurrency_key=key, concurrency_limit=2) for _ in range(4)
        ]  # fmt: skip
        plain = await wire.submit(requires=requires)
        first, second = await agent.offered(tasks[0]), await agent.offered(tasks[1])
        await agent.complete(await agent.offered(plain))
        waiting = await wire.ask("tasks.why", task_id=tasks[2])
        assert (waiting["excluded"], waiting["agents"]) == ({"concurrency_key": 1}, [])
        assert waiting["unblocked_by"] == [f"one of the 2 attempts that hold concurrency key '{key}' ends (limit 2)"]
        assert waiting["position"] == 1
        await agent.complete(first)
        third = await agent.offered(tasks[2])
        assert (await wire.get(tasks[3]))["state"] == "queued"
        for offer in (second, third):
            await agent.complete(offer)
        await agent.complete(await agent.offered(tasks[3]))
    shown = await wire.get(tasks[0])
    assert (shown["concurrency_key"], shown["concurrency_limit"]) == (key, 2)


async def test_a_cancelled_task_counts_until_its_agent_lists_it_no_more(wire: Wire) -> None:
    skill, key = unique("skill"), unique("key")
    requires = {"capabilities": [skill]}
    async with online(wire, capabilities=[skill], slots=2) as agent:
        running = await wire.submit(requires=requires, concurrency_key=key)
        offer = await agent.offered(running)
        next_one = await wire.submit(requires=requires, concurrency_key=key)
        await wire.ask("tasks.cancel", task_id=running)
        await agent.beat()
        await agent.beat()
        assert (await wire.get(next_one))["state"] == "queued"
        agent.unlist(offer)
        await agent.beat()
        await agent.complete(await agent.offered(next_one))


async def test_a_limit_without_a_key_is_refused_and_a_dry_run_knows_the_key(wire: Wire) -> None:
    error = await wire.refusal("tasks.submit", type="x", concurrency_limit=1)
    assert error.code == "invalid_request"
    skill, key = unique("skill"), unique("key")
    async with online(wire, capabilities=[skill], slots=2) as agent:
        requires = {"capabilities": [skill]}
        offer = await agent.offered(await wire.submit(requires=requires, concurrency_key=key))
        dry = await wire.ask("tasks.why", task={"type": "x", "requires": requires, "concurrency_key": key})
        assert dry["excluded"] == {"concurrency_key": 1}
        await agent.complete(offer)
        dry = await wire.ask("tasks.why", task={"type": "x", "requires": requires, "concurrency_key": key})
        assert dry["excluded"].get("concurrency_key") is None


async def test_the_same_content_with_and_without_the_default_limit_is_the_same_task(wire: Wire) -> None:
    name, key = unique("name"), unique("key")
    first = await wire.ask("tasks.submit", type="nobody", key=name, concurrency_key=key)
    again = await wire.ask("tasks.submit", type="nobody", key=name, concurrency_key=key, concurrency_limit=1)
    assert (again["task_id"], again["created"]) == (first["task_id"], False)
    error = await wire.refusal("tasks.submit", type="nobody", key=name, concurrency_key=key, concurrency_limit=2)
    assert error.code == "key_conflict"
    await wire.ask("tasks.cancel", task_id=first["task_id"])
