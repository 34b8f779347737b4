"""Section 3, the life of an attempt: offers, reports, limits, and what each outcome costs."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.contract.hand_agent import BEAT_S, HandAgent, held, online, run_one
from tests.contract.support import NO_TASK, Json, Wire, refused, unique

pytestmark = pytest.mark.anyio

QUICK = {"initial_ms": 1, "factor": 1, "max_ms": 1}


def outcomes(task: Json) -> list[str | None]:
    return [attempt.get("outcome") for attempt in task["attempts"]]


async def ended(wire: Wire, task_id: str, count: int = 1) -> Json:
    """The task once `count` of its attempts have ended."""
    return await wire.until(task_id, lambda task: len([end for end in outcomes(task) if end]) >= count)


# -- failures and retries ----------------------------------------------------------------------------------------------


async def test_failures_are_retried_until_the_attempts_are_used_up(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, max_attempts=3, backoff=QUICK)
        for number in (1, 2):
            assert offer["attempt"] == number
            answer = await agent.fail(offer, f"try {number}", type="flaky")
            assert (answer["recorded"], answer["state"]) == (True, "deferred")
            assert answer["until"].endswith("Z")
            offer = await agent.offered(task_id)
        assert await agent.fail(offer, "try 3", type="flaky") == {"recorded": True, "state": "failed"}
        task = await wire.get(task_id)
        assert (task["state"], task["attempt"]) == ("failed", 3)
        assert task["error"]["message"] == "try 3"
        assert [(end["attempt"], end["outcome"], end["error"]["message"]) for end in task["attempts"]] == [
            (number, "failed", f"try {number}") for number in (1, 2, 3)
        ]


async def test_a_failure_that_is_not_retryable_is_the_end(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        answer = await agent.fail(offer, "never", type="hopeless", retryable=False)
        assert answer == {"recorded": True, "state": "failed"}
        error = (await wire.get(task_id))["error"]
        assert (error["type"], error["message"], error["retryable"]) == ("hopeless", "never", False)


async def test_back_off_is_at_least_what_the_agent_asks_for(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, backoff=QUICK)
        before = datetime.now(UTC)
        answer = await agent.fail(offer, retry_after_ms=60_000)
        assert datetime.fromisoformat(answer["until"]) - before > timedelta(seconds=58)
        task = await wire.get(task_id)
        assert (task["state"], task["reason"], task["until"]) == ("deferred", "backoff", answer["until"])
        assert not {"agent_id", "incarnation"} & set(task)


async def test_full_jitter_stays_below_its_bound(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(
            wire, agent, max_attempts=4, backoff={"initial_ms": 40, "factor": 2, "max_ms": 60}
        )
        for number, bound_ms in enumerate((40, 60, 60)):
            until = datetime.fromisoformat((await agent.fail(offer))["until"])
            end = (await wire.get(task_id))["attempts"][number]
            delay = until - datetime.fromisoformat(end["ended_at"])
            assert timedelta(0) <= delay <= timedelta(milliseconds=bound_ms)
            offer = await agent.offered(task_id)


async def test_another_attempt_sees_the_progress_of_the_one_before(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, backoff=QUICK)
        await agent.progress(offer, percent=40, message="half-way", data={"at": [1, 2]})
        await agent.fail(offer)
        again = await agent.offered(task_id)
        assert again["progress"] == {"percent": 40, "message": "half-way", "data": {"at": [1, 2]}}


# -- time limits -------------------------------------------------------------------------------------------------------


async def test_an_attempt_that_runs_too_long_is_timed_out(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, run_timeout_ms=150, max_attempts=2, backoff=QUICK)
        assert held(await agent.told("cancel")) == held(offer)
        agent.unlist(offer)
        again = await agent.offered(task_id)
        assert again["attempt"] == 2
        error = await agent.refusal("complete", **held(offer), result=1)
        assert error.code == "stale_attempt"
        assert held(await agent.told("cancel", 2)) == held(again)
        task = await wire.final(task_id)
        assert (task["state"], outcomes(task)) == ("failed", ["timed_out", "timed_out"])
        assert task["error"]["message"]


async def test_an_attempt_without_progress_is_timed_out(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, progress_timeout_ms=200, max_attempts=1)
        assert held(await agent.told("cancel")) == held(offer)
        assert outcomes(await wire.final(task_id)) == ["timed_out"]


async def test_progress_renews_the_no_progress_clock(wire: Wire) -> None:
    async with online(wire) as agent:
        loop = asyncio.get_running_loop()
        task_id, offer = await run_one(wire, agent, progress_timeout_ms=1000, max_attempts=1)
        began = loop.time()
        while loop.time() - began < 1.8:
            await agent.progress(offer, percent=50)
            task = await wire.ask("tasks.wait", task_id=task_id, timeout_ms=100)
            assert task["state"] in {"assigned", "running"}
        await agent.complete(offer)
        assert (await wire.get(task_id))["state"] == "succeeded"


# -- declines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["busy", "draining", "I would rather not", None])
async def test_a_decline_is_free_and_the_agent_is_skipped_for_a_while(wire: Wire, reason: str | None) -> None:
    async with online(wire) as agent:
        agent.answer = {"accepted": False, "reason": reason, "retry_after_ms": 300}
        task_id = await wire.submit(requires={"agent_id": agent.agent_id}, max_attempts=1)
        await agent.offered(task_id)
        began = asyncio.get_running_loop().time()
        agent.answer = {"accepted": True}
        offer = await agent.offered(task_id)
        assert asyncio.get_running_loop().time() - began >= 0.25
        assert offer["attempt"] == 2
        await agent.complete(offer)
        assert outcomes(await wire.get(task_id)) == ["declined", "succeeded"]


async def test_a_decline_skips_the_agent_for_a_second_unless_it_says_otherwise(wire: Wire) -> None:
    async with online(wire) as agent:
        agent.answer = {"accepted": False}
        task_id = await wire.submit(requires={"agent_id": agent.agent_id})
        await agent.offered(task_id)
        began = asyncio.get_running_loop().time()
        agent.answer = {"accepted": True}
        await agent.offered(task_id)
        assert 0.9 <= asyncio.get_running_loop().time() - began <= 5


async def test_a_declined_task_goes_to_another_agent_meanwhile(wire: Wire) -> None:
    skill = unique("skill")
    async with online(wire, capabilities=[skill]) as one:
        one.answer = {"accepted": False, "reason": "busy", "retry_after_ms": 60_000}
        task_id = await wire.submit(requires={"capabilities": [skill]})
        await one.offered(task_id)
        async with online(wire, capabilities=[skill]) as two:
            await two.complete(await two.offered(task_id))


async def test_unsupported_holds_for_that_type_as_long_as_the_incarnation_lives(wire: Wire) -> None:
    kind = unique("kind")
    async with online(wire, slots=2) as agent:
        mine = {"agent_id": agent.agent_id}
        agent.answer = {"accepted": False, "reason": "unsupported", "retry_after_ms": 1}
        task_id = await wire.submit(kind, requires=mine)
        await agent.offered(task_id)
        agent.answer = {"accepted": True}
        other = await wire.submit(requires=mine)
        await agent.complete(await agent.offered(other))
        await agent.register()  # the same incarnation
        await agent.complete(await agent.offered(await wire.submit(requires=mine)))
        task = await wire.get(task_id)
        assert (task["state"], outcomes(task)) == ("queued", ["declined"])
        assert not agent.has_offers
        await agent.stop_beating()
        agent.incarnation = str(uuid.uuid4())
        await agent.register()
        await agent.complete(await agent.offered(task_id))


# -- offers that are not answered --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [None, b"", b"\xff{", b'{"accepted": "yes"}', b"[" * 100_000],
    ids=["silence", "empty", "not UTF-8", "wrong type", "brackets"],
)
async def test_an_offer_without_an_answer_is_repeated_the_same_and_then_undelivered(
    wire: Wire, answer: bytes | None
) -> None:
    async with online(wire) as agent:
        agent.answer = answer
        task_id = await wire.submit(requires={"agent_id": agent.agent_id}, max_attempts=1, payload={"n": 1})
        await agent.offered(task_id)
        task = await wire.until(task_id, lambda task: outcomes(task)[:1] == ["undelivered"])
        assert task["state"] not in {"failed", "running"}
        first = [offer for offer in agent.messages["assign"] if offer["attempt"] == 1]
        assert len(first) == 4
        assert all(offer == first[0] for offer in first)
        await wire.events.until(agent.agent_id, "suspect")
        # The next heartbeat shows that it lives: it is asked again.
        agent.answer = {"accepted": True}
        while (offer := await agent.offered(task_id))["attempt"] == 1 or held(offer) not in agent.running:
            pass
        await agent.complete(offer)
        assert outcomes(await wire.get(task_id))[-1] == "succeeded"


async def test_an_offer_that_nobody_listens_for_is_undelivered_at_once(wire: Wire) -> None:
    agent = HandAgent(wire)
    await agent.register()
    task_id = await wire.submit(requires={"agent_id": agent.agent_id}, max_attempts=1)
    task = await ended(wire, task_id)
    assert (task["state"], outcomes(task)) == ("queued", ["undelivered"])
    [attempt] = task["attempts"]
    took = datetime.fromisoformat(attempt["ended_at"]) - datetime.fromisoformat(attempt["started_at"])
    assert took < timedelta(milliseconds=150)  # before the first repeat
    assert (await wire.ask("agents.get", agent_id=agent.agent_id))["state"] == "suspect"
    await agent.listen()
    await agent.beat()
    offer = await agent.offered(task_id)
    assert offer["attempt"] == 2
    await agent.complete(offer)
    await agent.leave()


async def test_an_accept_that_comes_with_forged_error_headers_is_an_accept(wire: Wire) -> None:
    async with online(wire) as agent:
        agent.answer_headers = {"Nats-Service-Error": "forged", "Nats-Service-Error-Code": "500", "Status": "503"}
        task_id, offer = await run_one(wire, agent)
        await agent.complete(offer)
        assert outcomes(await wire.get(task_id)) == ["succeeded"]


async def test_an_attempt_that_a_heartbeat_lists_is_accepted(wire: Wire) -> None:
    async with online(wire) as agent:
        agent.answer = None
        task_id = await wire.submit(requires={"agent_id": agent.agent_id})
        offer = await agent.offered(task_id)
        agent.running.append(held(offer))
        await wire.events.until(task_id, "running")
        await agent.complete(offer)


# -- reports -----------------------------------------------------------------------------------------------------------


async def test_a_repeated_complete_gets_the_same_answer(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        same = [agent.complete(offer, "once") for _ in range(5)]
        assert await asyncio.gather(*same) == [{"recorded": True}] * 5
        assert await agent.complete(offer, "once") == {"recorded": True}
        task = await wire.get(task_id)
        assert (task["result"], outcomes(task)) == ("once", ["succeeded"])
        # What was recorded stands, whatever a later repeat says.
        assert await agent.complete(offer, "twice") == {"recorded": True}
        assert (await wire.get(task_id))["result"] == "once"


async def test_a_repeated_fail_gets_the_same_answer(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, backoff=QUICK, max_attempts=2)
        first = await agent.fail(offer)
        assert await agent.fail(offer) == first
        again = await agent.offered(task_id)
        assert await agent.fail(offer) == first
        last = await agent.fail(again)
        assert last["state"] == "failed"
        assert await agent.fail(offer) == first
        assert await agent.fail(again) == last


async def test_an_attempt_that_is_over_is_stale(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, backoff=QUICK)
        await agent.fail(offer)
        current = await agent.offered(task_id)
        await wire.events.until(task_id, "running", 2)
        for attempt in (1, 3):
            error = await agent.refusal("complete", task_id=task_id, attempt=attempt, result=1)
            assert (error.code, error.details["state"]) == ("stale_attempt", "running")
        error = await agent.refusal("fail", task_id=NO_TASK, attempt=1, error={"message": "m"})
        assert error.code == "stale_attempt"
        await agent.complete(current)
        error = await agent.refusal("fail", **held(current), error={"message": "after all"})
        assert (error.code, error.details["state"]) == ("stale_attempt", "succeeded")
        assert (await wire.get(task_id))["state"] == "succeeded"


async def test_only_its_own_agent_and_incarnation_report_an_attempt(wire: Wire) -> None:
    async with online(wire) as agent, online(wire) as thief:
        task_id, offer = await run_one(wire, agent)
        error = await thief.refusal("complete", **held(offer), result="stolen")
        assert error.code == "stale_attempt"
        # The agent is the token of the subject: what a body says of it is ignored.
        error = await thief.refusal(
            "complete", **held(offer), agent_id=agent.agent_id, result="stolen", incarnation=agent.incarnation
        )
        assert error.code == "unknown_incarnation"
        error = await agent.refusal("complete", **held(offer), incarnation=str(uuid.uuid4()), result="stolen")
        assert error.code == "unknown_incarnation"
        stranger = HandAgent(wire)
        assert (await stranger.refusal("complete", **held(offer), result="stolen")).code == "unknown_incarnation"
        await thief.progress(offer, percent=99)
        await agent.progress(offer, percent=98, incarnation=str(uuid.uuid4()))
        await agent.complete(offer, "mine")
        task = await wire.get(task_id)
        assert (task["result"], task["agent_id"]) == ("mine", agent.agent_id)
        assert "progress" not in task


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (b'"' + b"x" * (256 * 1024) + b'"', "payload_too_large"),
        (b"NaN", "invalid_request"),
        (b"[1, Infinity]", "invalid_request"),
        (b'"\\ud800"', "invalid_request"),
        (b'"\xff"', "invalid_request"),
        (b"[" * 33 + b"]" * 33, "invalid_request"),
        (b"1e999", "invalid_request"),
    ],
    ids=["large", "NaN", "Infinity", "surrogate", "not UTF-8", "deep", "overflow"],
)
async def test_a_result_that_is_refused_is_reported_as_a_failure(wire: Wire, result: bytes, code: str) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        body = json.dumps({**held(offer), "incarnation": agent.incarnation}).encode()
        request = body[:-1] + b', "result": ' + result + b"}"
        error = await refused(wire.ask_raw(f"agent.{agent.agent_id}.complete", request))
        assert error.code == code
        assert (await wire.ask("agents.get", agent_id=agent.agent_id))["tasks"] == [held(offer)]
        answer = await agent.fail(offer, f"refused: {code}", type="result_refused", retryable=False)
        assert answer == {"recorded": True, "state": "failed"}
        assert (await wire.get(task_id))["error"]["type"] == "result_refused"


async def test_a_result_at_the_limit_is_taken(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        result = "x" * (256 * 1024 - 2)
        await agent.complete(offer, result)
        assert (await wire.get(task_id))["result"] == result


async def test_an_error_has_a_limit(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        error = await agent.refusal("fail", **held(offer), error={"message": "x" * (16 * 1024 + 1)})
        assert (error.code, error.details["path"].split(".")[0]) == ("payload_too_large", "error")
        await agent.complete(offer)
        assert outcomes(await wire.get(task_id)) == ["succeeded"]


# -- progress ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "progress",
    [
        {"percent": 12.5},
        {"message": "é"},
        {"data": {"a": [None]}},
        {"percent": 0, "message": "", "data": []},
        {"percent": 100, "data": 10**30},
    ],
    ids=str,
)
async def test_progress_shows_while_the_task_runs(wire: Wire, progress: Json) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        await agent.progress(offer, **progress)
        task = await wire.until(task_id, lambda task: "progress" in task)
        assert task["progress"] == progress
        assert task["state"] == "running"
        await agent.complete(offer)


async def test_progress_that_is_not_understood_or_too_large_is_ignored(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        bad: list[dict[str, Any]] = [
            {"percent": 101},
            {"percent": -1},
            {"percent": "many"},
            {"data": "x" * (16 * 1024 + 1)},
            {"message": "x" * (16 * 1024 + 1)},
            {"message": "\u0000"},
            {"attempt": 2, "percent": 1},
            {"task_id": "a.b", "percent": 1},
            {"task_id": NO_TASK, "percent": 1},
        ]
        await agent.progress(offer, percent=10)
        for fields in bad:
            await agent.progress(offer, **fields)
        subject = f"{wire.root}.agent.{agent.agent_id}.progress"
        for data in (b"", b"{", b"\xff", b"[" * 1_000_000, b"null", b"NaN"):
            await wire.nats.publish(subject, data)
        await agent.complete(offer)
        assert (await wire.get(task_id))["progress"] == {"percent": 10}


async def test_progress_is_never_answered(wire: Wire) -> None:
    async with online(wire) as agent:
        _, offer = await run_one(wire, agent)
        inbox = wire.nats.new_inbox()
        answers = await wire.nats.subscribe(inbox)
        body = {**held(offer), "incarnation": agent.incarnation, "percent": 5}
        for data in (json.dumps(body).encode(), b"{", b'{"percent": 500}'):
            await wire.nats.publish(f"{wire.root}.agent.{agent.agent_id}.progress", data, reply=inbox)
        await wire.round_trip()
        assert answers.pending_msgs == 0
        await agent.complete(offer)


async def test_pauses_of_this_suite_fit_the_interval(wire: Wire) -> None:
    async with online(wire) as agent:
        answer = await agent.beat()
        assert answer["heartbeat_interval_ms"] > 2 * BEAT_S * 1000
