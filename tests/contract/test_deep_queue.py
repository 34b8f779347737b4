"""A queue far deeper than what the orchestrator holds in memory: every request means what it means for a short one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest
from tests.contract.conftest import Served, connected, serving
from tests.contract.hand_agent import online
from tests.contract.support import Json, Wire, unique

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from callboard.bus.embedded import EmbeddedNats
    from callboard.orchestrator.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio

ROOT: Final = "deep.v1.default"
DEPTH: Final = 150


@pytest.fixture(scope="module")
async def deep(
    contract_nats: EmbeddedNats,
    postgres_server: EmbeddedPostgres,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Served, Wire]]:
    log = tmp_path_factory.mktemp("deep") / "serve.log"
    # The least that a lane may hold is 16, and 32 before it is cut.
    settings = {"CALLBOARD_PREFIX": "deep", "CALLBOARD_POOLS": "default", "CALLBOARD_QUEUE_WINDOW": "1"}
    async with (
        connected(contract_nats.url, ROOT) as wire,
        serving(contract_nats.url, postgres_server, next(database_names), log, **settings) as served,
    ):
        yield served, wire


@pytest.fixture
def wire(deep: tuple[Served, Wire]) -> Wire:
    return deep[1]


async def fill(wire: Wire, requires: Json, count: int = DEPTH) -> list[str]:
    """So many waiting tasks, the first one first."""
    tasks = [{"type": "deep", "requires": requires, "payload": n, "key": unique("deep")} for n in range(count)]
    return [result["task_id"] for result in (await wire.ask("tasks.submit_many", tasks=tasks))["results"]]


async def test_all_run_in_their_order(wire: Wire) -> None:
    skill = unique("skill")
    requires = {"capabilities": [skill]}
    tasks = await fill(wire, requires)
    late = await wire.submit(requires=requires, priority="high")
    ran: list[str] = []
    async with online(wire, capabilities=[skill]) as agent:
        for _ in range(DEPTH + 1):
            offer = await agent.offered()
            ran.append(offer["task_id"])
            await agent.complete(offer)
    assert ran == [late, *tasks]


async def test_what_is_far_behind_is_cancelled_finished_waited_for_and_explained(wire: Wire) -> None:
    skill = unique("skill")
    tasks = await fill(wire, {"capabilities": [skill]})
    why = await wire.ask("tasks.why", task_id=tasks[-3])
    assert (why["state"], why["position"]) == ("queued", DEPTH - 2)
    assert (await wire.ask("tasks.wait", task_id=tasks[-1], timeout_ms=50))["state"] == "queued"
    waiting = asyncio.create_task(wire.ask("tasks.wait", task_id=tasks[-1], timeout_ms=20_000))
    await wire.round_trip()
    assert await wire.ask("tasks.cancel", task_id=tasks[-1]) == {
        "task_id": tasks[-1], "state": "cancelled", "changed": True,
    }  # fmt: skip
    assert (await waiting)["state"] == "cancelled"
    assert (await wire.ask("tasks.cancel", task_id=tasks[-1]))["changed"] is False
    assert (await wire.ask("tasks.wait", task_id=tasks[-1], timeout_ms=20_000))["state"] == "cancelled"
    done = await wire.ask("tasks.complete", task_id=tasks[-2], result=7)
    assert (done["state"], done["changed"]) == ("succeeded", True)
    by_state = (await wire.ask("status"))["tasks"]["by_state"]
    assert by_state["queued"] == DEPTH - 2
    for task_id in tasks[:-2]:
        await wire.ask("tasks.cancel", task_id=task_id)
    assert (await wire.ask("status"))["tasks"]["by_state"]["queued"] == 0


async def test_time_passes_for_those_far_behind_too(wire: Wire) -> None:
    skill = unique("skill")
    tasks = await fill(wire, {"capabilities": [skill]}, 60)
    expiring = await wire.submit(requires={"capabilities": [skill]}, ttl_ms=400)
    assert (await wire.final(expiring))["state"] == "expired"
    for task_id in tasks:
        await wire.ask("tasks.cancel", task_id=task_id)
