"""Sections 3 and 4: an agent asks, its task waits for input, a client answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.hand_agent import HandAgent, online, run_one
from tests.contract.support import NO_TASK, Json, Wire, pause, refused

if TYPE_CHECKING:
    from collections.abc import Awaitable

pytestmark = pytest.mark.anyio


async def asked(wire: Wire, agent: HandAgent, prompt: str = "go on?", **fields: Any) -> tuple[str, Json]:  # noqa: ANN401 - JSON
    """A task whose agent asks its first question."""
    task_id, offer = await run_one(wire, agent, **fields)
    assert await ask(agent, offer, prompt=prompt) == {"recorded": True}
    return task_id, offer


async def ask(agent: HandAgent, offer: Json, query: int = 1, **fields: Any) -> Json:  # noqa: ANN401 - JSON
    ref = {"task_id": offer["task_id"], "attempt": offer["attempt"]}
    return await agent.ask("query", **{**ref, "query": query, "prompt": "go on?", **fields})


async def refused_as(code: str, asking: Awaitable[Json]) -> None:
    assert (await refused(asking)).code == code


async def test_a_task_waits_for_input_and_goes_on_with_the_answer(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await asked(wire, agent, data=None)
        task = await wire.get(task_id)
        assert (task["state"], task["agent_id"], task["reason"]) == ("waiting_input", agent.agent_id, "go on?")
        assert task["question"].pop("asked_at").endswith("Z")
        assert task["question"] == {"query": 1, "prompt": "go on?"}
        [found] = (await wire.ask("tasks.list", state="waiting_input", agent_id=agent.agent_id))["tasks"]
        assert found["task_id"] == task_id
        assert (await wire.ask("agents.get", agent_id=agent.agent_id))["slots_used"] == 1
        answer = await wire.ask("tasks.answer", task_id=task_id, attempt=1, query=1, answer={"go": True})
        assert answer == {"task_id": task_id, "state": "running", "changed": True}
        arrived = await agent.told("answer")
        del arrived["epoch"]
        assert arrived == {"task_id": task_id, "attempt": 1, "query": 1, "answer": {"go": True}}
        task = await wire.get(task_id)
        assert task["state"] == "running"
        assert "question" not in task
        assert await agent.complete(offer, "done") == {"recorded": True}


async def test_any_json_is_asked_with_and_answered(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        await ask(agent, offer, data=["a", None, {"ü": 1.5}])
        assert (await wire.get(task_id))["question"]["data"] == ["a", None, {"ü": 1.5}]
        await wire.ask_raw("tasks.answer", b'{"task_id": "%b", "answer": null}' % task_id.encode())
        arrived = await agent.told("answer")
        assert arrived["answer"] is None


async def test_asking_and_answering_again_changes_nothing(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await asked(wire, agent)
        before = await wire.get(task_id)
        assert await ask(agent, offer) == {"recorded": True}
        assert await wire.get(task_id) == before
        await wire.ask("tasks.answer", task_id=task_id, attempt=1, query=1, answer=1)
        again = await wire.ask("tasks.answer", task_id=task_id, attempt=1, query=1, answer=2)
        assert again == {"task_id": task_id, "state": "running", "changed": False}
        assert await ask(agent, offer) == {"recorded": True}
        assert (await wire.get(task_id))["state"] == "running"
        await ask(agent, offer, 2, prompt="and now?")
        assert (await wire.ask("tasks.answer", task_id=task_id, attempt=1, query=1, answer=3))["changed"] is False
        assert (await wire.get(task_id))["question"]["prompt"] == "and now?"
        await ask(agent, offer, 3, prompt="or rather?")
        assert (await wire.get(task_id))["question"]["prompt"] == "or rather?"


async def test_what_cannot_be_asked_or_answered_is_refused(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        error = await refused(wire.ask("tasks.answer", task_id=task_id, answer=1))
        assert error.code == "invalid_transition"
        assert error.details["state"] in {"assigned", "running"}
        await refused_as("task_not_found", wire.ask("tasks.answer", task_id=NO_TASK, answer=1))
        await refused_as("stale_attempt", ask(agent, {**offer, "attempt": 2}))
        assert (
            await refused(ask(agent, offer, incarnation="01993b5e-7c1a-7bd2-8f0e-3a1f5c2d9e11"))
        ).code == "unknown_incarnation"
        await refused_as("payload_too_large", ask(agent, offer, data="x" * 20_000))
        await ask(agent, offer)
        assert (
            await refused(wire.ask("tasks.answer", task_id=task_id, attempt=2, query=1, answer=1))
        ).code == "stale_attempt"
        assert (
            await refused(wire.ask("tasks.answer", task_id=task_id, answer="x" * 300_000))
        ).code == "payload_too_large"
        assert (await wire.get(task_id))["state"] == "waiting_input"
        await agent.complete(offer, 1)
        assert (
            await refused(wire.ask("tasks.answer", task_id=task_id, attempt=1, query=1, answer=1))
        ).code == "invalid_transition"


async def test_an_answer_is_repeated_until_it_is_acknowledged(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, _ = await asked(wire, agent)
        agent.unanswered = {"answer"}
        await wire.ask("tasks.answer", task_id=task_id, answer=1)
        await agent.told("answer", 2)
        agent.unanswered.clear()
        seen = len(agent.messages["answer"])
        await agent.told("answer", seen + 1)
        await agent.beat()


async def test_limits_stand_still_while_it_waits(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, run_timeout_ms=1_500, progress_timeout_ms=1_000, max_attempts=1)
        await ask(agent, offer)
        began_s = time.monotonic()
        while time.monotonic() < began_s + 2.0:  # longer than both limits
            await pause()
        assert (await wire.get(task_id))["state"] == "waiting_input"
        await wire.ask("tasks.answer", task_id=task_id, answer=1)
        task = await wire.until(task_id, lambda task: task["state"] == "failed")
        assert task["error"]["type"] == "timeout"


async def test_a_cancel_ends_the_wait(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await asked(wire, agent)
        assert (await wire.ask("tasks.cancel", task_id=task_id))["state"] == "cancelled"
        await agent.told("cancel")
        await refused_as("stale_attempt", ask(agent, offer, 2))


async def test_events_tell_of_it(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await asked(wire, agent)
        await wire.events.until(task_id, "waiting_input")
        await wire.ask("tasks.answer", task_id=task_id, answer=1)
        await agent.complete(offer, 1)
        await wire.events.until(task_id, "succeeded")
        states = [state for state, _ in wire.events.of(task_id)]
        assert [state for state in states if state not in {"queued", "assigned"}] in (
            ["running", "waiting_input", "running", "succeeded"],
            ["waiting_input", "running", "succeeded"],
        )
