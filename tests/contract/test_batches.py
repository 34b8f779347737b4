"""The batch forms: `assign_many` to agents that ask for it, `report_many`, `wait_many`; each item as if alone."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING

import pytest
from tests.contract.hand_agent import HandAgent, online
from tests.contract.support import NO_TASK, Json, Wire, fail_after, unique

if TYPE_CHECKING:
    from nats.aio.msg import Msg

pytestmark = pytest.mark.anyio


async def submit_some(wire: Wire, skill: str, count: int) -> list[str]:
    """So many tasks in one transaction, so that they are assigned at once."""
    tasks = [{"type": "t", "requires": {"capabilities": [skill]}, "key": unique("k")} for _ in range(count)]
    return [result["task_id"] for result in (await wire.ask("tasks.submit_many", tasks=tasks))["results"]]


class BatchAgent:
    """An agent that takes batches: it accepts the first offer of each message, and declines the others."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.agent_id = unique("batch")
        self.incarnation = str(uuid.uuid4())
        self.messages: list[tuple[str, Json]] = []
        self.news = asyncio.Condition()

    async def sign_in(self, skill: str, slots: int) -> None:
        await self.wire.nats.subscribe(f"{self.wire.root}.to.{self.agent_id}.*", cb=self.take)
        await self.wire.nats.flush()
        await self.wire.ask(
            f"agent.{self.agent_id}.register",
            incarnation=self.incarnation,
            capabilities=[skill],
            slots=slots,
            batches=True,
        )

    async def take(self, message: Msg) -> None:
        verb, body = message.subject.rpartition(".")[2], json.loads(message.data)
        if verb == "assign_many":
            answers: list[Json] = [{"accepted": True}]
            answers += [{"accepted": False, "reason": "busy", "retry_after_ms": 60_000}] * (len(body["offers"]) - 1)
            await message.respond(json.dumps({"answers": answers}).encode())
        else:
            await message.respond(json.dumps({"accepted": True} if verb == "assign" else {}).encode())
        async with self.news:
            self.messages.append((verb, body))
            self.news.notify_all()

    async def first(self, verb: str) -> Json:
        async with fail_after(lambda: f"no {verb} among {self.messages}"), self.news:
            await self.news.wait_for(lambda: any(name == verb for name, _ in self.messages))
        return next(body for name, body in self.messages if name == verb)


async def test_offers_of_one_moment_go_together_and_each_is_answered_for_itself(wire: Wire) -> None:
    skill = unique("skill")
    agent = BatchAgent(wire)
    await agent.sign_in(skill, slots=3)
    tasks = await submit_some(wire, skill, 3)
    message = await agent.first("assign_many")
    assert [offer["task_id"] for offer in message["offers"]] == tasks
    assert {offer["epoch"] for offer in message["offers"]} == {message["epoch"]}
    running = await wire.until(tasks[0], lambda task: task["state"] == "running")
    assert running["agent_id"] == agent.agent_id
    for task_id in tasks[1:]:
        declined = await wire.until(task_id, lambda task: task["state"] == "queued")
        assert [attempt["outcome"] for attempt in declined["attempts"]] == ["declined"]
        await wire.ask("tasks.cancel", task_id=task_id)
    answer = await wire.ask(
        f"agent.{agent.agent_id}.report_many",
        incarnation=agent.incarnation,
        reports=[
            {"task_id": tasks[0], "attempt": 1, "result": [1]},
            {"task_id": tasks[1], "attempt": 1, "result": 2},
            {"task_id": NO_TASK, "attempt": 1, "error": {"message": "never"}},
        ],
    )
    recorded, stale, unknown = answer["answers"]
    assert recorded == {"recorded": True}
    assert (stale["error"]["code"], unknown["error"]["code"]) == ("stale_attempt", "stale_attempt")
    assert (await wire.get(tasks[0]))["result"] == [1]
    await wire.ask(f"agent.{agent.agent_id}.leave", incarnation=agent.incarnation)


async def test_who_does_not_ask_for_batches_gets_none(wire: Wire) -> None:
    skill = unique("skill")
    async with online(wire, capabilities=[skill], slots=3) as agent:
        for task_id in await submit_some(wire, skill, 3):
            await agent.complete(await agent.offered(task_id))
        assert "assign_many" not in agent.messages


async def test_many_reports_are_recorded_or_refused_one_by_one(wire: Wire) -> None:
    skill = unique("skill")
    async with online(wire, capabilities=[skill], slots=4) as agent:
        tasks = await submit_some(wire, skill, 4)
        for task_id in tasks:
            await agent.offered(task_id)
        reports: list[Json] = [
            {"task_id": tasks[0], "attempt": 1, "result": "done"},
            {"task_id": tasks[1], "attempt": 1, "error": {"message": "no", "retryable": False}},
            {"task_id": tasks[2], "attempt": 1, "result": "x" * 300_000},
            {"task_id": tasks[3], "attempt": 2, "result": 1},
        ]
        done, failed, large, future = (await report(agent, reports))["answers"]
        assert done == {"recorded": True}
        assert (failed["recorded"], failed["state"]) == (True, "failed")
        assert large["error"]["code"] == "payload_too_large"
        assert future["error"]["code"] == "stale_attempt"
        assert (await report(agent, reports[:2]))["answers"] == [done, failed], "again, the same answers"
        states = [(await wire.get(task_id))["state"] for task_id in tasks[:2]]
        assert states == ["succeeded", "failed"]


async def report(agent: HandAgent, reports: list[Json]) -> Json:
    return await agent.ask("report_many", reports=reports)


async def test_waiting_for_many_tells_of_those_that_are_final(wire: Wire) -> None:
    tasks = [await wire.submit() for _ in range(4)]
    await wire.ask("tasks.complete", task_id=tasks[1], result=1)
    answer = await wire.ask("tasks.wait_many", task_ids=tasks, timeout_ms=15_000)
    assert [task["task_id"] for task in answer["tasks"]] == [tasks[1]]
    assert answer["tasks"][0] == await wire.get(tasks[1])
    waiting = asyncio.create_task(
        wire.ask("tasks.wait_many", task_ids=[tasks[0], *tasks[2:], tasks[0]], timeout_ms=15_000)
    )
    await wire.round_trip()
    await wire.ask("tasks.cancel", task_id=tasks[2])
    assert [task["task_id"] for task in (await waiting)["tasks"]] == [tasks[2]]
    nothing = await wire.ask("tasks.wait_many", task_ids=[tasks[0], tasks[3]], timeout_ms=10)
    assert nothing == {"tasks": [], "unknown": []}
    unknown = await wire.ask("tasks.wait_many", task_ids=[tasks[0], NO_TASK], timeout_ms=15_000)
    assert unknown == {"tasks": [], "unknown": [NO_TASK]}
    both = await wire.ask("tasks.wait_many", task_ids=[tasks[1], NO_TASK], timeout_ms=15_000)
    assert ([task["task_id"] for task in both["tasks"]], both["unknown"]) == ([tasks[1]], [NO_TASK])


async def test_what_does_not_fit_into_one_answer_comes_with_the_next(wire: Wire) -> None:
    tasks = [await wire.submit() for _ in range(4)]
    for task_id in tasks:
        await wire.ask("tasks.complete", task_id=task_id, result="x" * 200_000)
    left = list(tasks)
    while left:
        answer = await wire.ask("tasks.wait_many", task_ids=left, timeout_ms=15_000)
        told = [task["task_id"] for task in answer["tasks"]]
        assert 1 <= len(told) <= 2
        left = [task_id for task_id in left if task_id not in told]
