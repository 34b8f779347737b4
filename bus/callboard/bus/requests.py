"""Requests in flight: one shared inbox, one future each, no task.

A time-out is a timer of the event loop, cancelled by the answer: about two microseconds, and asyncio sweeps cancelled
timers by itself, so no timer wheel is needed.
"""

import asyncio
from typing import Final

from callboard.bus.messages import BusMessage, NoRespondersError
from callboard.schemas.errors import OrchestratorError, OutcomeUnknownError

NO_RESPONDERS: Final = 503


class PendingRequests:
    """The requests of one bus.

    Args:
        inbox: replies arrive at `<inbox>.<number>`.
    """

    def __init__(self, inbox: str) -> None:
        self.pattern = f"{inbox}.*"
        self._prefix = f"{inbox}."
        self._number = 0
        self._waiting: dict[str, tuple[asyncio.Future[BusMessage], asyncio.TimerHandle]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, timeout_s: float) -> tuple[str, asyncio.Future[BusMessage]]:
        """A reply subject and the future of its answer, which fails after `timeout_s` seconds."""
        loop = asyncio.get_running_loop()
        self._number += 1
        reply = f"{self._prefix}{self._number}"
        answer: asyncio.Future[BusMessage] = loop.create_future()
        self._waiting[reply] = answer, loop.call_later(timeout_s, self._expire, reply, timeout_s)
        answer.add_done_callback(lambda _: self._close(reply))
        return reply, answer

    def answer(self, message: BusMessage) -> None:
        """End the request that `message` answers; a late or second answer is ignored."""
        future, _ = self._waiting.get(message.subject, (None, None))
        if future is None or future.done():
            return
        if message.status == NO_RESPONDERS:
            future.set_exception(NoRespondersError())
        else:
            future.set_result(message)

    def fail_all(self, error: OrchestratorError) -> None:
        """End every request in flight."""
        for future, _ in list(self._waiting.values()):
            if not future.done():
                future.set_exception(type(error)(error.message))

    def _expire(self, reply: str, timeout_s: float) -> None:
        future, _ = self._waiting[reply]
        if not future.done():
            future.set_exception(OutcomeUnknownError(f"no answer within {timeout_s:g} s"))

    def _close(self, reply: str) -> None:
        _, timer = self._waiting.pop(reply)
        timer.cancel()
