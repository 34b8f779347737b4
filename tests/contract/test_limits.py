"""`resource_limit`, ownership, and the configurable names, on an orchestrator with narrow limits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.contract.conftest import Served, connected, serving
from tests.contract.hand_agent import HandAgent, online, run_one
from tests.contract.support import Wire, unique

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from callboard.bus.embedded import EmbeddedNats
    from callboard.orchestrator.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio

ROOT = "narrow.v1.crew"


@pytest.fixture(scope="module")
async def narrow(
    contract_nats: EmbeddedNats,
    postgres_server: EmbeddedPostgres,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Served, Wire]]:
    log: Path = tmp_path_factory.mktemp("narrow") / "serve.log"
    settings = {
        "CALLBOARD_PREFIX": "narrow",
        "CALLBOARD_POOLS": "crew",
        "CALLBOARD_MAX_QUEUED_TASKS": "3",
        "CALLBOARD_BATCH_MAX": "3",
        "CALLBOARD_MAX_REGISTERED_AGENTS": "2",
        "CALLBOARD_MAX_WAITERS": "2",
        "CALLBOARD_REPLY_PREFIXES": "_INBOX.,answers.",
        "CALLBOARD_DEFAULT_TASK_ASSIGNMENT_STRATEGY": "round_robin",
    }
    async with (
        connected(contract_nats.url, ROOT) as wire,
        serving(contract_nats.url, postgres_server, next(database_names), log, **settings) as served,
    ):
        yield served, wire


@pytest.fixture
def wire(narrow: tuple[Served, Wire]) -> Wire:
    return narrow[1]


async def test_the_first_token_the_pool_and_the_strategy_are_the_operators_choice(wire: Wire) -> None:
    status = await wire.ask("status")
    assert (status["pool"], status["strategy"]) == ("crew", "round_robin")


async def test_the_owner_announces_itself(wire: Wire) -> None:
    [event] = [body["data"] for subject, body in wire.events.seen if subject == "owner"]
    owner = (await wire.ask("status"))["owner"]
    assert (event["pool"], event["replica"], event["epoch"]) == ("crew", owner["replica"], owner["epoch"])
    assert owner["epoch"] >= 1


async def test_a_full_pool_takes_nothing_more(wire: Wire) -> None:
    tasks = [await wire.submit() for _ in range(3)]
    error = await wire.refusal("tasks.submit", type="x")
    assert error.code == "resource_limit"
    assert error.retry_after_ms is not None
    await wire.ask("tasks.cancel", task_id=tasks.pop())
    tasks.append(await wire.submit())
    for task_id in tasks:
        await wire.ask("tasks.cancel", task_id=task_id)


async def test_a_full_fleet_takes_nobody_new_and_never_refuses_who_is_known(wire: Wire) -> None:
    async with online(wire, "fixed-one") as one, online(wire, "fixed-two"):
        stranger = HandAgent(wire)
        assert (await stranger.refusal("register")).code == "resource_limit"
        assert (await stranger.refusal("heartbeat", seq=1, running=[])).code == "unknown_incarnation"
        await one.register(slots=2)
        new = one.another()
        assert (await new.register())["agent_id"] == "fixed-one"
        await new.leave()


async def test_only_so_many_wait_at_once(wire: Wire) -> None:
    task_id = await wire.submit()
    waits = [asyncio.create_task(wire.ask("tasks.wait", task_id=task_id, timeout_ms=15_000)) for _ in range(2)]
    await wire.round_trip()
    assert (await wire.refusal("tasks.wait", task_id=task_id, timeout_ms=15_000)).code == "resource_limit"
    await wire.ask("tasks.cancel", task_id=task_id)
    assert [(await wait)["state"] for wait in waits] == ["cancelled", "cancelled"]
    assert (await wire.ask("tasks.wait", task_id=task_id, timeout_ms=1000))["state"] == "cancelled"


async def test_a_further_reply_prefix_is_answered(wire: Wire) -> None:
    reply = f"answers.{unique('a')}"
    answers = await wire.nats.subscribe(reply)
    await wire.nats.publish(f"{ROOT}.status", b"", reply=reply)
    assert (await answers.next_msg(timeout=10)).data.startswith(b"{")
    await answers.unsubscribe()


async def test_work_flows_within_narrow_limits(wire: Wire) -> None:
    async with online(wire, "fixed-one") as agent:
        for number in range(10):
            task_id, offer = await run_one(wire, agent)
            await agent.complete(offer, number)
            assert (await wire.get(task_id))["result"] == number
