"""`pool.pause` and `pool.resume`: of a type here, since the whole pool is shared with other tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.contract.hand_agent import online
from tests.contract.support import RefusedError, unique

if TYPE_CHECKING:
    from tests.contract.support import Wire

pytestmark = pytest.mark.anyio


async def test_a_paused_type_waits_and_is_assigned_when_it_is_resumed(wire: Wire) -> None:
    kind = unique("kind")
    assert await wire.ask("pool.pause", type=kind) == {
        "pool": "default", "state": "paused", "changed": True, "type": kind,
    }  # fmt: skip
    assert (await wire.ask("pool.pause", type=kind))["changed"] is False
    status = await wire.ask("status")
    assert (status["paused"], kind in status["paused_types"]) == (False, True)
    async with online(wire, slots=2) as agent:
        requires = {"agent_id": agent.agent_id}
        paused = await wire.submit(kind, requires=requires)
        other = await wire.submit(unique("other"), requires=requires)
        await agent.complete(await agent.offered(other))
        why = await wire.ask("tasks.why", task_id=paused)
        assert (why["state"], why["excluded"], why["unblocked_by"]) == (
            "queued",
            {"paused": 1},
            [f"type {kind} is resumed"],
        )
        assert (await wire.ask("pool.resume", type=kind))["changed"] is True
        await agent.complete(await agent.offered(paused))
    assert (await wire.ask("pool.resume", type=kind)) == {
        "pool": "default", "state": "active", "changed": False, "type": kind,
    }  # fmt: skip
    assert kind not in (await wire.ask("status")).get("paused_types", [])


async def test_a_status_names_the_first_hundred_paused_types(side: Wire) -> None:
    kinds = [f"kind-{number:03}" for number in range(101)]
    for kind in kinds:
        await side.ask("pool.pause", type=kind)
    assert (await side.ask("status"))["paused_types"] == kinds[:100]
    for kind in kinds:
        await side.ask("pool.resume", type=kind)


async def test_the_whole_pool_says_so_in_its_status(side: Wire) -> None:
    assert (await side.ask("pool.pause"))["changed"] is True
    try:
        assert (await side.ask("status"))["paused"] is True
    finally:
        await side.ask("pool.resume")
    assert (await side.ask("status"))["paused"] is False


async def test_a_bad_type_is_refused(wire: Wire) -> None:
    with pytest.raises(RefusedError) as refusal:
        await wire.ask("pool.pause", type="a.b")
    assert (refusal.value.code, refusal.value.details["path"]) == ("invalid_request", "type")
