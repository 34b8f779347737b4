"""One request with many items: answered once, when every item is.

If the commit of the items is in doubt or did not happen, that is one error for the whole request (protocol,
`submit_many`); anything else is an item's own result.
"""

import msgspec

from callboard.bus.serve import Request
from callboard.schemas.errors import DatabaseOperationError, OrchestratorError
from callboard.schemas.tasks import SubmitManyAnswer, SubmitResult


class Many:
    """The results of a `submit_many` as they come in."""

    def __init__(self, request: Request, count: int) -> None:
        self._request = request
        self._results: list[SubmitResult | None] = [None] * count
        self._missing = count
        self._failure: DatabaseOperationError | None = None

    def item(self, index: int) -> "Item":
        """The item at `index`."""
        return Item(self, index)

    def settle(self, index: int, result: SubmitResult) -> None:
        """Take an item's result; the last one answers the request."""
        self._results[index] = result
        self._missing -= 1
        if self._missing:
            return
        if self._failure is not None:
            self._request.refuse(self._failure)
        else:
            self._request.answer(SubmitManyAnswer(results=[done for done in self._results if done is not None]))

    def fail(self, index: int, error: OrchestratorError) -> None:
        """Take an item's error."""
        if isinstance(error, DatabaseOperationError):
            self._failure = error
        self.settle(index, SubmitResult(error=error.body()))


class Item:
    """One of many, to be answered once."""

    __slots__ = ("_index", "_many")

    def __init__(self, many: Many, index: int) -> None:
        self._many = many
        self._index = index

    def answer(self, message: object) -> None:
        """Settle it with a `SubmitAnswer`."""
        self._many.settle(self._index, msgspec.convert(message, SubmitResult, from_attributes=True))

    def refuse(self, error: OrchestratorError) -> None:
        """Settle it with an error."""
        self._many.fail(self._index, error)
