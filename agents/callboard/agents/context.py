"""What a handler is given: the task, and the way to speak of it while it runs.

May be used from any thread. `cancelled` is set before an asynchronous handler is cancelled, and is all that a
synchronous one can look at.
"""

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from callboard.agents.errors import TaskCancelled, TaskFailed
from callboard.agents.questions import Ask, Questions
from callboard.schemas.agents import Assign
from callboard.schemas.codec import encode_value
from callboard.schemas.errors import ErrorBody
from callboard.schemas.tasks import Progress
from callboard.schemas.vocabulary import TaskPriority

ReportProgress = Callable[[Progress], None]


class TaskContext:
    """One attempt of a task.

    Attributes:
        task_id: the key for idempotent side effects: a task may run more than once.
        attempt: from 1, one more at each assignment.
        raw_payload: the payload's JSON as it was submitted, byte by byte.
        traceparent: the trace that the task belongs to (W3C), if any.
        previous_progress: the last one of an earlier attempt, to resume from; `None` when there is none.
    """

    def __init__(self, offer: Assign, report: ReportProgress, ask: Ask) -> None:
        self.task_id: str = offer.task_id
        self.attempt: int = offer.attempt
        self.type: str = offer.type
        self.description: str | None = offer.description
        self.priority: TaskPriority = offer.priority
        self.metadata: Mapping[str, str] = offer.metadata
        self.raw_payload: bytes = bytes(offer.payload)
        self.traceparent: str | None = offer.traceparent
        self.previous_progress: Progress | None = offer.progress
        self._report = report
        self._questions = Questions(ask)
        self._asking: asyncio.Lock | None = None
        self._cancelled = False
        self._payload: Any = msgspec.UNSET
        now_s = time.monotonic()
        self._task_ends_s = None if offer.remaining_ms is None else now_s + offer.remaining_ms / 1000
        self._run_ends_s = None if offer.run_timeout_ms is None else now_s + offer.run_timeout_ms / 1000

    @property
    def payload(self) -> Any:  # noqa: ANN401 - any JSON value
        """The payload, decoded."""
        if self._payload is msgspec.UNSET:
            self._payload = msgspec.json.decode(self.raw_payload)
        return self._payload

    @property
    def remaining_ms(self) -> int | None:
        """Milliseconds until the deadline, 0 when it has passed; `None` without one."""
        ends = [end_s for end_s in (self._task_ends_s, self._run_ends_s) if end_s is not None]
        return max(0, round((min(ends) - time.monotonic()) * 1000)) if ends else None

    @property
    def deadline(self) -> datetime | None:
        """When the attempt or the whole task runs out of time; `None` for never. The wait for an answer puts it off."""
        remaining_ms = self.remaining_ms
        return None if remaining_ms is None else datetime.now(UTC) + timedelta(milliseconds=remaining_ms)

    @property
    def cancelled(self) -> bool:
        """Whether the work is not wanted any more."""
        return self._cancelled

    def cancel(self) -> None:
        """Say that the work is not wanted any more; the agent does this."""
        self._cancelled = True
        self._questions.cancel()

    def answered(self, query: int, answer: bytes | ErrorBody) -> None:
        """Give the answer to a question, or what refused it; the agent does this."""
        self._questions.answered(query, answer)

    def raise_if_cancelled(self) -> None:
        """For synchronous handlers, at a place where they can stop.

        Raises:
            TaskCancelled: the work is not wanted any more.
        """
        if self.cancelled:
            raise TaskCancelled(self.task_id)

    def progress_nowait(self, percent: float | None = None, message: str | None = None, data: object = None) -> None:
        """Tell how far the work is, from a synchronous handler; never blocks, and the latest of a burst wins.

        Args:
            percent: 0 to 100.
            message: for people.
            data: any JSON, at most 16 KiB; the next attempt finds it in `previous_progress`.

        Raises:
            TaskCancelled: the work is not wanted any more.
            TaskFailed: `data` has no JSON form, as NaN has none; not retryable.
            ValueError: `percent` is out of range.
        """
        self.raise_if_cancelled()
        if percent is not None and not 0 <= percent <= 100:  # noqa: PLR2004 - per cent
            raise ValueError(f"percent must be from 0 to 100, not {percent}")
        written = _json_or_none(data)
        self._report(
            Progress(percent=percent, message=message, data=msgspec.UNSET if written is None else msgspec.Raw(written))
        )

    async def progress(self, percent: float | None = None, message: str | None = None, data: object = None) -> None:
        """`progress_nowait` for an asynchronous handler: lets others run, and a cancel takes effect here."""
        self.progress_nowait(percent, message, data)
        await asyncio.sleep(0)

    async def ask(self, prompt: str, data: object = None) -> Any:  # noqa: ANN401 - any JSON value
        """Ask whoever answers the task's questions, and wait; the task is `waiting_input` meanwhile.

        The slot stays taken. The run and progress limits stand still, the task's deadline does not. An agent that is
        cut off, and a change of the pool's owner, lose neither the question nor its answer. Of several coroutines that
        ask, each waits for its turn.

        Args:
            prompt: for people.
            data: any JSON, at most 16 KiB with the prompt: choices, say.

        Returns:
            The answer, any JSON value.

        Raises:
            OrchestratorError: the question is not one that can be asked, by its size for instance.
            TaskFailed: `data` has no JSON form; not retryable.
        """
        # Few handlers ask, and a lock is dear for those that do not.
        self._asking = self._asking or asyncio.Lock()
        async with self._asking:
            began_s = time.monotonic()
            try:
                answer = await asyncio.wrap_future(self._questions.ask(prompt, _json_or_none(data)))
            finally:
                self._put_off(began_s)
        return msgspec.json.decode(answer)

    def ask_and_wait(self, prompt: str, data: object = None) -> Any:  # noqa: ANN401 - any JSON value
        """`ask` for a synchronous handler.

        Raises:
            TaskCancelled: the work is not wanted any more.
            OrchestratorError: as `ask`.
        """
        self.raise_if_cancelled()
        began_s = time.monotonic()
        try:
            return msgspec.json.decode(self._questions.ask(prompt, _json_or_none(data)).result())
        except concurrent.futures.CancelledError:
            raise TaskCancelled(self.task_id) from None
        finally:
            self._put_off(began_s)

    def _put_off(self, began_s: float) -> None:
        """The time since then was somebody else's."""
        if self._run_ends_s is not None:
            self._run_ends_s += time.monotonic() - began_s


def _json_or_none(data: object) -> bytes | None:
    """As with a result: another attempt would make the same mistake again."""
    if data is None:
        return None
    try:
        return encode_value(data)
    except Exception as error:
        message = f"the data cannot be written as JSON: {error}"
        raise TaskFailed(message, type="data_refused", retryable=False) from error
