"""Submissions that are sent again before they are answered: decided once, and every sending is answered.

Whoever has waited for a second sends the same again (protocol, section 2): an owner with much to do would have all of
it twice, just then.

Rules:
- The same submission is the same bytes, and each task in it has a key: without one it asks for another task.
- A later sending is answered what a repetition is answered: the task is there, and not `created` by it.
"""

from msgspec.structs import replace

from callboard.bus.serve import Request
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.tasks import SubmitAnswer, SubmitManyAnswer


class Sent:
    """One submission, however often it was sent: answered once."""

    def __init__(self, request: Request, open_ones: "dict[bytes, Sent]") -> None:
        self._sendings = [request]
        self._data = request.data
        self._open = open_ones
        self._is_answered = False

    def answer(self, message: object) -> None:
        """Answer every sending."""
        self._end()
        first, *others = self._sendings
        first.answer(message)
        repeated = _repeated(message) if others else None
        for request in others:
            request.answer(repeated)

    def refuse(self, error: OrchestratorError) -> None:
        """Refuse every sending."""
        self._end()
        for request in self._sendings:
            request.refuse(error)

    def _end(self) -> None:
        self._is_answered = True
        self._open.pop(self._data, None)

    def expect_more(self) -> None:
        """Let later sendings join, until it is answered."""
        if not self._is_answered:
            self._open[self._data] = self

    def join(self, request: Request) -> None:
        """This one asks for the same."""
        self._sendings.append(request)


class Sendings:
    """The submissions that are not answered yet."""

    def __init__(self) -> None:
        self._open: dict[bytes, Sent] = {}

    def __len__(self) -> int:
        return len(self._open)

    def joins(self, request: Request) -> bool:
        """Whether `request` was sent before and will be answered with that."""
        submission = self._open.get(request.data)
        if submission is None:
            return False
        submission.join(request)
        return True

    def new(self, request: Request) -> Sent:
        """A submission that was not sent before."""
        return Sent(request, self._open)


def _repeated(message: object) -> object:
    """The answer to a later sending."""
    if isinstance(message, SubmitAnswer):
        return replace(message, created=False)
    if isinstance(message, SubmitManyAnswer):
        results = [result if result.task_id is None else replace(result, created=False) for result in message.results]
        return SubmitManyAnswer(results=results)
    return message
