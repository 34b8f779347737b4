"""Section 4: submitting, reading, waiting, listing, cancelling, completing, retrying."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from tests.contract.hand_agent import HandAgent, held, online, run_one
from tests.contract.support import NO_TASK, Json, Wire, unique

pytestmark = pytest.mark.anyio

TASK_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""A UUIDv7 as text."""


def instant(text: str) -> datetime:
    assert text.endswith("Z"), text
    return datetime.fromisoformat(text)


async def offers_in_order(agent: HandAgent, count: int) -> list[str]:
    """The next tasks that an agent with one slot is offered; each is completed."""
    order: list[str] = []
    for _ in range(count):
        offer = await agent.offered()
        order.append(offer["task_id"])
        await agent.complete(offer)
    return order


async def test_a_task_is_submitted_assigned_completed_and_read_back(wire: Wire) -> None:
    async with online(wire, capabilities=["metrics"], slots=2) as agent:
        kind = unique("measure")
        specification = {
            "type": kind,
            "description": "Count the lines",
            "payload": {"path": "a.py", "nested": [1, 2.5, None, True, "é\u0000"]},
            "priority": "high",
            "metadata": {"run": "1"},
            "requires": {"agent_id": agent.agent_id, "capabilities": ["metrics"]},
            "max_attempts": 2,
            "run_timeout_ms": 60_000,
            "backoff": {"initial_ms": 5, "factor": 2, "max_ms": 50},
            "key": unique("key"),
        }
        answer = await wire.ask("tasks.submit", **specification)
        task_id = answer.pop("task_id")
        assert TASK_ID.fullmatch(task_id)
        assert answer.pop("state") in {"queued", "assigned"}
        assert answer == {"created": True, "satisfiable": True}

        offer = await agent.offered(task_id)
        epoch = (await wire.round_trip())["owner"]["epoch"]
        assert offer == {
            "epoch": epoch,
            "task_id": task_id,
            "attempt": 1,
            "type": kind,
            "description": "Count the lines",
            "payload": specification["payload"],
            "priority": "high",
            "metadata": {"run": "1"},
            "run_timeout_ms": 60_000,
        }
        task = await wire.state(task_id, "running")
        assert (task["agent_id"], task["incarnation"]) == (agent.agent_id, agent.incarnation)
        assert await agent.complete(offer, {"lines": 3}) == {"recorded": True}

        task = await wire.get(task_id)
        assert {name: task[name] for name in specification} == specification
        assert (task["state"], task["attempt"], task["result"]) == ("succeeded", 1, {"lines": 3})
        assert instant(task["created_at"]) <= instant(task["started_at"]) <= instant(task["finished_at"])
        assert instant(task["updated_at"]) == instant(task["finished_at"])
        assert isinstance(task["version"], int)
        [attempt] = task["attempts"]
        assert instant(attempt.pop("started_at")) <= instant(attempt.pop("ended_at"))
        assert attempt == {"attempt": 1, "agent_id": agent.agent_id, "outcome": "succeeded"}
        assert not {"error", "retry_of", "until", "deadline"} & set(task)


async def test_only_the_type_is_required_and_the_rest_has_defaults(wire: Wire) -> None:
    async with online(wire) as agent:
        agent_only = {"requires": {"agent_id": agent.agent_id}}
        task_id = (await wire.ask("tasks.submit", type="anything", **agent_only))["task_id"]
        offer = await agent.offered(task_id)
        assert (offer["payload"], offer["metadata"], offer["priority"]) == (None, {}, "normal")
        assert not {"description", "remaining_ms", "run_timeout_ms", "progress"} & set(offer)
        await agent.complete(offer, None)
        task = await wire.get(task_id)
        assert task["priority"] == "normal"
        assert task["result"] is None


@pytest.mark.parametrize("result", [None, False, 0, "", [], {"a": "\u0000"}, 10**30, [1.5e300], "😀"])
async def test_a_result_is_any_json_and_comes_back_as_it_was(wire: Wire, result: object) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, payload=result)
        assert offer["payload"] == result
        await agent.complete(offer, result)
        task = await wire.get(task_id)
        assert task["result"] == result
        assert task["payload"] == result


async def test_null_is_absent(wire: Wire) -> None:
    nobody = {"role": None, "agent_id": unique("nobody"), "capabilities": None}
    body = {"type": "x", "key": None, "description": None, "requires": nobody, "deadline": None, "max_attempts": None}
    answer = await wire.ask_raw("tasks.submit", json.dumps(body).encode())
    assert "key" not in await wire.get(answer["task_id"])


async def test_priority_comes_first_then_age(wire: Wire) -> None:
    agent_id = unique("agent")
    tasks = {
        name: await wire.submit(priority=name.split("-")[0], requires={"agent_id": agent_id})
        for name in ("low-1", "normal-1", "high-1", "critical-1", "low-2", "normal-2", "high-2", "critical-2")
    }
    async with online(wire, agent_id) as agent:
        expected = [tasks[f"{priority}-{n}"] for priority in ("critical", "high", "normal", "low") for n in (1, 2)]
        assert await offers_in_order(agent, 8) == expected


async def test_a_task_that_cannot_be_placed_does_not_block_another(wire: Wire) -> None:
    async with online(wire) as agent:
        stuck = await wire.submit(priority="critical")
        task_id = await wire.submit(priority="low", requires={"agent_id": agent.agent_id})
        await agent.complete(await agent.offered(task_id))
        assert (await wire.get(stuck))["state"] == "queued"


async def test_a_delayed_task_takes_its_place_by_the_time_it_is_due(wire: Wire) -> None:
    agent_id = unique("agent")
    mine = {"agent_id": agent_id}
    late = await wire.submit(requires=mine, delay_ms=150)
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    early = [await wire.submit(requires=mine), await wire.submit(requires=mine, not_before=past)]
    task = await wire.get(late)
    assert (task["state"], task["reason"]) == ("deferred", "not_before")
    assert timedelta(0) < instant(task["until"]) - instant(task["created_at"]) <= timedelta(milliseconds=150)
    await wire.state(late, "queued")
    async with online(wire, agent_id) as agent:
        assert await offers_in_order(agent, 3) == [*early, late]


async def test_a_retry_keeps_its_place(wire: Wire) -> None:
    async with online(wire) as agent:
        mine = {"agent_id": agent.agent_id}
        first = await wire.submit(requires=mine, backoff={"initial_ms": 1, "factor": 1, "max_ms": 1})
        offer = await agent.offered(first)
        second, third = await wire.submit(requires=mine), await wire.submit(requires=mine)
        await agent.fail(offer, retry_after_ms=100)
        in_between = await agent.offered(second)
        await wire.state(first, "queued")
        await agent.complete(in_between)
        assert await offers_in_order(agent, 2) == [first, third]


# -- keys --------------------------------------------------------------------------------------------------------------


async def test_the_same_key_and_content_is_the_same_task(wire: Wire) -> None:
    key, nobody = unique("key"), {"capabilities": ["a", unique("nobody")]}
    first = await wire.ask("tasks.submit", type="x", key=key, requires=nobody, payload={"a": [1]})
    assert first["created"] is True
    # Defaults spelt out are the same content.
    again = await wire.ask(
        "tasks.submit", type="x", key=key, requires=nobody, payload={"a": [1]}, priority="normal", max_attempts=3,
        metadata={}, on_unsatisfiable="wait", backoff={"initial_ms": 1000, "factor": 2, "max_ms": 60_000},
    )  # fmt: skip
    assert (again["task_id"], again["created"]) == (first["task_id"], False)
    assert (await wire.ask("tasks.get", key=key))["task_id"] == first["task_id"]
    await wire.ask("tasks.cancel", task_id=first["task_id"])
    ended = await wire.ask("tasks.submit", type="x", key=key, requires=nobody, payload={"a": [1]})
    assert (ended["task_id"], ended["state"], ended["created"]) == (first["task_id"], "cancelled", False)


@pytest.mark.parametrize(
    "other",
    [{"type": "y"}, {"payload": {"a": 2}}, {"priority": "high"}, {"metadata": {"a": "b"}}, {"ttl_ms": 60_000}],
    ids=lambda other: next(iter(other)),
)
async def test_the_same_key_with_other_content_is_a_conflict(wire: Wire, other: Json) -> None:
    specification: Json = {"type": "x", "key": unique("key"), "payload": {"a": 1}, "requires": {"role": unique("none")}}
    task_id = (await wire.ask("tasks.submit", **specification))["task_id"]
    before = await wire.submitted()
    error = await wire.refusal("tasks.submit", **{**specification, **other})
    assert error.code == "key_conflict"
    assert error.details["task_id"] == task_id
    assert await wire.submitted() == before


@pytest.mark.parametrize("field", ["not_before", "deadline"])
async def test_an_instant_is_the_same_content_at_any_offset(wire: Wire, field: str) -> None:
    specification: Json = {"type": "x", "key": unique("key"), "requires": {"role": unique("none")}}
    first = await wire.ask("tasks.submit", **specification, **{field: "2199-12-31T23:30:00.5+02:00"})
    assert (await wire.get(first["task_id"]))[field] == "2199-12-31T21:30:00.500000Z"
    for same in ("2199-12-31T21:30:00.5Z", "2199-12-31T16:30:00.500-05:00"):
        again = await wire.ask("tasks.submit", **specification, **{field: same})
        assert (again["task_id"], again["created"]) == (first["task_id"], False)
    error = await wire.refusal("tasks.submit", **specification, **{field: "2199-12-31T23:30:00.5Z"})
    assert error.code == "key_conflict"


async def test_the_payload_of_a_key_is_compared_byte_by_byte(wire: Wire) -> None:
    key = unique("key").encode()
    body = b'{"type": "x", "key": "%s", "requires": {"role": "nobody-has-it"}, "payload": %s}'
    await wire.ask_raw("tasks.submit", body % (key, b'{"a": 1}'))
    assert (await wire.ask_raw("tasks.submit", body % (key, b'{"a": 1}')))["created"] is False
    with pytest.raises(Exception, match="key_conflict"):
        await wire.ask_raw("tasks.submit", body % (key, b'{"a":1}'))


async def test_submits_of_one_key_at_once_make_one_task(wire: Wire) -> None:
    specification: Json = {"type": "x", "key": unique("key"), "requires": {"role": unique("none")}}
    answers = await asyncio.gather(*(wire.ask("tasks.submit", **specification) for _ in range(20)))
    assert len({answer["task_id"] for answer in answers}) == 1
    assert sum(answer["created"] for answer in answers) == 1


async def test_a_key_is_any_text(wire: Wire) -> None:
    for key in (f"{unique('a')}. *>/ é😀", "k" * 243 + unique("")):
        task_id = await wire.submit(key=key)
        assert (await wire.ask("tasks.get", key=key))["task_id"] == task_id


async def test_pools_do_not_share_tasks_or_keys(wire: Wire, side: Wire) -> None:
    key = unique("key")
    task_id = await wire.submit(key=key)
    assert (await side.refusal("tasks.get", task_id=task_id)).code == "task_not_found"
    assert (await side.refusal("tasks.get", key=key)).code == "task_not_found"
    assert (await side.refusal("tasks.cancel", task_id=task_id)).code == "task_not_found"
    assert await side.submit(key=key) != task_id
    assert (await wire.get(task_id))["state"] == "queued"


# -- limits of the whole task ------------------------------------------------------------------------------------------


async def test_a_waiting_task_expires(wire: Wire) -> None:
    task_id = await wire.submit(ttl_ms=100)
    task = await wire.final(task_id)
    assert (task["state"], task["attempt"]) == ("expired", 0)
    assert task.get("attempts", []) == []
    assert instant(task["finished_at"]) - instant(task["created_at"]) >= timedelta(milliseconds=100)


async def test_a_deferred_task_expires(wire: Wire) -> None:
    task_id = await wire.submit(ttl_ms=100, delay_ms=60_000)
    assert (await wire.final(task_id))["state"] == "expired"


async def test_a_deadline_in_the_past_is_over_at_once(wire: Wire) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
    async with online(wire) as agent:
        task_id = await wire.submit(deadline=past, requires={"agent_id": agent.agent_id})
        assert (await wire.final(task_id))["state"] == "expired"
        assert not agent.has_offers


async def test_a_running_task_expires_and_its_agent_is_told(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, ttl_ms=700)
        assert 0 < offer["remaining_ms"] <= 700
        assert (await wire.final(task_id))["state"] == "expired"
        assert held(await agent.told("cancel")) == held(offer)
        error = await agent.refusal("complete", **held(offer), result=1)
        assert (error.code, error.details["state"]) == ("stale_attempt", "expired")


@pytest.mark.parametrize(
    "both", [{"ttl_ms": 1, "deadline": "2100-01-01T00:00:00Z"}, {"delay_ms": 1, "not_before": "2100-01-01T00:00:00Z"}]
)
async def test_two_ways_to_say_one_thing_are_refused(wire: Wire, both: Json) -> None:
    assert (await wire.refusal("tasks.submit", type="x", **both)).code == "invalid_request"


# -- placement ---------------------------------------------------------------------------------------------------------


async def test_a_task_that_nobody_could_take_waits_or_is_rejected(wire: Wire) -> None:
    for requires in ({"role": unique("r")}, {"agent_id": unique("a")}, {"capabilities": [unique("c")]}):
        answer = await wire.ask("tasks.submit", type="x", requires=requires)
        assert (answer["state"], answer["satisfiable"]) == ("queued", False)
        before = await wire.submitted()
        error = await wire.refusal("tasks.submit", type="x", requires=requires, on_unsatisfiable="reject")
        assert error.code == "task_delegation_failed"
        assert await wire.submitted() == before


async def test_requirements_find_their_agent(wire: Wire) -> None:
    role, skill, other = unique("role"), unique("skill"), unique("other")
    async with online(wire, role=role, capabilities=[skill]) as one, online(wire, capabilities=[skill, other]) as two:
        for requires, agent in (
            ({"role": role}, one),
            ({"capabilities": [skill, other]}, two),
            ({"role": role, "capabilities": [skill], "agent_id": one.agent_id}, one),
        ):
            answer = await wire.ask("tasks.submit", type="x", requires=requires, on_unsatisfiable="reject")
            assert answer["satisfiable"] is True
            await agent.complete(await agent.offered(answer["task_id"]))
        impossible = {"role": role, "capabilities": [other]}
        error = await wire.refusal("tasks.submit", type="x", requires=impossible, on_unsatisfiable="reject")
        assert error.code == "task_delegation_failed"


@pytest.mark.parametrize("strategy", ["round_robin", "availability_based", "capability_match", "performance_based"])
async def test_each_strategy_places_tasks(wire: Wire, strategy: str) -> None:
    skill = unique("skill")
    async with (
        online(wire, capabilities=[skill, "x", "y"], slots=4) as generalist,
        online(wire, capabilities=[skill], slots=4) as specialist,
    ):
        tasks = [await wire.submit(strategy=strategy, requires={"capabilities": [skill]}) for _ in range(4)]
        for task_id in tasks:
            task = await wire.state(task_id, "running")
            assert task["strategy"] == strategy
        counts = (len(generalist.running), len(specialist.running))
        if strategy in {"round_robin", "availability_based"}:
            assert counts == (2, 2)
        elif strategy == "capability_match":
            assert counts == (0, 4)


# -- wait --------------------------------------------------------------------------------------------------------------


async def test_wait_answers_everyone_when_the_task_is_final(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        waits = [asyncio.create_task(wire.ask("tasks.wait", task_id=task_id, timeout_ms=15_000)) for _ in range(3)]
        await wire.round_trip()
        assert not any(wait.done() for wait in waits)
        await agent.complete(offer, 7)
        for wait in waits:
            task = await wait
            assert (task["state"], task["result"]) == ("succeeded", 7)
            assert task == await wire.get(task_id)


async def test_wait_answers_at_the_time_out_how_it_stands(wire: Wire) -> None:
    task_id = await wire.submit()
    began = asyncio.get_running_loop().time()
    task = await wire.ask("tasks.wait", task_id=task_id, timeout_ms=200)
    assert asyncio.get_running_loop().time() - began >= 0.19
    assert task["state"] == "queued"
    assert task == await wire.get(task_id)
    assert (await wire.ask("tasks.wait", task_id=task_id, timeout_ms=0))["state"] == "queued"


async def test_wait_for_no_task(wire: Wire) -> None:
    assert (await wire.refusal("tasks.wait", task_id=NO_TASK, timeout_ms=60_000)).code == "task_not_found"


# -- get and list ------------------------------------------------------------------------------------------------------


async def test_get_of_no_task(wire: Wire) -> None:
    assert (await wire.refusal("tasks.get", task_id=NO_TASK)).code == "task_not_found"
    assert (await wire.refusal("tasks.get", key=unique("key"))).code == "task_not_found"
    assert (await wire.refusal("tasks.get")).code == "invalid_request"
    assert (await wire.refusal("tasks.get", task_id=NO_TASK, key="k")).code == "invalid_request"


async def test_list_pages_newest_first(wire: Wire) -> None:
    kind = unique("listed")
    tasks = [await wire.submit(kind, payload={"n": n}) for n in range(7)]
    pages: list[list[str]] = []
    cursor = None
    while True:
        page = await wire.ask("tasks.list", type=kind, limit=3, cursor=cursor)
        pages.append([task["task_id"] for task in page["tasks"]])
        assert all(task["type"] == kind for task in page["tasks"])
        assert not any({"payload", "result", "attempts"} & set(task) for task in page["tasks"])
        cursor = page.get("cursor")
        if cursor is None:
            break
    newest_first = tasks[::-1]
    assert [page for page in pages if page] == [newest_first[:3], newest_first[3:6], newest_first[6:]]


async def test_a_full_last_page_ends_the_list(wire: Wire) -> None:
    kind = unique("listed")
    for _ in range(2):
        await wire.submit(kind)
    page = await wire.ask("tasks.list", type=kind, limit=2)
    assert len(page["tasks"]) == 2
    if "cursor" in page:
        assert (await wire.ask("tasks.list", type=kind, limit=2, cursor=page["cursor"])) == {"tasks": []}


async def test_list_filters(wire: Wire) -> None:
    kind = unique("listed")
    async with online(wire) as agent:
        running, offer = await run_one(wire, agent, kind=kind)
        queued, cancelled = await wire.submit(kind), await wire.submit(kind)
        await wire.ask("tasks.cancel", task_id=cancelled)

        async def listed(**filters: str) -> set[str]:
            return {task["task_id"] for task in (await wire.ask("tasks.list", **filters))["tasks"]}

        assert await listed(type=kind) == {running, queued, cancelled}
        assert await listed(type=kind, state="queued") == {queued}
        assert await listed(type=kind, state="cancelled") == {cancelled}
        assert await listed(agent_id=agent.agent_id) == {running}
        assert await listed(agent_id=agent.agent_id, state="queued") == set()
        assert await listed(type=unique("none")) == set()
        await agent.progress(offer, percent=10, data={"much": "x" * 100})
        await agent.complete(offer, {"big": "result"})
        [summary] = (await wire.ask("tasks.list", type=kind, state="succeeded"))["tasks"]
        assert not {"payload", "result", "attempts"} & set(summary)
        assert "data" not in summary.get("progress", {})
        whole = await wire.get(running)
        assert {name: whole[name] for name in summary if name != "progress"} == {
            name: value for name, value in summary.items() if name != "progress"
        }


@pytest.mark.parametrize(
    "bad", [{"limit": 0}, {"limit": 501}, {"state": "nowhere"}, {"cursor": "not one of ours"}], ids=str
)
async def test_list_refuses(wire: Wire, bad: Json) -> None:
    error = await wire.refusal("tasks.list", **bad)
    assert (error.code, error.details["path"]) == ("invalid_request", next(iter(bad)))


async def test_a_page_ends_where_the_next_task_would_not_fit(wire: Wire) -> None:
    kind = unique("wide")
    tasks = [await wire.submit(kind, metadata={"m": "x" * 32_000}) for _ in range(50)]
    pages: list[list[str]] = []
    cursor = None
    while cursor is not None or not pages:
        page = await wire.ask("tasks.list", type=kind, limit=50, cursor=cursor)
        pages.append([task["task_id"] for task in page["tasks"]])
        cursor = page.get("cursor")
    assert [task_id for page in pages for task_id in page] == tasks[::-1]
    assert all(10 <= len(page) < 50 for page in pages[:-1]), "as many as fit"


async def test_tasks_as_large_as_they_may_be_are_listed(wire: Wire) -> None:
    """Text is counted in UTF-8 and told in JSON, where one byte may take six."""
    kind = unique("widest")
    prefers = [{"key": "k", "op": "=", "value": "x" * 400, "weight": 1}] * 64
    for _ in range(3):
        await wire.submit(kind, description="\x01" * 32_000, affinity_key="\x01" * 256, prefers=prefers)
    page = await wire.ask("tasks.list", type=kind)
    rest = await wire.ask("tasks.list", type=kind, cursor=page["cursor"])
    assert [len(page["tasks"]), len(rest["tasks"]), "cursor" in rest] == [2, 1, False]


# -- cancel, complete, retry -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"delay_ms": 60_000}], ids=["queued", "deferred"])
async def test_a_waiting_task_is_cancelled_once(wire: Wire, fields: Json) -> None:
    task_id = await wire.submit(**fields)
    answer = await wire.ask("tasks.cancel", task_id=task_id, reason="not needed")
    assert answer == {"task_id": task_id, "state": "cancelled", "changed": True}
    assert await wire.ask("tasks.cancel", task_id=task_id) == {**answer, "changed": False}
    task = await wire.get(task_id)
    assert (task["state"], task["reason"]) == ("cancelled", "not needed")
    error = await wire.refusal("tasks.complete", task_id=task_id, result=1)
    assert (error.code, error.details["state"]) == ("invalid_transition", "cancelled")


async def test_a_running_task_is_cancelled_whatever_its_agent_does(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        answer = await wire.ask("tasks.cancel", task_id=task_id, reason="changed my mind")
        assert answer == {"task_id": task_id, "state": "cancelled", "changed": True}
        told = await agent.told("cancel")
        assert told == {"epoch": offer["epoch"], **held(offer), "reason": "changed my mind"}
        await agent.heard_cancel_of(offer)
        error = await agent.refusal("complete", **held(offer), result="late")
        assert (error.code, error.details["state"]) == ("stale_attempt", "cancelled")
        task = await wire.get(task_id)
        assert task["state"] == "cancelled"
        assert "result" not in task
        assert [attempt["outcome"] for attempt in task["attempts"]] == ["cancelled"]


async def test_a_cancelled_attempt_holds_its_slot_until_it_is_unlisted(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        await wire.ask("tasks.cancel", task_id=task_id)
        following = await wire.submit(requires={"agent_id": agent.agent_id})
        await agent.heard_cancel_of(offer)
        await agent.beat()
        assert (await wire.get(following))["state"] == "queued"
        assert (await wire.ask("agents.get", agent_id=agent.agent_id))["slots_used"] == 1
        agent.unlist(offer)
        await agent.complete(await agent.offered(following))


@pytest.mark.parametrize("verb", ["cancel", "complete", "retry"])
async def test_there_is_no_such_task(wire: Wire, verb: str) -> None:
    error = await wire.refusal(f"tasks.{verb}", task_id=NO_TASK)
    assert error.code == "task_not_found"


async def test_a_client_completes_a_waiting_task(wire: Wire) -> None:
    task_id = await wire.submit()
    answer = await wire.ask("tasks.complete", task_id=task_id, result={"by": "hand"})
    assert answer == {"task_id": task_id, "state": "succeeded", "changed": True}
    task = await wire.get(task_id)
    assert (task["state"], task["result"]) == ("succeeded", {"by": "hand"})
    assert await wire.ask("tasks.complete", task_id=task_id, result="other") == {**answer, "changed": False}
    assert (await wire.get(task_id))["result"] == {"by": "hand"}
    for verb in ("cancel", "retry"):
        error = await wire.refusal(f"tasks.{verb}", task_id=task_id)
        assert (error.code, error.details["state"]) == ("invalid_transition", "succeeded")


async def test_a_client_completes_a_running_task(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        assert (await wire.ask("tasks.complete", task_id=task_id, result="by hand"))["changed"] is True
        assert held(await agent.told("cancel")) == held(offer)
        error = await agent.refusal("complete", **held(offer), result="by agent")
        assert (error.code, error.details["state"]) == ("stale_attempt", "succeeded")
        task = await wire.get(task_id)
        assert task["result"] == "by hand"
        assert [attempt["outcome"] for attempt in task["attempts"]] == ["cancelled"]


async def test_a_failed_task_is_retried_as_one_new_task(wire: Wire) -> None:
    async with online(wire) as agent:
        specification: Json = {"payload": {"n": 1}, "description": "again", "priority": "high", "key": unique("key")}
        task_id, offer = await run_one(wire, agent, ttl_ms=60_000, max_attempts=1, **specification)
        error = await wire.refusal("tasks.retry", task_id=task_id)
        assert error.code == "invalid_transition"
        assert error.details["state"] in {"assigned", "running"}
        await agent.fail(offer)
        answer = await wire.ask("tasks.retry", task_id=task_id)
        assert answer["changed"] is True
        assert answer["task_id"] != task_id
        again = await wire.ask("tasks.retry", task_id=task_id)
        assert (again["task_id"], again["changed"]) == (answer["task_id"], False)
        task = await wire.get(answer["task_id"])
        assert task["retry_of"] == task_id
        assert "key" not in task
        assert {name: task[name] for name in ("payload", "description", "priority", "ttl_ms", "max_attempts")} == {
            "payload": {"n": 1}, "description": "again", "priority": "high", "ttl_ms": 60_000, "max_attempts": 1,
        }  # fmt: skip
        await agent.complete(await agent.offered(answer["task_id"]))
        assert (await wire.get(task_id))["state"] == "failed"


async def test_a_retry_drops_the_deadline(wire: Wire) -> None:
    deadline = (datetime.now(UTC) + timedelta(milliseconds=100)).isoformat().replace("+00:00", "Z")
    task_id = await wire.submit(deadline=deadline)
    assert (await wire.final(task_id))["state"] == "expired"
    answer = await wire.ask("tasks.retry", task_id=task_id)
    assert answer["state"] == "queued"
    assert "deadline" not in await wire.get(answer["task_id"])


# -- events ------------------------------------------------------------------------------------------------------------


async def test_a_tasks_events_tell_its_story_in_order(wire: Wire) -> None:
    async with online(wire) as agent:
        secret = unique("secret")
        task_id, offer = await run_one(wire, agent, payload=secret)
        await wire.events.until(task_id, "running")
        await agent.complete(offer, secret)
        last = await wire.events.until(task_id, "succeeded")
        story = wire.events.of(task_id)
        states = [state for state, _ in story]
        # A task that is placed in the batch that accepts it is never seen queued.
        assert states in (["queued", "assigned", "running", "succeeded"], ["assigned", "running", "succeeded"])
        versions = [body["version"] for _, body in story]
        assert versions == sorted(set(versions))
        for state, body in story:
            assert (body["task_id"], body["pool"], body["state"]) == (task_id, "default", state)
            assert "payload" not in body
            assert secret not in json.dumps(body)
        assert (last["agent_id"], last["attempt"]) == (agent.agent_id, 1)
