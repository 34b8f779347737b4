"""`tasks.submit_many`: as if sent in order, in one transaction, with a result for each."""

from __future__ import annotations

from asyncio import gather
from typing import TYPE_CHECKING

import pytest
from tests.contract.hand_agent import online
from tests.contract.support import RefusedError, unique

if TYPE_CHECKING:
    from tests.contract.support import Wire

pytestmark = pytest.mark.anyio


async def test_a_thousand_are_accepted_at_once_and_each_can_be_read(wire: Wire) -> None:
    skill = unique("nobody")
    tasks = [{"type": "bulk", "payload": n, "requires": {"capabilities": [skill]}} for n in range(1_000)]
    results = (await wire.ask("tasks.submit_many", tasks=tasks))["results"]
    assert len({result["task_id"] for result in results}) == 1_000
    assert {(result["state"], result["created"], result["satisfiable"]) for result in results} == {
        ("queued", True, False)
    }
    assert [result["task_id"] for result in results] == sorted(result["task_id"] for result in results)
    for n in (0, 500, 999):
        assert (await wire.ask("tasks.get", task_id=results[n]["task_id"]))["payload"] == n


async def test_each_item_has_its_own_result_and_a_bad_one_keeps_no_other_out(wire: Wire) -> None:
    key, taken = unique("key"), unique("key")
    first = await wire.ask("tasks.submit", type="bulk", key=taken, payload=1, requires={"role": unique("r")})
    results = (
        await wire.ask(
            "tasks.submit_many",
            tasks=[
                {"type": "bulk", "requires": {"role": "nobody"}},
                {"type": "bulk", "unheard": 1},
                {"type": "a b"},
                7,
                {"type": "bulk", "key": key, "requires": {"role": "nobody"}},
                {"type": "bulk", "key": key, "requires": {"role": "nobody"}},
                {"type": "bulk", "key": key, "payload": 2, "requires": {"role": "nobody"}},
                {"type": "bulk", "key": taken},
                {"type": "bulk", "requires": {"role": unique("r")}, "on_unsatisfiable": "reject"},
                {"type": "bulk", "payload": "x" * (256 * 1024)},
            ],
        )
    )["results"]
    codes = [result.get("error", {}).get("code") for result in results]
    assert codes == [
        None, "invalid_request", "invalid_request", "invalid_request", None, None, "key_conflict", "key_conflict",
        "task_delegation_failed", "payload_too_large",
    ]  # fmt: skip
    assert results[1]["error"]["details"]["path"] == "unheard"
    assert (results[4]["created"], results[5]["created"]) == (True, False)
    assert results[4]["task_id"] == results[5]["task_id"]
    assert (await wire.ask("tasks.get", key=taken))["task_id"] == first["task_id"]


async def test_all_bad_is_still_an_answer(wire: Wire) -> None:
    results = (await wire.ask("tasks.submit_many", tasks=[{}, {"type": ""}]))["results"]
    assert [result["error"]["code"] for result in results] == ["invalid_request", "invalid_request"]


@pytest.mark.parametrize("tasks", [[], [{"type": "bulk"}] * 1_001, {}, "x", None])
async def test_none_or_too_many_or_no_list_is_refused_whole(wire: Wire, tasks: object) -> None:
    with pytest.raises(RefusedError) as refusal:
        await wire.ask("tasks.submit_many", tasks=tasks)
    assert (refusal.value.code, refusal.value.details["path"]) == ("invalid_request", "tasks")


async def test_they_are_run_in_the_order_of_the_protocol(wire: Wire) -> None:
    skill = unique("skill")
    tasks = [
        {"type": "bulk", "priority": priority, "requires": {"capabilities": [skill]}}
        for priority in ("low", "normal", "critical", "normal", "high")
    ]
    ids = [result["task_id"] for result in (await wire.ask("tasks.submit_many", tasks=tasks))["results"]]
    async with online(wire, capabilities=[skill], slots=1) as agent:
        order = []
        for _ in ids:
            offer = await agent.offered()
            order.append(ids.index(offer["task_id"]))
            await agent.complete(offer)
    assert order == [2, 4, 1, 3, 0]


@pytest.mark.parametrize("sendings", [2, 5])
async def test_what_is_sent_again_before_it_is_answered_is_one_submission(wire: Wire, sendings: int) -> None:
    role = unique("r")
    one = {"type": "bulk", "key": unique("key"), "requires": {"role": role}}
    many = [{**one, "key": unique("key")} for _ in range(3)]
    answers = await gather(*(wire.ask("tasks.submit", **one) for _ in range(sendings)))
    assert len({answer["task_id"] for answer in answers}) == 1
    assert sorted(answer["created"] for answer in answers) == [*[False] * (sendings - 1), True]
    lists = [
        each["results"] for each in await gather(*(wire.ask("tasks.submit_many", tasks=many) for _ in range(sendings)))
    ]
    for results in zip(*lists, strict=True):
        assert len({result["task_id"] for result in results}) == 1
        assert sorted(result["created"] for result in results) == [*[False] * (sendings - 1), True]


async def test_without_a_key_the_same_again_is_another_task(wire: Wire) -> None:
    one = {"type": "bulk", "requires": {"role": unique("r")}}
    answers = await gather(*(wire.ask("tasks.submit", **one) for _ in range(3)))
    assert len({answer["task_id"] for answer in answers}) == 3
    lists = await gather(*(wire.ask("tasks.submit_many", tasks=[{**one, "key": unique("key")}, one]) for _ in range(3)))
    assert len({result["task_id"] for each in lists for result in each["results"]}) == 6
