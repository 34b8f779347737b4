"""The client against a scripted orchestrator on a real nats-server: what it sends, repeats, raises and returns."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.support.scripted_orchestrator import SILENCE, TASK_ID, ScriptedOrchestrator, task

from callboard.bus.ask_again import FIRST_PAUSE_S
from callboard.bus.client import Client
from callboard.bus.connection import Bus, BusMessage, BusOptions
from callboard.schemas.errors import (
    AgentNotFoundError,
    InternalError,
    InvalidRequestError,
    InvalidTransitionError,
    KeyConflictError,
    OutcomeUnknownError,
    TaskFailedError,
    TaskNotFoundError,
    UnavailableError,
)
from callboard.schemas.subjects import Subjects
from callboard.schemas.tasks import Backoff, TaskSpec
from callboard.schemas.vocabulary import TaskAssignmentStrategy, TaskPriority, TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.bus.embedded import EmbeddedNats

pytestmark = pytest.mark.anyio

SUBMITTED = {"task_id": TASK_ID, "state": "queued", "created": True, "satisfiable": True}


@pytest.fixture
async def orchestrator(nats_server: EmbeddedNats) -> AsyncIterator[ScriptedOrchestrator]:
    async with ScriptedOrchestrator(nats_server.url) as scripted:
        yield scripted


@pytest.fixture
async def client(nats_server: EmbeddedNats) -> AsyncIterator[Client]:
    async with Client.connect(nats_server.url) as connected:
        yield connected


async def test_submit_sends_what_was_asked_for_with_a_key_of_its_own(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    orchestrator.on("tasks.submit", SUBMITTED)
    answer = await client.submit(
        "review",
        {"file": "a.py"},
        priority=TaskPriority.HIGH,
        capabilities=["python"],
        role="reviewer",
        strategy=TaskAssignmentStrategy.CAPABILITY_MATCH,
        metadata={"run": "1"},
        backoff=Backoff(initial_ms=5),
        ttl_ms=1000,
    )
    assert (answer.task_id, answer.state, answer.created) == (TASK_ID, TaskState.QUEUED, True)
    [sent] = orchestrator.requests["tasks.submit"]
    assert sent.pop("key")
    assert sent == {
        "type": "review",
        "payload": {"file": "a.py"},
        "priority": "high",
        "requires": {"capabilities": ["python"], "role": "reviewer"},
        "strategy": "capability_match",
        "metadata": {"run": "1"},
        "backoff": {"initial_ms": 5, "factor": 2.0, "max_ms": 60_000},
        "ttl_ms": 1000,
    }


async def test_two_submits_have_different_keys_and_a_given_key_is_kept(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    orchestrator.on("tasks.submit", SUBMITTED)
    for key in (None, None, "mine"):
        await client.submit("review", key=key)
    first, second, third = (sent["key"] for sent in orchestrator.requests["tasks.submit"])
    assert first != second
    assert third == "mine"


async def test_a_submit_is_repeated_with_the_same_key_until_it_is_answered(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    orchestrator.on("tasks.submit", UnavailableError(), OutcomeUnknownError(), SUBMITTED | {"created": False})
    assert (await client.submit("review")).task_id == TASK_ID
    sent = orchestrator.requests["tasks.submit"]
    assert len(sent) == 3
    assert sent[0] == sent[1] == sent[2]


async def test_what_is_not_answered_is_asked_again_soon(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.get", SILENCE, task("running"))
    async with asyncio.timeout(FIRST_PAUSE_S + 1.0):
        assert (await client.get(TASK_ID)).state is TaskState.RUNNING
    assert len(orchestrator.requests["tasks.get"]) == 2


async def test_a_submit_without_a_key_is_not(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.submit", SILENCE)
    with pytest.raises(OutcomeUnknownError):
        await client.submit_spec(TaskSpec(type="review"), timeout_s=FIRST_PAUSE_S + 0.5)
    assert len(orchestrator.requests["tasks.submit"]) == 1


async def test_lists_of_tasks_go_one_after_another(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.submit_many", SILENCE, {"results": [SUBMITTED]})
    first = asyncio.create_task(client.submit_many([TaskSpec(type="first")], timeout_s=FIRST_PAUSE_S / 2))
    await orchestrator.arrived["tasks.submit_many"].wait()
    second = asyncio.create_task(client.submit_many([TaskSpec(type="second")]))
    impatient = asyncio.create_task(client.submit_many([TaskSpec(type="third")], timeout_s=0.05))
    with pytest.raises(UnavailableError, match=r"not sent: another list of this client is not answered for 0\.05 s"):
        await impatient
    assert [len(sent["tasks"]) for sent in orchestrator.requests["tasks.submit_many"]] == [1]
    with pytest.raises(OutcomeUnknownError):
        await first
    assert [result.task_id for result in await second] == [TASK_ID]
    types = [sent["tasks"][0]["type"] for sent in orchestrator.requests["tasks.submit_many"]]
    assert types == ["first", "second"]


async def test_an_answer_that_does_not_fit_what_was_asked_leaves_the_outcome_unknown(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    orchestrator.on("tasks.submit_many", {"results": [SUBMITTED]})
    answers = await asyncio.gather(*(client.submit("one", timeout_s=0.1) for _ in range(2)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [OutcomeUnknownError] * 2


async def test_submits_go_together_while_one_is_under_way(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    def results(request: dict[str, Any]) -> dict[str, Any]:
        return {"results": [SUBMITTED] * len(request["tasks"])}

    orchestrator.on("tasks.submit", SILENCE, SUBMITTED).on("tasks.submit_many", results)
    first = asyncio.create_task(client.submit("first"))
    await orchestrator.arrived["tasks.submit"].wait()
    others = [asyncio.create_task(client.submit("other"))]
    await asyncio.sleep(0)  # a turn of the loop: what comes in another one goes together all the same
    others.append(asyncio.create_task(client.submit("other")))
    await asyncio.gather(*others)
    assert [len(sent["tasks"]) for sent in orchestrator.requests["tasks.submit_many"]] == [2]
    assert (await first).task_id == TASK_ID


async def test_who_answers_late_is_asked_less_often(nats_server: EmbeddedNats, client: Client) -> None:
    """The first request is answered when the second has come: it was not lost, but slow."""
    replies: list[str] = []

    def answer(message: BusMessage) -> None:
        replies.append(message.reply)
        if len(replies) > 1:
            bus.send(replies[0] if len(replies) == 2 else message.reply, json.dumps(task("running")).encode())

    async with await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus:
        await bus.subscribe(Subjects().tasks("get"), answer)
        await bus.flush()
        await client.get(TASK_ID)
        assert client._patience.pause_s == 2 * FIRST_PAUSE_S
        await client.get(TASK_ID)
        assert len(replies) == 3
    assert FIRST_PAUSE_S < client._patience.pause_s < 2 * FIRST_PAUSE_S


async def test_an_error_that_stays_is_raised_at_once_with_its_context(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    orchestrator.on("tasks.submit", KeyConflictError("key 'a' belongs to another task", task_id=TASK_ID))
    with pytest.raises(KeyConflictError, match="key 'a' belongs") as caught:
        await client.submit("review", key="a")
    assert caught.value.details == {"task_id": TASK_ID}
    assert len(orchestrator.requests["tasks.submit"]) == 1


async def test_the_last_error_is_raised_when_the_time_is_over(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    orchestrator.on("tasks.get", InternalError("a bug"), UnavailableError("the database is away"))
    with pytest.raises(UnavailableError, match="the database is away"):
        await client.get(TASK_ID, timeout_s=0.5)
    assert len(orchestrator.requests["tasks.get"]) >= 2


async def test_a_pause_that_does_not_fit_into_the_time_is_not_made(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    orchestrator.on("status", UnavailableError(retry_after_ms=60_000))
    async with asyncio.timeout(5):
        with pytest.raises(UnavailableError):
            await client.status(timeout_s=10)
    assert len(orchestrator.requests["status"]) == 1


async def test_silence_ends_as_outcome_unknown(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.cancel", SILENCE)
    with pytest.raises(OutcomeUnknownError):
        await client.cancel(TASK_ID, timeout_s=0.3)


async def test_without_an_orchestrator_a_request_is_unavailable(client: Client) -> None:
    with pytest.raises(UnavailableError):
        await client.get(TASK_ID, timeout_s=0.3)


async def test_a_request_survives_until_an_orchestrator_comes_up(nats_server: EmbeddedNats, client: Client) -> None:
    asking = asyncio.create_task(client.get(TASK_ID, timeout_s=30))
    async with ScriptedOrchestrator(nats_server.url).on("tasks.get", task()), asyncio.timeout(20):
        assert (await asking).task_id == TASK_ID


async def test_another_pool_and_prefix_are_other_subjects(nats_server: EmbeddedNats) -> None:
    async with (
        ScriptedOrchestrator(nats_server.url, pool="blue").on("tasks.get", task()) as orchestrator,
        Client.connect(nats_server.url, pool="blue") as blue,
        Client.connect(nats_server.url, pool="blue", prefix="other") as other,
    ):
        assert blue.pool == "blue"
        await blue.get(key="k")
        assert orchestrator.requests["tasks.get"] == [{"key": "k"}]
        with pytest.raises(UnavailableError):
            await other.get(key="k", timeout_s=0.2)


async def test_what_has_no_json_form_or_contradicts_itself_is_refused_before_it_is_sent(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    with pytest.raises(InvalidRequestError, match="payload: no JSON form"):
        await client.submit("review", object())
    with pytest.raises(InvalidRequestError, match="payload: no JSON form"):
        await client.submit("review", "\ud800")
    with pytest.raises(InvalidRequestError, match=r"payload: no JSON form: nan at `\$\.a\[0\]`"):
        await client.submit("review", {"a": [float("nan")]})
    with pytest.raises(InvalidRequestError, match="result: no JSON form: inf at"):
        await client.complete(TASK_ID, float("inf"))
    with pytest.raises(InvalidRequestError, match="not both"):
        await client.submit("review", ttl_ms=1, deadline=datetime(2030, 1, 1, tzinfo=UTC))
    with pytest.raises(InvalidRequestError, match="exactly one"):
        await client.get()
    with pytest.raises(TypeError, match="priorty"):
        await client.submit("review", priorty="high")  # type: ignore[call-arg]  # the mistake under test
    assert not orchestrator.requests


async def test_raw_payloads_and_results_go_as_they_are(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.submit", SUBMITTED)
    orchestrator.on("tasks.complete", {"task_id": TASK_ID, "state": "succeeded", "changed": True})
    await client.submit("review", msgspec.Raw(b'{"a":1.50}'))
    assert orchestrator.requests["tasks.submit"][0]["payload"] == {"a": 1.5}
    assert (await client.complete(TASK_ID, {"done": True})).changed
    assert orchestrator.requests["tasks.complete"] == [{"task_id": TASK_ID, "result": {"done": True}}]


async def test_list_pages_with_its_filters(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.list", {"tasks": [task()], "cursor": "next"})
    page = await client.list(state=TaskState.FAILED, type="review", agent_id="a", limit=1, cursor="here")
    assert (page.cursor, page.tasks[0].type) == ("next", "review")
    assert orchestrator.requests["tasks.list"] == [
        {"state": "failed", "type": "review", "agent_id": "a", "limit": 1, "cursor": "here"}
    ]


async def test_wait_asks_in_slices_until_the_task_is_final(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.wait", task("running"), UnavailableError(), task("succeeded", result={"n": 1}))
    done = await client.wait(TASK_ID)
    assert (done.state, done.result_value()) == (TaskState.SUCCEEDED, {"n": 1})
    assert orchestrator.requests["tasks.wait"] == [{"task_id": TASK_ID, "timeout_ms": 10_000}] * 3


async def test_wait_gives_the_task_as_it_stands_when_the_time_is_over(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    orchestrator.on("tasks.wait", task("running"))
    assert (await client.wait(TASK_ID, timeout_s=0.05)).state is TaskState.RUNNING
    assert all(sent["timeout_ms"] <= 50 for sent in orchestrator.requests["tasks.wait"])


async def test_wait_gives_the_task_as_it_stands_also_when_nobody_answered_a_moment_ago(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    orchestrator.on("tasks.wait", UnavailableError(), SILENCE, task("running"))
    assert (await client.wait(TASK_ID, timeout_s=0.5)).state is TaskState.RUNNING


async def test_who_waits_again_joins_the_request_that_is_open(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    """One that gave up leaves its slice open: another for the same task would be one more each time."""
    orchestrator.on("tasks.wait", SILENCE)
    for _ in range(5):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await client.wait(TASK_ID)
    assert len(orchestrator.requests["tasks.wait"]) == 1


async def test_wait_for_an_unknown_task_is_refused(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.wait", TaskNotFoundError())
    with pytest.raises(TaskNotFoundError):
        await client.wait(TASK_ID)


async def test_wait_with_a_limit_gives_up_when_nobody_answers(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    orchestrator.on("tasks.wait", UnavailableError())
    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError):
            await client.wait(TASK_ID, timeout_s=0.1)


async def test_run_is_submit_and_result(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.submit", SUBMITTED).on("tasks.wait", task("succeeded", result=[1, 2]))
    assert await client.run("review", {"x": 1}, priority=TaskPriority.LOW) == [1, 2]
    assert orchestrator.requests["tasks.submit"][0]["priority"] == "low"


async def test_run_raises_what_the_task_failed_of(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.submit", SUBMITTED).on("tasks.wait", task("failed", error={"message": "no such file"}))
    with pytest.raises(TaskFailedError, match=f"task {TASK_ID} failed: no such file") as caught:
        await client.run("review")
    assert caught.value.details == {"task_id": TASK_ID, "state": "failed", "error": "no such file"}


async def test_run_says_that_a_task_goes_on(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.submit", SUBMITTED).on("tasks.wait", task("running"))
    with pytest.raises(OutcomeUnknownError, match=r"is running after 0\.05 s; it goes on"):
        await client.run("review", timeout_s=0.05)


async def test_watch_shows_changes_at_their_events_and_ends_with_the_task(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    stages = {"now": task("queued", version=1)}
    orchestrator.on("tasks.get", lambda _request: stages["now"])
    seen = []
    async with asyncio.timeout(10), aclosing(client.watch(TASK_ID)) as changes:
        async for document in changes:
            seen.append(document.state)
            if document.state is TaskState.QUEUED:
                stages["now"] = task("running", version=2)
                await orchestrator.publish_event("running")
            elif document.state is TaskState.RUNNING:
                stages["now"] = task("succeeded", version=3)
                await orchestrator.publish_event("succeeded")
    assert seen == [TaskState.QUEUED, TaskState.RUNNING, TaskState.SUCCEEDED]


async def test_watch_shows_progress_that_has_no_event_and_hides_what_is_the_same(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    running = task("running", version=2)
    orchestrator.on("tasks.get", running, running, running | {"progress": {"percent": 40}}, task("failed", version=3))
    async with asyncio.timeout(20):
        seen = [(t.state, t.progress.percent if t.progress else None) async for t in client.watch(TASK_ID)]
    assert seen == [(TaskState.RUNNING, None), (TaskState.RUNNING, 40), (TaskState.FAILED, None)]


async def test_cancel_and_retry_say_what_changed(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    orchestrator.on("tasks.cancel", {"task_id": TASK_ID, "state": "cancelled", "changed": False})
    orchestrator.on("tasks.retry", InvalidTransitionError(state="succeeded"))
    assert not (await client.cancel(TASK_ID, reason="obsolete")).changed
    assert orchestrator.requests["tasks.cancel"] == [{"task_id": TASK_ID, "reason": "obsolete"}]
    with pytest.raises(InvalidTransitionError) as caught:
        await client.retry(TASK_ID)
    assert caught.value.details == {"state": "succeeded"}


async def test_spawn_names_the_agent_so_that_a_repetition_finds_it(
    orchestrator: ScriptedOrchestrator, client: Client
) -> None:
    orchestrator.on("agents.spawn", UnavailableError(), lambda sent: {"agent_id": sent["agent_id"], "state": "online"})
    answer = await client.spawn("tester", capabilities=["python"], labels={"gpu": True})
    first, second = orchestrator.requests["agents.spawn"]
    assert (
        first
        == second
        == {
            "role": "tester",
            "capabilities": ["python"],
            "labels": {"gpu": True},
            "agent_id": answer.agent_id,
        }
    )
    assert answer.agent_id.startswith("tester-")


async def test_agents_verbs(orchestrator: ScriptedOrchestrator, client: Client) -> None:
    changed = {"agent_id": "a", "state": "draining", "changed": True}
    for verb in ("drain", "resume", "shutdown"):
        orchestrator.on(f"agents.{verb}", changed)
    orchestrator.on("agents.list", {"agents": []}).on("agents.get", AgentNotFoundError())
    await client.drain("a", reason="maintenance")
    await client.resume("a")
    await client.shutdown_agent("a", grace_ms=500)
    assert (await client.agents(capability="lint", limit=5)).agents == []
    with pytest.raises(AgentNotFoundError):
        await client.agent("nobody")
    assert orchestrator.requests["agents.drain"] == [{"agent_id": "a", "reason": "maintenance"}]
    assert orchestrator.requests["agents.resume"] == [{"agent_id": "a"}]
    assert orchestrator.requests["agents.shutdown"] == [{"agent_id": "a", "grace_ms": 500}]
    assert orchestrator.requests["agents.list"] == [{"capability": "lint", "limit": 5}]


async def test_connecting_to_nothing_says_where_and_why() -> None:
    with pytest.raises(UnavailableError, match=r"NATS cannot be reached: .*127\.0\.0\.1:1\b"):
        async with Client.connect("nats://127.0.0.1:1", timeout_s=0.3):
            pass
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1\b"):
        async with Client.connect("nats://127.0.0.1:1", timeout_s=0):
            pass


async def test_a_time_out_ends_connecting_also_when_it_comes_with_a_failure() -> None:
    for n in range(1, 150):
        # Somewhere in this range connecting fails in the very turn of the loop in which the time is over.
        async with asyncio.timeout(10):
            with pytest.raises(UnavailableError):
                async with Client.connect("nats://127.0.0.1:1", timeout_s=n * 20e-6):
                    pass
