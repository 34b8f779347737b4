"""What a handler is given: the task, and the way to speak of it while it runs.

May be used from any thread. `cancelled` is set before an asynchronous handler is cancelled, and is all that a
synchronous one can look at.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from callboard.agents.errors import TaskCancelled
from callboard.schemas.agents import Assign
from callboard.schemas.codec import encode
from callboard.schemas.tasks import Progress
from callboard.schemas.vocabulary import TaskPriority

ReportProgress = Callable[[Progress], None]


class TaskContext:
    """One attempt of a task.

    Attributes:
        task_id: the key for idempotent side effects: a task may run more than once.
        attempt: from 1, one more at each assignment.
        raw_payload: the payload's JSON as it was submitted, byte by byte.
        previous_progress: the last one of an earlier attempt, to resume from; `None` when there is none.
        deadline: when the attempt or the whole task runs out of time; `None` for never.
    """

    def __init__(self, offer: Assign, report: ReportProgress) -> None:
        self.task_id: str = offer.task_id
        self.attempt: int = offer.attempt
        self.type: str = offer.type
        self.description: str | None = offer.description
        self.priority: TaskPriority = offer.priority
        self.metadata: Mapping[str, str] = offer.metadata
        self.raw_payload: bytes = bytes(offer.payload)
        self.previous_progress: Progress | None = offer.progress
        self._report = report
        self._cancelled = threading.Event()
        self._payload: Any = msgspec.UNSET
        limits = [limit for limit in (offer.remaining_ms, offer.run_timeout_ms) if limit is not None]
        self._ends_s = time.monotonic() + min(limits) / 1000 if limits else None
        self.deadline: datetime | None = datetime.now(UTC) + timedelta(milliseconds=min(limits)) if limits else None

    @property
    def payload(self) -> Any:  # noqa: ANN401 - any JSON value
        """The payload, decoded."""
        if self._payload is msgspec.UNSET:
            self._payload = msgspec.json.decode(self.raw_payload)
        return self._payload

    @property
    def remaining_ms(self) -> int | None:
        """Milliseconds until the deadline, 0 when it has passed; `None` without one."""
        return None if self._ends_s is None else max(0, round((self._ends_s - time.monotonic()) * 1000))

    @property
    def cancelled(self) -> bool:
        """Whether the work is not wanted any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Say that the work is not wanted any more; the agent does this."""
        self._cancelled.set()

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
            ValueError: `percent` is out of range.
        """
        self.raise_if_cancelled()
        if percent is not None and not 0 <= percent <= 100:  # noqa: PLR2004 - per cent
            raise ValueError(f"percent must be from 0 to 100, not {percent}")
        self._report(
            Progress(
                percent=percent, message=message, data=msgspec.UNSET if data is None else msgspec.Raw(encode(data))
            )
        )

    async def progress(self, percent: float | None = None, message: str | None = None, data: object = None) -> None:
        """`progress_nowait` for an asynchronous handler: lets others run, and a cancel takes effect here."""
        self.progress_nowait(percent, message, data)
        await asyncio.sleep(0)
