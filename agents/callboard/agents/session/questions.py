"""The questions that handlers wait for answers to, one to an attempt.

- A question is sent, with back-off, until it is recorded or refused for good. After that the orchestrator remembers it,
  whoever owns the pool, and sends the answer until it is acknowledged.
- The answer may overtake the word that the question is recorded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from callboard.agents.session.delays import Delays
from callboard.agents.session.effects import SendQuery
from callboard.agents.session.events import QuestionAsked
from callboard.schemas.errors import ErrorBody
from callboard.schemas.tasks import AttemptRef

QUERY_TIMEOUT_MS: Final = 5_000


@dataclass(slots=True)
class _Open:
    """A question without an answer; nothing is due once it is recorded."""

    asked: QuestionAsked
    due_ms: int | None
    call: int | None = None
    failures: int = 0


class Questions:
    """The open questions, by attempt."""

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self._open: dict[AttemptRef, _Open] = {}
        self._calls = 0

    def ask(self, asked: QuestionAsked, now_ms: int) -> None:
        """A handler waits for this answer."""
        self._open[asked.ref] = _Open(asked, now_ms)

    def is_current(self, ref: AttemptRef, call: int) -> bool:
        """Whether `call` is the request that this question's recording is waited for."""
        found = self._open.get(ref)
        return found is not None and found.call == call

    def recorded(self, ref: AttemptRef) -> None:
        """The question need not be sent again."""
        self._open[ref].call = None

    def put_off(self, ref: AttemptRef, now_ms: int, error: ErrorBody | None = None) -> None:
        """The question was not recorded, as far as one can tell."""
        found = self._open[ref]
        found.failures += 1
        found.call = None
        at_least_ms = error.retry_after_ms if error else None
        found.due_ms = now_ms + self._delays.retry_ms(found.failures, at_least_ms=at_least_ms)

    def hurry(self, now_ms: int) -> None:
        """Whoever records questions is there again."""
        for found in self._open.values():
            if found.due_ms is not None or found.call is not None:
                found.failures, found.call, found.due_ms = 0, None, now_ms

    def close(self, ref: AttemptRef, query: int | None = None) -> int | None:
        """Wait no more for question `query` of an attempt, or for any; the number of that which was waited for."""
        found = self._open.get(ref)
        if found is None or query not in {None, found.asked.query}:
            return None
        del self._open[ref]
        return found.asked.query

    def due(self, now_ms: int) -> Iterator[SendQuery]:
        """The questions to send now, once each."""
        for found in self._open.values():
            if found.due_ms is not None and found.due_ms <= now_ms:
                self._calls += 1
                found.call, found.due_ms = self._calls, None
                asked = found.asked
                yield SendQuery(asked.ref, self._calls, asked.query, asked.prompt, asked.data, QUERY_TIMEOUT_MS)

    def next_due_ms(self) -> int | None:
        """When `due` has something to say."""
        return min((found.due_ms for found in self._open.values() if found.due_ms is not None), default=None)
