"""Questions of handlers: how a session sends them, and what a handler is given."""

import asyncio
from typing import Any

import msgspec
import pytest
from tests.support.session_rig import Rig, offer, ref, register_answer

from callboard.agents import TaskContext
from callboard.agents.questions import Questions
from callboard.agents.session import Phase
from callboard.agents.session import effects as do
from callboard.agents.session import events as ev
from callboard.agents.testing import run_handler
from callboard.schemas.errors import PayloadTooLargeError, UnavailableError, UnknownIncarnationError

pytestmark = pytest.mark.anyio

ONE, TWO = ref(1), ref(2)


def asking(rig: Rig | None = None) -> tuple[Rig, do.SendQuery]:
    """A session whose handler asks."""
    rig = (rig or Rig()).registered().holding(ONE)
    rig.tell(ev.QuestionAsked(ONE, 1, "really?", b'["yes"]'))
    return rig, rig.only(do.SendQuery)


def answered(rig: Rig, *, query: int = 1, epoch: int = 1) -> list[do.Effect]:
    return rig.tell(ev.AnswerArrived("reply", epoch, ONE, query, b'"yes"'))


# The session


def test_a_question_is_sent_at_once_and_given_its_answer() -> None:
    rig, sent = asking()
    assert (sent.ref, sent.query, sent.prompt, sent.data) == (ONE, 1, "really?", b'["yes"]')
    rig.tell(ev.QueryRecorded(ONE, sent.call))
    assert answered(rig) == [do.Acknowledge("reply"), do.GiveAnswer(ONE, 1, b'"yes"')]
    assert answered(rig) == [do.Acknowledge("reply")], "the first one counts"


def test_the_answer_may_come_first() -> None:
    rig, sent = asking()
    assert do.GiveAnswer(ONE, 1, b'"yes"') in answered(rig)
    rig.tell(ev.QueryRecorded(ONE, sent.call))
    rig.tell(ev.QueryUnanswered(ONE, sent.call))
    assert not rig.all(do.SendQuery)


@pytest.mark.parametrize("error", [None, UnavailableError(retry_after_ms=700)])
def test_it_is_repeated_until_it_is_recorded(error: UnavailableError | None) -> None:
    rig, sent = asking()
    before_ms = rig.now_ms
    event = ev.QueryUnanswered(ONE, sent.call) if error is None else ev.QueryRefused(ONE, sent.call, error.body())
    rig.tell(event)
    while not rig.all(do.SendQuery):
        rig.wait()
    again = rig.only(do.SendQuery)
    assert (again.query, again.prompt) == (1, "really?")
    assert again.call != sent.call
    assert rig.now_ms - before_ms >= (0 if error is None else 700)


def test_nobody_is_asked_again_after_it_was_recorded() -> None:
    rig, sent = asking()
    rig.tell(ev.QueryRecorded(ONE, sent.call))
    rig.tell(ev.Disconnected())
    rig.tell(ev.Reconnected())
    assert not rig.all(do.SendQuery)


def test_what_was_lost_with_the_connection_is_sent_again() -> None:
    rig, sent = asking()
    rig.tell(ev.Disconnected())
    rig.tell(ev.Reconnected())
    assert rig.only(do.SendQuery).call != sent.call


def test_who_is_not_known_registers_first() -> None:
    rig, sent = asking()
    rig.tell(ev.QueryRefused(ONE, sent.call, UnknownIncarnationError().body()))
    assert rig.session.phase is Phase.SIGNING_IN
    while not rig.all(do.SendRegister):
        rig.wait()
    register = rig.only(do.SendRegister)
    assert register.running == (ONE,)
    rig.tell(ev.Registered(register.call, register_answer()))
    assert rig.only(do.SendQuery).query == 1


def test_what_is_refused_for_good_is_told_to_the_handler() -> None:
    rig, sent = asking()
    error = PayloadTooLargeError("too large").body()
    rig.tell(ev.QueryRefused(ONE, sent.call, error))
    assert rig.only(do.GiveAnswer) == do.GiveAnswer(ONE, 1, error)


def test_answers_of_a_former_owner_are_not_taken() -> None:
    rig = Rig().registered(epoch=5).holding()
    rig.offered(ONE, epoch=5)
    rig.tell(ev.QuestionAsked(ONE, 1, "?"))
    assert answered(rig, epoch=4) == []
    assert do.GiveAnswer(ONE, 1, b'"yes"') in answered(rig, epoch=6)


def test_an_answer_to_nothing_is_acknowledged() -> None:
    rig = Rig().registered()
    assert answered(rig) == [do.Acknowledge("reply")]
    rig, _ = asking()
    assert answered(rig, query=7) == [do.Acknowledge("reply")]


@pytest.mark.parametrize(
    "end",
    [
        ev.HandlerSucceeded(ONE, b"1"),
        ev.CancelArrived("reply", 1, ONE),
        ev.StopRequested(),
    ],
    ids=lambda event: type(event).__name__,
)
def test_nothing_is_asked_of_an_attempt_that_is_over(end: ev.Event) -> None:
    rig, sent = asking()
    rig.tell(end)
    rig.tell(ev.QueryUnanswered(ONE, sent.call))
    assert rig.session._questions.next_due_ms() is None
    assert answered(rig)[:1] == [do.Acknowledge("reply")]
    assert not rig.all(do.GiveAnswer)
    rig.tell(ev.QuestionAsked(ONE, 2, "?"))
    assert not rig.all(do.SendQuery)


def test_whoever_is_abandoned_says_nothing() -> None:
    rig, _ = asking()
    effects = rig.tell(ev.AbandonRequested())
    assert do.CancelHandler(ONE) in effects
    assert rig.only(do.Exit) == do.Exit(do.ExitCause.ABANDONED)
    assert not rig.all(do.SendLeave)
    assert rig.session.phase is Phase.GONE


# The handler


async def test_a_handler_asks_and_is_answered() -> None:
    async def choose(ctx: TaskContext) -> Any:  # noqa: ANN401 - any JSON value
        return [await ctx.ask("a or b?", ["a", "b"]), await ctx.ask("why?")]

    run = await run_handler(choose, answers=["b", {"because": None}])
    assert (run.result, run.questions) == (["b", {"because": None}], ("a or b?", "why?"))


async def test_a_synchronous_handler_asks_and_is_answered() -> None:
    def choose(ctx: TaskContext) -> Any:  # noqa: ANN401 - any JSON value
        return ctx.ask_and_wait("a or b?")

    assert (await run_handler(choose, answers=["b"])).result == "b"


async def test_coroutines_take_turns() -> None:
    async def choose(ctx: TaskContext) -> Any:  # noqa: ANN401 - any JSON value
        return list(await asyncio.gather(ctx.ask("one"), ctx.ask("two"), ctx.ask("three")))

    run = await run_handler(choose, answers=[1, 2, 3])
    assert (run.result, run.questions) == ([1, 2, 3], ("one", "two", "three"))


async def test_a_handler_need_not_wait_for_ever() -> None:
    asked: list[str] = []
    context = TaskContext(offer(ONE), lambda _: None, lambda _query, prompt, _data: asked.append(prompt))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await context.ask("anybody?")
    context.answered(1, b"1")
    asyncio.get_running_loop().call_later(0.01, context.answered, 2, b"2")
    assert await context.ask("really nobody?") == 2
    assert asked == ["anybody?", "really nobody?"]


async def test_waiting_is_no_part_of_the_time_that_is_left() -> None:
    limited = msgspec.structs.replace(offer(ONE), run_timeout_ms=60_000)
    context = TaskContext(limited, lambda _: None, lambda query, *_: context.answered(query, b"1"))
    before_ms = context.remaining_ms
    assert before_ms is not None
    assert await context.ask("?") == 1
    assert context.deadline is not None
    assert (context.remaining_ms or 0) >= before_ms - 1_000


def test_an_answer_is_given_once_and_to_its_question() -> None:
    questions = Questions(lambda *_: None)
    first = questions.ask("one", None)
    questions.answered(2, b"2")
    assert not first.done()
    questions.answered(1, b"1")
    questions.answered(1, b"2")
    assert first.result() == b"1"
    second = questions.ask("two", None)
    with pytest.raises(RuntimeError, match="one at a time"):
        questions.ask("three", None)
    questions.cancel()
    questions.answered(2, b"2")
    assert second.cancelled()


def test_what_refuses_a_question_is_raised() -> None:
    questions = Questions(lambda *_: None)
    refused = questions.ask("one", None)
    questions.answered(1, PayloadTooLargeError("too large").body())
    with pytest.raises(PayloadTooLargeError):
        refused.result()


def test_a_cancel_is_not_missed_by_who_is_about_to_ask() -> None:
    """A thread has looked whether it is cancelled, and asks after the cancel: nobody would answer it."""
    sent: list[int] = []
    questions = Questions(lambda query, *_: sent.append(query))
    questions.cancel()
    assert questions.ask("one", None).cancelled()
    assert sent == []
