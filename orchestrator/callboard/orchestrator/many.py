"""One request with many items: answered once, when every item is.

If the commit of the items is in doubt or did not happen, that is one error for the whole request (protocol,
`submit_many`); anything else is an item's own result.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from callboard.orchestrator.tickets import Answerable
from callboard.schemas.agents import Recorded, Reported, ReportManyAnswer
from callboard.schemas.errors import DatabaseOperationError, OrchestratorError
from callboard.schemas.tasks import SubmitAnswer, SubmitManyAnswer, SubmitResult

R = TypeVar("R")


class Many(Generic[R]):
    """The results of a request as they come in.

    Args:
        request: the request.
        count: how many items it has.
        result: makes an item's result of its answer, or of its error.
        answer: makes the whole answer.
    """

    def __init__(
        self,
        request: Answerable,
        count: int,
        *,
        result: Callable[[Any], R],
        answer: Callable[[list[R]], object],
    ) -> None:
        self._request = request
        self._result = result
        self._answer = answer
        self._results: list[R | None] = [None] * count
        self._missing = count
        self._failure: DatabaseOperationError | None = None

    def item(self, index: int) -> "Item":
        """The item at `index`."""
        return Item(self, index)

    def settle(self, index: int, outcome: object) -> None:
        """Take an item's answer or error; the last one answers the request."""
        if isinstance(outcome, DatabaseOperationError):
            self._failure = outcome
        self._results[index] = self._result(outcome)
        self._missing -= 1
        if self._missing:
            return
        if self._failure is not None:
            self._request.refuse(self._failure)
        else:
            self._request.answer(self._answer([done for done in self._results if done is not None]))


class Item:
    """One of many, to be answered once."""

    __slots__ = ("_index", "_many")

    def __init__(self, many: Many[Any], index: int) -> None:
        self._many = many
        self._index = index

    def answer(self, message: object) -> None:
        """Settle it with the answer that it would get alone."""
        self._many.settle(self._index, message)

    def refuse(self, error: OrchestratorError) -> None:
        """Settle it with an error."""
        self._many.settle(self._index, error)


def submissions(request: Answerable, count: int) -> Many[SubmitResult]:
    """The items of a `submit_many`."""
    return Many(request, count, result=_submitted, answer=lambda results: SubmitManyAnswer(results=results))


def reports(request: Answerable, count: int) -> Many[Reported]:
    """The items of a `report_many`."""
    return Many(request, count, result=_reported, answer=lambda answers: ReportManyAnswer(answers=answers))


def _submitted(outcome: SubmitAnswer | OrchestratorError) -> SubmitResult:
    if isinstance(outcome, OrchestratorError):
        return SubmitResult(error=outcome.body())
    return SubmitResult(
        task_id=outcome.task_id, state=outcome.state, created=outcome.created, satisfiable=outcome.satisfiable
    )


def _reported(outcome: Recorded | OrchestratorError) -> Reported:
    if isinstance(outcome, OrchestratorError):
        return Reported(error=outcome.body())
    return Reported(recorded=outcome.recorded, state=outcome.state, until=outcome.until)
