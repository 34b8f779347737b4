"""`tasks.why`: for waiting tasks, dry runs, placed and finished ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.contract.hand_agent import online
from tests.contract.support import RefusedError, unique

if TYPE_CHECKING:
    from tests.contract.support import Wire

pytestmark = pytest.mark.anyio

NO_TASK = "01900000-0000-7000-8000-000000000000"


async def test_a_waiting_task_a_dry_run_and_the_scores_from_assigned_to_finished(wire: Wire) -> None:
    skill = unique("skill")
    requires = {"capabilities": [skill]}
    first = await wire.submit(requires=requires)
    second = await wire.submit(requires=requires)
    async with online(wire, capabilities=[skill], slots=1) as agent:
        offer = await agent.offered(first)
        waiting = await wire.ask("tasks.why", task_id=second)
        assert (waiting["state"], waiting["position"], waiting["candidates"]) == ("queued", 1, 1)
        assert waiting["excluded"]["no_slot"] == 1
        assert {"agent_id": agent.agent_id, "reason": "no_slot"} in waiting["agents"] or len(waiting["agents"]) == 20
        assert "a slot of one of 1 busy agents becomes free" in waiting["unblocked_by"]

        dry = await wire.ask("tasks.why", task={"type": "any", "requires": {"capabilities": [skill, unique("none")]}})
        assert (dry["candidates"], "state" in dry, "position" in dry) == (0, False, False)
        assert all(line.startswith("an agent signs in with capability") for line in dry["unblocked_by"])

        placed = await wire.ask("tasks.why", task_id=first)
        assert [score["agent_id"] for score in placed["scores"]] == [agent.agent_id]
        assert placed["scores"][0]["total"] == sum(placed["scores"][0]["parts"].values())
        await agent.complete(offer)
        finished = await wire.ask("tasks.why", task_id=first)
        assert finished == {"state": "succeeded", "scores": placed["scores"]}


async def test_a_task_that_never_was_and_half_a_question_are_refused(wire: Wire) -> None:
    for fields, code in (
        ({"task_id": NO_TASK}, "task_not_found"),
        ({}, "invalid_request"),
        ({"task_id": NO_TASK, "task": {"type": "x"}}, "invalid_request"),
        ({"task": {"type": "x", "unheard": 1}}, "invalid_request"),
    ):
        with pytest.raises(RefusedError) as refusal:
            await wire.ask("tasks.why", **fields)
        assert refusal.value.code == code
