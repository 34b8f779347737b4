"""Requests in flight: one shared inbox, no task and no future.

Rules:
- Whoever asked is called when the answer arrives, within the read that brought it: in the order of the wire, so that
  an answer is never taken in after a message that was sent later.
- A time-out is a timer of the event loop, cancelled by the answer: about two microseconds, and asyncio sweeps cancelled
  timers by itself, so no timer wheel is needed.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from callboard.bus.messages import BusMessage, NoRespondersError
from callboard.schemas.errors import OrchestratorError, OutcomeUnknownError

NO_RESPONDERS: Final = 503

OnEnd = Callable[[BusMessage | OrchestratorError], None]
"""Told once how a request ended. It must not raise or block."""


class PendingRequests:
    """The requests of one bus.

    Args:
        inbox: replies arrive at `<inbox>.<number>`.
    """

    def __init__(self, inbox: str) -> None:
        self.pattern = f"{inbox}.*"
        self._prefix = f"{inbox}."
        self._number = 0
        self._waiting: dict[str, tuple[OnEnd, asyncio.TimerHandle]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, timeout_s: float, on_end: OnEnd) -> str:
        """A reply subject; `on_end` is called with what comes to it, or after `timeout_s` seconds."""
        self._number += 1
        reply = f"{self._prefix}{self._number}"
        timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, reply, timeout_s)
        self._waiting[reply] = on_end, timer
        return reply

    def drop(self, reply: str) -> None:
        """The request was not sent, or nobody wants its answer any more: nobody is called."""
        ended = self._waiting.pop(reply, None)
        if ended is not None:
            ended[1].cancel()

    def answer(self, message: BusMessage) -> None:
        """End the request that `message` answers; a late or second answer is ignored."""
        self._end(message.subject, NoRespondersError() if message.status == NO_RESPONDERS else message)

    def fail_all(self, error: OrchestratorError) -> None:
        """End every request in flight."""
        for reply in list(self._waiting):
            self._end(reply, type(error)(error.message))

    def _expire(self, reply: str, timeout_s: float) -> None:
        self._end(reply, OutcomeUnknownError(f"no answer within {timeout_s:g} s"))

    def _end(self, reply: str, how: BusMessage | OrchestratorError) -> None:
        ended = self._waiting.pop(reply, None)
        if ended is not None:
            on_end, timer = ended
            timer.cancel()
            on_end(how)
