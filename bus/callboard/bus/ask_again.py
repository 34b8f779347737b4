"""Asking again while an answer is awaited: who was asked may be frozen, and another owner there before it is noticed.

Rules:
- The same message is sent once more after each pause, and the first answer to any of them counts. So only what is safe
  to repeat is asked so (protocol, section 2: by key, by attempt, by final effect).
- No storm: an answer that was only late, not missing, doubles the pause, up to what a request may take at all; one that
  comes in time brings the pause back step by step. An owner that is slow for want of time is soon asked once.
"""

import asyncio
import contextlib
from typing import Final, TypeVar

from callboard.bus.ask import read_answer
from callboard.bus.connection import Bus
from callboard.bus.messages import BusMessage
from callboard.schemas.codec import encode
from callboard.schemas.errors import OrchestratorError

M = TypeVar("M")

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 5.0
_RECOVERY: Final = 0.9


class Patience:
    """How long an answer is waited for before its request is sent again; shared by one client's requests."""

    def __init__(self) -> None:
        self.pause_s = FIRST_PAUSE_S

    def was_too_short(self) -> None:
        """The first request was answered after it had been sent again."""
        self.pause_s = min(self.pause_s * 2, LONGEST_PAUSE_S)

    def was_enough(self) -> None:
        """The first request was answered before that."""
        if self.pause_s > FIRST_PAUSE_S:
            self.pause_s = max(self.pause_s * _RECOVERY, FIRST_PAUSE_S)


async def ask_again(
    bus: Bus, patience: Patience, subject: str, message: object, answer: type[M], *, timeout_s: float
) -> M:
    """The answer to `message`, which may be sent several times within `timeout_s`.

    Raises:
        OrchestratorError: as `ask`.
    """
    asking = _Asking(bus, patience, subject, encode(message), timeout_s)
    try:
        return read_answer(await asking.answered, answer)
    finally:
        asking.end()


class _Asking:
    """One question, the requests that were sent for it, and the timer of the next."""

    def __init__(self, bus: Bus, patience: Patience, subject: str, data: bytes, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[BusMessage] = loop.create_future()
        self._bus, self._patience, self._subject, self._data = bus, patience, subject, data
        self._until_s = loop.time() + timeout_s
        self._names = [bus.ask(subject, data, self._first_ended, timeout_s=timeout_s)]
        self._timer = loop.call_later(patience.pause_s, self._send_again)

    def end(self) -> None:
        """Nobody wants an answer any more."""
        self._timer.cancel()
        for name in self._names:
            self._bus.forget_request(name)

    def _send_again(self) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._until_s - loop.time()
        if left_s <= 0 or self.answered.done():
            return
        # Whatever stands in the way of a repetition, the first request's own end tells.
        with contextlib.suppress(OrchestratorError):
            self._names.append(self._bus.ask(self._subject, self._data, self._repetition_ended, timeout_s=left_s))
        self._timer = loop.call_later(self._patience.pause_s, self._send_again)

    def _first_ended(self, how: BusMessage | OrchestratorError) -> None:
        if self.answered.done():
            return
        if isinstance(how, BusMessage):
            is_late = len(self._names) > 1
            (self._patience.was_too_short if is_late else self._patience.was_enough)()
            self.answered.set_result(how)
        else:
            self.answered.set_exception(how)

    def _repetition_ended(self, how: BusMessage | OrchestratorError) -> None:
        """An answer is as good as any; an error of the way says nothing of the first request."""
        if isinstance(how, BusMessage) and not self.answered.done():
            self.answered.set_result(how)
