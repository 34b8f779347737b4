"""What the protocol asks of an agent, asked of one in every language that we show, over NATS alone."""

from __future__ import annotations

import asyncio
import signal
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from tests.polyglot.agent_rig import Rig, rigged
from tests.polyglot.languages import LANGUAGES, Language

from callboard.bus.embedded import EmbeddedNats
from callboard.schemas.errors import (
    IncarnationReplacedError,
    PayloadTooLargeError,
    StaleAttemptError,
    UnavailableError,
    UnknownIncarnationError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Start = Callable[..., AbstractAsyncContextManager[Rig]]

pytestmark = pytest.mark.anyio

LONG = {"ms": 120_000}


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> Language:
    language = LANGUAGES[request.param]
    if reason := language.exceptions.get(request.function.__name__):
        pytest.skip(f"{request.param}: {reason}")
    return language


@pytest.fixture
def start(language: Language, nats_server: EmbeddedNats, tmp_path: Path) -> Start:
    def start(**options: Any) -> AbstractAsyncContextManager[Rig]:  # noqa: ANN401 - passed on
        return rigged(nats_server.url, f"agent-{uuid.uuid4().hex[:12]}", tmp_path / "agent.log", language, **options)

    return start


@pytest.fixture
async def rig(start: Start) -> AsyncIterator[Rig]:
    """An agent with one slot."""
    async with start() as rig:
        yield rig


def ref(task_id: str) -> dict[str, Any]:
    return {"task_id": task_id, "attempt": 1}


async def test_it_signs_in_and_beats(start: Start) -> None:
    async with start(slots=3) as rig:
        register = await rig.seen("register")
        assert register["slots"] == 3
        assert register["running"] == []
        beats = [await rig.seen("heartbeat", count) for count in (1, 2, 3)]
        assert [beat["seq"] for beat in beats] == sorted({beat["seq"] for beat in beats})
        assert {beat["incarnation"] for beat in beats} == {register["incarnation"]}
        assert [beat["running"] for beat in beats] == [[], [], []]
        assert len(rig.requests["register"]) == 1


async def test_one_of_several_servers_is_enough(start: Start, nats_server: EmbeddedNats) -> None:
    async with start(nats_url=f"nats://127.0.0.1:1,{nats_server.url}") as rig:
        await rig.seen("heartbeat")


async def test_it_runs_a_task_and_lists_it_until_it_is_recorded(rig: Rig) -> None:
    payload = {"text": 'ü"\\\n{{}} $(x) `y` 😀', "list": [1, 2.5, None, True], "big": 9007199254740991}
    which = await rig.accepted("echo", payload)
    complete = await rig.seen("complete")
    assert (complete["task_id"], complete["attempt"]) == (which, 1)
    assert complete["result"] == {"echo": payload}
    assert complete["incarnation"] == rig.requests["register"][0]["incarnation"]
    which = await rig.accepted("sleep", rig.intervals(4))
    assert (await rig.beats())["running"] == [ref(which)]
    assert (await rig.seen("complete", 2))["result"] == {"slept_ms": 4 * rig.interval_ms}
    await rig.beats_until([])


async def test_it_takes_a_large_payload(rig: Rig) -> None:
    payload = "x" * 200_000
    await rig.accepted("echo", payload)
    assert (await rig.seen("complete"))["result"] == {"echo": payload}


async def test_it_refuses_what_it_cannot_take(start: Start) -> None:
    async with start(slots=2) as rig:
        _, unsupported = await rig.offer("never-heard-of")
        assert (unsupported["accepted"], unsupported["reason"]) == (False, "unsupported")
        held = [await rig.accepted("sleep", LONG) for _ in range(2)]
        _, busy = await rig.offer("sleep", LONG)
        assert (busy["accepted"], busy["reason"]) == (False, "busy")
        await rig.beats_until([ref(which) for which in held])
    assert not rig.requests["complete"]


async def test_it_reports_progress(rig: Rig) -> None:
    which = await rig.accepted("sleep", {"ms": 300})
    progress = await rig.seen("progress")
    assert (progress["task_id"], progress["percent"], progress["message"]) == (which, 50, "half-way")
    await rig.seen("complete")


async def test_it_reports_a_failure(rig: Rig) -> None:
    which = await rig.accepted("fail", "out of paper")
    fail = await rig.seen("fail")
    assert (fail["task_id"], fail["error"]["message"]) == (which, "out of paper")
    await rig.beats_until([])
    assert not rig.requests["complete"]


async def test_the_same_offer_runs_once_and_is_answered_the_same(rig: Rig) -> None:
    payload = rig.intervals(2)
    which = await rig.accepted("sleep", payload)
    for _ in range(3):
        assert await rig.offer_again(which, "sleep", payload) == {"accepted": True}
    await rig.seen("complete")
    assert await rig.offer_again(which, "sleep", payload) == {"accepted": True}
    await rig.beats(3)
    assert len(rig.requests["complete"]) == 1


@pytest.mark.parametrize("by", ["order", "heartbeat"])
async def test_it_honours_cancel(rig: Rig, by: str) -> None:
    which = await rig.accepted("sleep", LONG)
    if by == "order":
        assert await rig.tell("cancel", **ref(which)) == {}
    else:
        rig.answers["heartbeat"] = lambda _: rig.pulse(cancel=[ref(which)])
    await rig.beats_until([])
    rig.answers["heartbeat"] = lambda _: rig.pulse()
    assert (await rig.offer_again(which, "sleep", LONG))["accepted"] is False
    await rig.accepted("echo", "the slot is free")
    assert (await rig.seen("complete"))["result"] == {"echo": "the slot is free"}
    assert not rig.requests["fail"]


async def test_it_honours_drain_until_it_is_resumed(start: Start) -> None:
    async with start(slots=2) as rig:
        which = await rig.accepted("sleep", rig.intervals(4))
        rig.answers["heartbeat"] = lambda _: rig.pulse(drain=True)
        await rig.beats(1)  # an answer from before may not be read by all of the agent's processes
        assert await rig.tell("drain") == {}
        _, declined = await rig.offer("echo")
        assert (declined["accepted"], declined["reason"]) == (False, "draining")
        assert (await rig.seen("complete"))["task_id"] == which
        await rig.beats(2)
        rig.answers["heartbeat"] = lambda _: rig.pulse()
        await rig.beats(2)
        await rig.accepted("echo", "resumed")
        await rig.seen("complete", 2)


async def test_a_shutdown_finishes_what_runs_and_leaves(rig: Rig) -> None:
    which = await rig.accepted("sleep", rig.intervals(2))
    assert await rig.tell("shutdown", grace_ms=20_000) == {}
    assert (await rig.seen("complete"))["task_id"] == which
    await rig.seen("leave")
    assert await rig.ended() == 0
    assert len(rig.requests["leave"]) == 1


async def test_a_shutdown_gives_up_what_outlasts_its_grace(rig: Rig) -> None:
    await rig.accepted("sleep", LONG)
    assert await rig.tell("shutdown", grace_ms=300) == {}
    await rig.seen("leave")
    assert await rig.ended() == 0
    assert not rig.requests["complete"]
    assert not rig.requests["fail"]


async def test_sigterm_finishes_what_runs_and_leaves(rig: Rig) -> None:
    await rig.accepted("sleep", rig.intervals(3))
    rig.process.send_signal(signal.SIGTERM)
    await rig.seen("complete")
    await rig.seen("leave")
    assert await rig.ended() == 0


async def test_a_report_is_repeated_until_it_is_recorded(rig: Rig) -> None:
    answers = iter([UnavailableError(), None, UnknownIncarnationError(), UnavailableError(), {"recorded": True}])
    rig.answers["complete"] = lambda _: next(answers)
    which = await rig.accepted("echo", "kept")
    await rig.seen("complete", 5)
    again = await rig.seen("register", 2)
    assert again["running"] == [ref(which)], "known by then"
    assert again["incarnation"] == rig.requests["register"][0]["incarnation"]
    assert [complete["result"] for complete in rig.requests["complete"]] == [{"echo": "kept"}] * 5
    await rig.beats_until([])
    assert len(rig.requests["complete"]) == 5


async def test_a_report_that_is_refused_for_good_is_dropped(rig: Rig) -> None:
    rig.answers["complete"] = lambda _: StaleAttemptError()
    await rig.accepted("echo")
    await rig.seen("complete")
    await rig.beats_until([])
    await rig.beats()
    assert len(rig.requests["complete"]) == 1
    assert not rig.requests["fail"]


async def test_a_result_that_is_refused_fails_the_attempt(rig: Rig) -> None:
    rig.answers["complete"] = lambda _: PayloadTooLargeError()
    await rig.accepted("echo")
    fail = await rig.seen("fail")
    assert (fail["error"]["type"], fail["error"]["retryable"]) == ("result_refused", False)
    await rig.beats_until([])


async def test_an_owner_that_is_no_more_is_not_obeyed(rig: Rig) -> None:
    rig.epoch = 7
    await rig.beats()
    await rig.unheard("shutdown", epoch=6, grace_ms=0)
    await rig.accepted("echo", "still here")
    await rig.seen("complete")


async def test_what_is_not_understood_harms_nothing(rig: Rig) -> None:
    to = f"callboard.v1.default.to.{rig.agent_id}"
    for data in (b"\xff", b"[", b"{}", b"null", b'{"epoch": "1"}'):
        for verb in ("assign", "cancel", "drain", "shutdown", "verb-of-tomorrow"):
            rig.bus.send(f"{to}.{verb}", data, reply="_INBOX.nowhere")
    await rig.accepted("echo", "fine")
    assert (await rig.seen("complete"))["result"] == {"echo": "fine"}


async def test_an_agent_that_nobody_knows_registers_with_what_it_holds(rig: Rig) -> None:
    """What an agent sees of an orchestrator that was restarted."""
    which = await rig.accepted("sleep", rig.intervals(6))
    unknown = iter([UnknownIncarnationError()])
    rig.answers["heartbeat"] = lambda _: next(unknown, rig.pulse())
    assert (await rig.more("register"))["running"] == [ref(which)]
    assert (await rig.seen("complete"))["task_id"] == which


async def test_without_answers_it_holds_its_result_and_takes_nothing_new(start: Start) -> None:
    async with start(slots=2) as rig:
        which = await rig.accepted("sleep", rig.intervals(7))
        rig.answers["heartbeat"] = lambda _: None
        rig.answers["register"] = lambda _: UnavailableError()
        await rig.more("register")
        _, declined = await rig.offer("echo")
        assert declined["accepted"] is False
        await rig.more("register", 2)
        assert not rig.requests["complete"]
        rig.answers["heartbeat"] = lambda _: rig.pulse()
        rig.answers["register"] = lambda _: rig.welcome()
        assert (await rig.seen("complete"))["task_id"] == which
        assert rig.requests["register"][-1]["running"] == [ref(which)]
        await rig.accepted("echo", "back")


async def test_a_newer_process_ends_this_one(rig: Rig) -> None:
    await rig.accepted("sleep", LONG)
    rig.answers["heartbeat"] = lambda _: IncarnationReplacedError()
    assert await rig.ended() != 0
    assert not rig.requests["leave"]


async def test_it_survives_a_restart_of_nats(language: Language, tmp_path: Path) -> None:
    async with (
        EmbeddedNats(tmp_path / "nats", token=None) as server,
        rigged(server.url, "rider", tmp_path / "agent.log", language) as rig,
    ):
        which = await rig.accepted("sleep", {"ms": 500})
        await server.stop()
        await asyncio.wait_for(server.start(), 20)
        assert (await rig.seen("complete"))["task_id"] == which
        await rig.beats_until([])
        await rig.accepted("echo", 2)
        assert (await rig.seen("complete", 2))["result"] == {"echo": 2}
