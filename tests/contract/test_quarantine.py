"""An agent that fails again and again is quarantined, shown as such, and released by an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.contract.hand_agent import online
from tests.contract.support import unique

if TYPE_CHECKING:
    from tests.contract.support import Wire

pytestmark = pytest.mark.anyio

FAILURES = 10


async def test_a_sick_agent_gets_nothing_new_until_it_is_resumed(wire: Wire) -> None:
    async with online(wire, slots=1) as agent:
        requires = {"agent_id": agent.agent_id}
        for _ in range(FAILURES):
            task_id = await wire.submit(unique("ill"), requires=requires, max_attempts=1)
            await agent.fail(await agent.offered(task_id))
        assert (await wire.ask("agents.get", agent_id=agent.agent_id))["state"] == "quarantined"
        waiting = await wire.submit(unique("well"), requires=requires)
        why = await wire.ask("tasks.why", task_id=waiting)
        assert why["excluded"]["quarantined"] == 1
        answer = await wire.ask("agents.resume", agent_id=agent.agent_id)
        assert answer == {"agent_id": agent.agent_id, "state": "online", "changed": True}
        await agent.complete(await agent.offered(waiting))
        assert (await wire.ask("agents.resume", agent_id=agent.agent_id))["changed"] is False
