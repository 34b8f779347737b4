"""A handler's questions: numbered, one open at a time, answered from another thread or never.

Everything but the wait for an answer may be called from any thread.
"""

import concurrent.futures
from collections.abc import Callable

from callboard.schemas.errors import ErrorBody, from_body

Ask = Callable[[int, str, bytes | None], None]
"""Send question number so and so: its text, and its data as JSON."""


class Questions:
    """The questions of one attempt."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._asked = 0
        self._open: concurrent.futures.Future[bytes] | None = None
        self._is_cancelled = False

    def ask(self, prompt: str, data: bytes | None) -> concurrent.futures.Future[bytes]:
        """Ask; the future's result is the answer as JSON, and its error what refused the question.

        Raises:
            RuntimeError: another question is open.
        """
        if self._open is not None and not self._open.done():
            raise RuntimeError("a question is open already: a handler asks one at a time")
        self._asked += 1
        waiting = self._open = concurrent.futures.Future()
        if self._is_cancelled:
            # Looked at after `_open` was set, and set before `_open` is looked at: a cancel in between is not missed.
            waiting.cancel()
            return waiting
        self._ask(self._asked, prompt, data)
        return waiting

    def answered(self, query: int, answer: bytes | ErrorBody) -> None:
        """The answer to a question, or what refused it."""
        waiting = self._open
        if waiting is None or query != self._asked or not waiting.set_running_or_notify_cancel():
            return
        self._open = None
        if isinstance(answer, ErrorBody):
            waiting.set_exception(from_body(answer))
        else:
            waiting.set_result(answer)

    def cancel(self) -> None:
        """No answer will come, to this question nor to a later one."""
        self._is_cancelled = True
        if self._open is not None:
            self._open.cancel()
