"""Submissions that are sent again: joined while they are open, answered each, and forgotten with the answer."""

from typing import cast

import pytest

from callboard.bus.serve import Request
from callboard.orchestrator.sendings import Sendings
from callboard.schemas.errors import OrchestratorError, OutcomeUnknownError
from callboard.schemas.tasks import SubmitAnswer, SubmitManyAnswer, SubmitResult
from callboard.schemas.vocabulary import TaskState

ANSWER = SubmitAnswer(task_id="t", state=TaskState.QUEUED, created=True, satisfiable=True)
RESULT = SubmitResult(task_id="t", state=TaskState.QUEUED, created=True, satisfiable=True)
REFUSED = SubmitResult(error=OutcomeUnknownError().body())


class Sent:
    """A request with its bytes, and what it was answered."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.answers: list[object] = []

    def answer(self, message: object) -> None:
        self.answers.append(message)

    def refuse(self, error: OrchestratorError) -> None:
        self.answers.append(error.code)


def sent(data: bytes = b"1") -> Request:
    return cast("Request", Sent(data))


def told(request: Request) -> list[object]:
    return cast("Sent", request).answers


def test_a_later_sending_is_answered_with_the_first() -> None:
    sendings = Sendings()
    first, again, other = sent(), sent(), sent(b"2")
    submission = sendings.new(first)
    submission.expect_more()
    assert (sendings.joins(again), sendings.joins(other)) == (True, False)
    submission.answer(ANSWER)
    assert told(first) == [ANSWER]
    assert told(again) == [SubmitAnswer(task_id="t", state=TaskState.QUEUED, created=False, satisfiable=True)]
    assert not sendings.joins(sent()), "it is answered"
    assert len(sendings) == 0


def test_each_of_many_is_there_already() -> None:
    sendings = Sendings()
    again = sent()
    submission = sendings.new(sent())
    submission.expect_more()
    assert sendings.joins(again)
    submission.answer(SubmitManyAnswer(results=[RESULT, REFUSED]))
    there = SubmitResult(task_id="t", state=TaskState.QUEUED, created=False, satisfiable=True)
    assert told(again) == [SubmitManyAnswer(results=[there, REFUSED])]


def test_a_refusal_is_for_all() -> None:
    sendings = Sendings()
    first, again = sent(), sent()
    submission = sendings.new(first)
    submission.expect_more()
    assert sendings.joins(again)
    submission.refuse(OutcomeUnknownError())
    assert told(first) == told(again) == ["outcome_unknown"]
    assert len(sendings) == 0


@pytest.mark.parametrize("is_answered", [False, True])
def test_nothing_joins_what_does_not_expect_it(is_answered: bool) -> None:
    sendings = Sendings()
    submission = sendings.new(sent())
    if is_answered:
        submission.answer(ANSWER)
        submission.expect_more()
    assert not sendings.joins(sent())
    assert len(sendings) == 0
