"""Tasks to agents of the Synadia Agent Protocol: real servers, and hand-written agents that behave well and badly."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.agent_side import AgentSide
from tests.support.memory_pool import memory_pool
from tests.support.synadia_peer import Caller, Peer, echo

from callboard.agents.synadia.fleet import SynadiaFleet
from callboard.bus.client import Client
from callboard.schemas.vocabulary import AgentState, Outcome, TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from callboard.bus.embedded import EmbeddedNats
    from callboard.schemas.agents import AgentDocument
    from callboard.schemas.tasks import TaskDocument

pytestmark = pytest.mark.anyio

WITHIN_S = 20.0
SOON_S = 1.0
"""How long an agent may be silent here."""


@pytest.fixture(scope="module")
async def url(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:  # noqa: ARG001 - orders the loop
    async with memory_pool(tmp_path_factory.mktemp("nats")) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    async with Client.connect(url) as client:
        yield client


@asynccontextmanager
async def dispatching(url: str, **options: Any) -> AsyncIterator[SynadiaFleet]:  # noqa: ANN401 - any option
    fleet = SynadiaFleet(**{"idle_s": SOON_S, **options})
    await fleet.start(url)
    try:
        yield fleet
    finally:
        await fleet.stop()


async def agent_is(client: Client, peer: Peer, state: AgentState = AgentState.ONLINE) -> AgentDocument:
    def is_it(agent: AgentDocument) -> bool:
        return (agent.metadata or {}).get("subject") == peer.subject and agent.state is state

    return await seen(client, is_it)


async def seen(client: Client, holds: Callable[[AgentDocument], bool]) -> AgentDocument:
    """The agent of which it is true, once it is."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            for agent in (await client.agents()).agents:
                if holds(agent):
                    return agent
            await pause()


async def until(holds: Callable[[], bool]) -> None:
    """Until it is true, of what nobody tells."""
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await pause()


async def pause(seconds: float = 0.02) -> None:
    await asyncio.sleep(seconds)  # between two looks, or as long as somebody is to be silent


async def run(client: Client, payload: object = "hello", **options: Any) -> TaskDocument:  # noqa: ANN401 - any option
    task_id = (await client.submit("ask", payload, capabilities=["hand"], **options)).task_id
    return await client.wait(task_id, timeout_s=WITHIN_S)


async def failure(url: str, client: Client, behaviour: Any, **options: Any) -> TaskDocument:  # noqa: ANN401 - as above
    async with Peer(url, behaviour) as peer, dispatching(url):
        await agent_is(client, peer)
        return await run(client, max_attempts=1, **options)


def outcomes(task: TaskDocument) -> list[Outcome | None]:
    return [attempt.outcome for attempt in task.attempts or ()]


async def test_an_agent_is_found_and_prompted(url: str, client: Client) -> None:
    async with Peer(url, name="one", capabilities="python,sql") as peer, dispatching(url):
        agent = await agent_is(client, peer)
        assert agent.agent_id == "synadia-hand-tests-one"
        assert agent.capabilities == ["hand", "python", "sql", "synadia"]
        assert (agent.slots, agent.version) == (1, "1.2.3")
        assert agent.labels.items() >= {"agent": "hand", "owner": "tests", "name": "one"}.items()
        task = await run(client, "hello")
        assert (task.state, task.result_value()) == (TaskState.SUCCEEDED, {"text": "echo: hello"})
        assert task.progress is not None
        [caller] = peer.prompts
        assert caller.envelope == {"prompt": "hello"}
    await seen(client, lambda agent: agent.state is AgentState.STOPPED)


async def test_it_is_found_whoever_comes_first(url: str, client: Client) -> None:
    async with dispatching(url), Peer(url, name="later") as peer:
        assert (await agent_is(client, peer)).agent_id == "synadia-hand-tests-later"
        assert (await run(client)).state is TaskState.SUCCEEDED


@pytest.mark.parametrize(
    ("payload", "description", "prompt"),
    [
        ("hi", "ignored", "hi"),
        ({"prompt": "hi", "more": [1]}, None, "hi"),
        ({"file": "a.py"}, "Read it.", 'Read it.\n\n{"file":"a.py"}'),
        (None, "Read it.", "Read it."),
        ({"file": "a.py"}, None, '{"file":"a.py"}'),
        ("{not json", None, "{not json"),
    ],
)
async def test_a_task_becomes_a_prompt(
    url: str, client: Client, payload: object, description: str | None, prompt: str
) -> None:
    async with Peer(url) as peer, dispatching(url):
        await agent_is(client, peer)
        task = await run(client, payload, description=description)
        assert task.result_value() == {"text": f"echo: {prompt}"}
        if isinstance(payload, dict) and "more" in payload:
            assert peer.prompts[0].envelope == payload


async def test_attachments_go_both_ways(url: str, client: Client) -> None:
    file = {"filename": "a.txt", "content": "aGk="}

    async def back(caller: Caller) -> None:
        caller.ack()
        caller.chunk("response", {"text": "here", "attachments": caller.envelope["attachments"], "later": 1})
        caller.end()

    async with Peer(url, back) as peer, dispatching(url):
        await agent_is(client, peer)
        task = await run(client, {"prompt": "back", "attachments": [file]})
        assert task.result_value() == {"text": "here", "attachments": [file]}


async def test_what_an_agent_does_not_take_is_not_sent(url: str, client: Client) -> None:
    async with Peer(url, endpoint={"max_payload": "64B", "attachments_ok": False}) as peer, dispatching(url):
        await agent_is(client, peer)
        for payload, kind in (
            ("x" * 100, "prompt_too_large"),
            ({"prompt": "a", "attachments": [{"filename": "a", "content": ""}]}, "attachments_refused"),
            ("  ", "no_prompt"),
        ):
            task = await run(client, payload)
            assert task.error is not None
            assert (task.state, task.error.type, task.error.retryable) == (TaskState.FAILED, kind, False)
        assert peer.prompts == []


async def test_a_question_waits_for_its_answer_longer_than_an_agent_may_be_silent(url: str, client: Client) -> None:
    async def ask(caller: Caller) -> None:
        caller.ack()
        first = await caller.ask("delete 200 files?")
        second = await caller.ask("really?")
        caller.say(f"{first.decode()} {second.decode()}")
        caller.end()

    async with Peer(url, ask) as peer, dispatching(url):
        await agent_is(client, peer)
        task_id = (await client.submit("ask", "do it", capabilities=["hand"], run_timeout_ms=60_000)).task_id
        task = await waiting(client, task_id)
        assert task.question is not None
        assert task.question.prompt == "delete 200 files?"
        await pause(2 * SOON_S)
        assert (await client.get(task_id)).state is TaskState.WAITING_INPUT
        await client.answer(task_id, "yes")
        await waiting(client, task_id, query=2)
        await client.answer(task_id, {"prompt": "yes", "attachments": []})
        task = await client.wait(task_id, timeout_s=WITHIN_S)
        assert task.result_value() == {"text": 'yes {"prompt":"yes","attachments":[]}'}


async def waiting(client: Client, task_id: str, query: int = 1) -> TaskDocument:
    async with asyncio.timeout(WITHIN_S):
        async for task in client.watch(task_id):
            if task.question is not None and task.question.query == query:
                return task
    raise AssertionError("it ended without a question")


async def test_questions_at_once_are_asked_one_after_the_other(url: str, client: Client) -> None:
    async def ask(caller: Caller) -> None:
        caller.ack()
        answers = await asyncio.gather(caller.ask("a?"), caller.ask("b?"))
        caller.say(b"".join(answers).decode())
        caller.end()

    async with Peer(url, ask) as peer, dispatching(url):
        await agent_is(client, peer)
        task_id = (await client.submit("ask", "do it", capabilities=["hand"])).task_id
        for query, prompt in ((1, "a?"), (2, "b?")):
            question = (await waiting(client, task_id, query)).question
            assert question is not None
            assert question.prompt == prompt
            await client.answer(task_id, prompt.upper())
        task = await client.wait(task_id, timeout_s=WITHIN_S)
        assert task.result_value() == {"text": "A?B?"}


async def test_an_agent_may_go_on_without_an_answer(url: str, client: Client) -> None:
    async def impatient(caller: Caller) -> None:
        caller.ack()
        caller.chunk("query", {"id": "q", "reply_subject": caller.peer.bus.new_inbox(), "prompt": "anybody?"})
        caller.say("never mind")
        caller.end()

    async with Peer(url, impatient) as peer, dispatching(url):
        await agent_is(client, peer)
        assert (await run(client)).result_value() == {"text": "never mind"}


@pytest.mark.parametrize(
    ("code", "body", "retryable", "kind", "message"),
    [
        (400, None, False, "error_400", "bad"),
        (403, {"error": "forbidden", "message": "not you"}, False, "forbidden", "not you"),
        (409, {"error": "busy"}, True, "busy", "bad"),
        (500, {"unknown": 1}, True, "error_500", "bad"),
    ],
)
async def test_errors_fail_the_attempt_by_their_code(  # noqa: PLR0917 - the parts of an error
    url: str, client: Client, code: int, body: dict[str, Any] | None, retryable: bool, kind: str, message: str
) -> None:
    async def refuse(caller: Caller) -> None:
        caller.ack()
        caller.say("so far")
        caller.fail(code, "bad", body)

    task = await failure(url, client, refuse)
    assert task.error is not None
    assert (task.state, task.error.type, task.error.message) == (TaskState.FAILED, kind, message)
    assert task.error.retryable is retryable


async def test_a_rate_limit_is_waited_for(url: str, client: Client) -> None:
    async def limited(caller: Caller) -> None:
        if len(caller.peer.prompts) == 1:
            caller.fail(429, "slow down", {"error": "rate_limited", "retry_after_s": 0.7})
        else:
            await echo(caller)

    async with Peer(url, limited) as peer, dispatching(url):
        await agent_is(client, peer)
        task = await run(client)
        assert outcomes(task) == [Outcome.FAILED, Outcome.SUCCEEDED]
        assert task.attempts is not None
        first, second = task.attempts
        assert first.ended_at is not None
        assert (second.started_at - first.ended_at).total_seconds() >= 0.7
        assert first.error is not None
        assert (first.error.type, first.error.retry_after_ms) == ("rate_limited", 700)


@pytest.mark.parametrize(
    "data",
    [b"plain text", b"{", b"[]", b'{"data": 1}', b'{"type": 1}', b'{"type": "response", "data": 1}', b"\xff",
     b'{"type": "query", "data": {"id": "q"}}', b'{"type": "status", "data": null}', b"[" * 100_000,
     b'{"type": "response", "data": {"text": "a", "attachments": [{"filename": 1}]}}'],
)  # fmt: skip
async def test_what_is_no_chunk_fails_the_attempt(url: str, client: Client, data: bytes) -> None:
    async def babble(caller: Caller) -> None:
        caller.ack()
        caller.raw(data)

    task = await failure(url, client, babble)
    assert task.error is not None
    assert (task.state, task.error.type) == (TaskState.FAILED, "protocol_error")


async def test_what_is_not_known_is_ignored(url: str, client: Client) -> None:
    async def modern(caller: Caller) -> None:
        caller.chunk("status", "warming up")
        caller.chunk("hologram", {"x": 1})
        caller.raw(b'{"type": "response", "data": "ok", "sequence": 7}', {"Trace": "1"})
        caller.raw(b"", {"Trace": "1"})  # not the terminator: it has headers
        caller.say("!")
        caller.end()
        caller.say("after the end")

    async with Peer(url, modern) as peer, dispatching(url):
        await agent_is(client, peer)
        assert (await run(client)).result_value() == {"text": "ok!"}


async def test_an_answer_is_wanted_in_an_inbox_only(url: str, client: Client) -> None:
    async def sly(caller: Caller) -> None:
        caller.ack()
        await caller.ask("where?", reply_subject="callboard.v1.default.pool.pause")

    task = await failure(url, client, sly)
    assert task.error is not None
    assert (task.error.type, task.error.retryable) == ("protocol_error", False)


async def test_silence_and_a_lost_terminator_end_the_attempt(url: str, client: Client) -> None:
    async def vanish(caller: Caller) -> None:
        caller.ack()
        caller.say("all done")

    task = await failure(url, client, vanish)
    assert task.error is not None
    assert (task.state, task.error.type, task.error.message) == (
        TaskState.FAILED, "silent", f"the agent said nothing for {SOON_S:g} s",
    )  # fmt: skip


async def test_signs_of_life_keep_it_going(url: str, client: Client) -> None:
    async def slow(caller: Caller) -> None:
        for _ in range(5):
            caller.ack()
            await pause(SOON_S / 2)  # in sum longer than it may be silent
        await echo(caller)

    async with Peer(url, slow) as peer, dispatching(url):
        await agent_is(client, peer)
        task = await run(client, progress_timeout_ms=1_000)
        assert outcomes(task) == [Outcome.SUCCEEDED]


async def test_a_huge_answer_is_refused(url: str, client: Client) -> None:
    async def flood(caller: Caller) -> None:
        caller.ack()
        for _ in range(4):
            caller.say("x" * 100_000)
        caller.end()

    task = await failure(url, client, flood)
    assert task.error is not None
    assert (task.state, task.error.type) == (TaskState.FAILED, "result_refused")


async def test_an_agent_that_dies_idle_leaves(url: str, client: Client) -> None:
    async with Peer(url) as peer, dispatching(url):
        await agent_is(client, peer)
        await peer.die()
        await agent_is(client, peer, AgentState.STOPPED)


async def test_an_agent_that_dies_at_work_has_crashed(url: str, client: Client) -> None:
    async def hang(caller: Caller) -> None:
        caller.ack()

    async with Peer(url, hang) as peer, dispatching(url, idle_s=WITHIN_S):
        await agent_is(client, peer)
        task_id = (await client.submit("ask", "x", capabilities=["hand"], max_attempts=1)).task_id
        await peer.prompted()
        await peer.die()
        task = await client.wait(task_id, timeout_s=WITHIN_S)
        assert (task.state, outcomes(task)) == (TaskState.FAILED, [Outcome.CRASHED])


async def test_one_that_answers_though_its_heartbeats_stopped_is_kept(url: str, client: Client) -> None:
    async with Peer(url) as peer, dispatching(url) as fleet:
        await agent_is(client, peer)
        await peer.stop_beating()
        before = fleet._roster.next_due_ms()
        await until(lambda: fleet._roster.next_due_ms() != before)
        assert (await run(client)).state is TaskState.SUCCEEDED


async def test_one_that_was_restarted_begins_anew(url: str, client: Client) -> None:
    async def hang(caller: Caller) -> None:
        caller.ack()

    async with Peer(url, hang, name="again", interval_s=30) as old, dispatching(url, idle_s=WITHIN_S):
        agent = await agent_is(client, old)
        task_id = (await client.submit("ask", "x", capabilities=["hand"])).task_id
        await old.prompted()
        await old.die()
        async with Peer(url, name="again") as new:
            task = await client.wait(task_id, timeout_s=WITHIN_S)
            assert outcomes(task) == [Outcome.CRASHED, Outcome.SUCCEEDED]
            assert len(new.prompts) == 1
            again = await agent_is(client, new)
            assert again.agent_id == agent.agent_id
            assert again.incarnation != agent.incarnation


async def test_a_prompt_that_reaches_nobody_costs_nothing(url: str, client: Client) -> None:
    async with Peer(url, interval_s=30) as gone, dispatching(url):
        await agent_is(client, gone)
        await gone.die()
        task_id = (await client.submit("ask", "x", capabilities=["hand"], max_attempts=1)).task_id
        await agent_is(client, gone, AgentState.STOPPED)
        assert (await client.get(task_id)).state is TaskState.QUEUED
        async with Peer(url):
            task = await client.wait(task_id, timeout_s=WITHIN_S)
            assert outcomes(task) == [Outcome.RELEASED, Outcome.SUCCEEDED]


async def test_two_instances_of_one_agent_are_one_agent(url: str, client: Client) -> None:
    async with Peer(url, name="both") as one, Peer(url, name="both") as two, dispatching(url) as fleet:
        await agent_is(client, one)
        await until(lambda: fleet._roster.knows(one.id) and fleet._roster.knows(two.id))
        incarnation = (await agent_is(client, one)).incarnation
        # Who was found by discovery says only with its next heartbeat how often it beats: till then it is 30 s.
        await until(lambda: fleet._roster._instances[two.id].interval_ms == two.interval_s * 1000)
        await two.die()
        await until(lambda: not fleet._roster.knows(two.id))
        assert (await agent_is(client, one)).incarnation == incarnation


@pytest.mark.parametrize(
    ("why", "options"),
    [
        ("version", {"protocol_version": "0.2"}),
        ("no version", {"protocol_version": None}),
        ("no owner", {"owner": None}),
        ("a pool", {"agent": "callboard"}),
        ("signed prompts", {"endpoint": {"min_sender_trust": "signed"}}),
        ("not chosen", {"team": "red"}),
    ],
)
async def test_who_is_no_agent_for_us_is_left_alone(
    url: str, client: Client, why: str, options: dict[str, Any]
) -> None:
    async with (
        Peer(url, **{"team": "blue", **options}) as unfit,
        Peer(url, team="blue") as fit,
        dispatching(url, only={"team": "blue"}) as fleet,
    ):
        await agent_is(client, fit)
        await until(lambda: unfit.id in fleet._unfit)
        assert list(fleet.agents.values()) == [fit.subject], why


async def test_bad_heartbeats_change_nothing(url: str, client: Client) -> None:
    async with Peer(url) as peer, dispatching(url) as fleet:
        await agent_is(client, peer)
        for data in (b"", b"x", b"[]", b"{}", b'{"agent": 1}'):
            peer.bus.send("agents.hb.a.b.c", data)
        for fields in ({"interval_s": 0}, {"interval_s": -1}, {"interval_s": "30"}, {"instance_id": ""},
                       {"instance_id": "a.b"}, {"instance_id": "unknown"}):  # fmt: skip
            peer.beat(**fields)
        await peer.bus.flush()
        assert (await run(client)).state is TaskState.SUCCEEDED
        assert list(fleet.agents.values()) == [peer.subject]


async def test_after_a_cancel_the_agent_is_busy_until_it_is_done(url: str, client: Client) -> None:
    async def hang(caller: Caller) -> None:
        caller.ack()
        if len(caller.peer.prompts) > 1:
            await echo(caller)

    async with Peer(url, hang) as peer, dispatching(url, idle_s=WITHIN_S):
        agent = await agent_is(client, peer)
        task_id = (await client.submit("ask", "x", capabilities=["hand"])).task_id
        caller = await peer.prompted()
        await client.cancel(task_id)
        await seen(client, lambda each: each.agent_id == agent.agent_id and each.slots_used == 0)
        next_id = (await client.submit("ask", "y", capabilities=["hand"])).task_id
        await pause(0.3)  # in which it would have been prompted
        assert len(peer.prompts) == 1
        caller.say("too late")
        caller.end()
        task = await client.wait(next_id, timeout_s=WITHIN_S)
        assert (task.state, task.result_value()) == (TaskState.SUCCEEDED, {"text": "echo: y"})
        assert (await client.get(task_id)).state is TaskState.CANCELLED


async def test_a_duplicate_assignment_prompts_once(nats_server: EmbeddedNats) -> None:
    async with (
        AgentSide(nats_server.url, "synadia-hand-tests-twice") as side,
        Peer(nats_server.url, name="twice") as peer,
        dispatching(nats_server.url, only={"session": "twice"}),
    ):
        assert (await side.seen("register"))["capabilities"] == ["synadia", "hand"]
        which = await side.accepted("work", "hello")
        assert await side.offer_again(which, "work", "hello") == {"accepted": True}
        assert (await side.seen("complete"))["result"] == {"text": "echo: hello"}
        assert await side.offer_again(which, "work", "hello") == {"accepted": True}
        assert len(peer.prompts) == 1


async def test_many_slots_run_many_tasks_at_once(url: str, client: Client) -> None:
    together = asyncio.Barrier(3)

    async def meet(caller: Caller) -> None:
        caller.ack()
        await together.wait()
        await echo(caller)

    async with Peer(url, meet) as peer, dispatching(url, slots=3, capabilities=["extra"]):
        assert (await agent_is(client, peer)).capabilities == ["extra", "hand", "synadia"]
        found = await asyncio.gather(*(run(client, str(number)) for number in range(3)))
        assert [json.dumps(task.result_value()) for task in found] == [
            json.dumps({"text": f"echo: {number}"}) for number in range(3)
        ]


async def test_a_drain_lets_it_finish(url: str, client: Client) -> None:
    gate = asyncio.Event()

    async def wait(caller: Caller) -> None:
        caller.ack()
        await gate.wait()
        await echo(caller)

    async with Peer(url, wait) as peer, dispatching(url, idle_s=WITHIN_S) as fleet:
        await agent_is(client, peer)
        task_id = (await client.submit("ask", "x", capabilities=["hand"])).task_id
        await peer.prompted()
        draining = asyncio.create_task(fleet.drain())
        await agent_is(client, peer, AgentState.DRAINING)
        async with Peer(url, echo, name="late") as late:
            await until(lambda: fleet._roster.knows(late.id))
            gate.set()
            await draining
            assert list(fleet.agents.values()) in ([], [peer.subject])
        task = await client.get(task_id)
        assert (task.state, outcomes(task)) == (TaskState.SUCCEEDED, [Outcome.SUCCEEDED])
        await agent_is(client, peer, AgentState.STOPPED)


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`callboard` in a process of its own."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "callboard.cli", *arguments, stderr=pipe)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_command_dispatches_until_it_is_told_to_end(url: str, client: Client) -> None:
    async with Peer(url) as peer, command("agent", "synadia", "--nats-url", url, "--slots", "2") as process:
        assert (await agent_is(client, peer)).slots == 2
        assert (await run(client)).state is TaskState.SUCCEEDED
        process.terminate()
        async with asyncio.timeout(WITHIN_S):
            assert await process.wait() == 0
        await agent_is(client, peer, AgentState.STOPPED)


async def test_the_command_ends_though_nats_is_away() -> None:
    async with command("agent", "synadia", "--nats-url", "nats://127.0.0.1:9") as process:
        assert process.stderr is not None
        async with asyncio.timeout(WITHIN_S):
            while b"failed" not in await process.stderr.readline():
                continue
            process.terminate()
            assert await process.wait() == 0
