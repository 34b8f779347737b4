"""What concurrent callers of a client ask goes to the orchestrator together.

Rules:
- How submits are gathered: `gather`. A wait is sent at the end of its turn of the event loop: its answer may be far.
- Each caller gets its own answer or error. What refuses a batch as such, and for good, says nothing about any one of
  its items: they are asked again, each alone.
- Everyone who waits for a task shares few requests. Each is answered as soon as one of its tasks is final; those that
  are left are asked for again, together with those that have come since.
- Nothing is repeated here: errors that may pass are the caller's to repeat.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import msgspec

from callboard.bus.gather import Gathering, gathered
from callboard.schemas.codec import encode
from callboard.schemas.errors import OrchestratorError, OutcomeUnknownError, TaskNotFoundError, from_body
from callboard.schemas.limits import WAIT_MANY
from callboard.schemas.tasks import (
    SubmitAnswer,
    SubmitMany,
    SubmitManyAnswer,
    SubmitResult,
    TaskDocument,
    TaskSpec,
    WaitMany,
    WaitManyAnswer,
    WaitTask,
)

SLICE_MS: Final = 10_000
"""One `wait_many`: short enough that a lost answer costs little (protocol, section 4)."""

Entry = tuple[TaskSpec, bytes, asyncio.Future[SubmitAnswer]]


class _Asking:
    """The requests under way; Python forgets tasks that nobody holds."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Submits:
    """Submits together what is submitted at once.

    Args:
        together: sends many, once.
        alone: sends one, once.
    """

    def __init__(
        self,
        together: Callable[[SubmitMany], Awaitable[SubmitManyAnswer]],
        alone: Callable[[TaskSpec], Awaitable[SubmitAnswer]],
    ) -> None:
        self._together = together
        self._alone = alone
        self._gathering: Gathering[Entry] | None = None
        self._asking = _Asking()

    async def submit(self, spec: TaskSpec) -> SubmitAnswer:
        """The answer to `spec`; raises what a submit of its own would."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[SubmitAnswer] = loop.create_future()
        if self._gathering is None:
            self._gathering = Gathering(loop, self._send)
        self._gathering.put((spec, encode(spec), answer))
        return await answer

    def _send(self, entries: list[Entry]) -> int:
        batches = list(gathered(entries, lambda entry: len(entry[1])))
        for batch in batches:
            self._asking.begin(self._send_batch(batch))
        return len(batches)

    async def _send_batch(self, batch: list[Entry]) -> None:
        assert self._gathering is not None  # noqa: S101 - it was what sent
        try:
            if len(batch) == 1:
                await self._ask_alone(batch[0])
            else:
                await self._ask(batch)
        finally:
            self._gathering.ended()

    async def _ask(self, batch: list[Entry]) -> None:
        try:
            answer = await self._together(SubmitMany(tasks=[msgspec.Raw(data) for _, data, _ in batch]))
        except OrchestratorError as error:
            if error.retryable:
                for _, _, future in batch:
                    _fail(future, error)
            else:
                for entry in batch:
                    self._asking.begin(self._ask_alone(entry))
            return
        if len(answer.results) != len(batch):
            unknown = OutcomeUnknownError(f"{len(answer.results)} results for {len(batch)} tasks")
            for _, _, future in batch:
                _fail(future, unknown)
            return
        for (_, _, future), result in zip(batch, answer.results, strict=True):
            _settle(future, result)

    async def _ask_alone(self, entry: Entry) -> None:
        spec, _, future = entry
        try:
            answer = await self._alone(spec)
        except OrchestratorError as error:
            _fail(future, error)
        else:
            if not future.done():
                future.set_result(answer)


class Waits:
    """Waits together for whatever tasks are waited for.

    Args:
        together: sends a `wait_many`, once.
        alone: sends a `wait` for one task, once.
    """

    def __init__(
        self,
        together: Callable[[WaitMany], Awaitable[WaitManyAnswer]],
        alone: Callable[[WaitTask], Awaitable[TaskDocument]],
    ) -> None:
        self._together = together
        self._alone = alone
        self._futures: dict[str, list[asyncio.Future[TaskDocument]]] = {}
        self._unasked: dict[str, int] = {}
        """How long each may be waited for, in ms, by whoever asked first."""
        self._asked: set[str] = set()
        """Those that a request under way asks for: whoever comes meanwhile hears its answer."""
        self._asking = _Asking()

    async def final(self, task_id: str, *, slice_ms: int = SLICE_MS) -> TaskDocument:
        """The task once it is final; a request for it alone lasts `slice_ms`.

        Raises:
            OrchestratorError: what a `wait` of its own would be answered.
        """
        future: asyncio.Future[TaskDocument] = asyncio.get_running_loop().create_future()
        waiting = self._futures.setdefault(task_id, [])
        if not waiting and task_id not in self._asked:
            self._ask_for(task_id, slice_ms)
        waiting.append(future)
        try:
            return await future
        finally:
            waiting.remove(future)
            if not waiting and self._futures.get(task_id) is waiting:
                del self._futures[task_id]

    def _ask_for(self, task_id: str, slice_ms: int = SLICE_MS) -> None:
        if not self._unasked:
            asyncio.get_running_loop().call_soon(self._send)
        self._unasked[task_id] = slice_ms

    def _send(self) -> None:
        unasked, self._unasked = self._unasked, {}
        wanted = [task_id for task_id in unasked if task_id in self._futures]
        self._asked.update(wanted)
        if len(wanted) == 1:
            self._asking.begin(self._ask_alone(wanted[0], unasked[wanted[0]]))
            return
        for first in range(0, len(wanted), WAIT_MANY):
            self._asking.begin(self._ask(wanted[first : first + WAIT_MANY]))

    async def _ask(self, task_ids: list[str]) -> None:
        try:
            answer = await self._together(WaitMany(task_ids=task_ids, timeout_ms=SLICE_MS))
        except OrchestratorError as error:
            for task_id in task_ids:
                if error.retryable:
                    self._fail(task_id, error)
                else:
                    self._asking.begin(self._ask_alone(task_id, 0))
            return
        finally:
            self._asked.difference_update(task_ids)
        for task in answer.tasks:
            self._settle(task)
        for task_id in answer.unknown:
            self._fail(task_id, TaskNotFoundError(f"there is no task {task_id}", task_id=task_id))
        told = {task.task_id for task in answer.tasks}
        for task_id in task_ids:
            if task_id not in told and task_id in self._futures:
                self._ask_for(task_id)

    async def _ask_alone(self, task_id: str, slice_ms: int) -> None:
        try:
            task = await self._alone(WaitTask(task_id=task_id, timeout_ms=slice_ms))
        except OrchestratorError as error:
            self._fail(task_id, error)
            return
        finally:
            self._asked.discard(task_id)
        if task.state.is_final:
            self._settle(task)
        elif task_id in self._futures:
            self._ask_for(task_id, slice_ms or SLICE_MS)

    def _settle(self, task: TaskDocument) -> None:
        for future in self._futures.pop(task.task_id, []):
            if not future.done():
                future.set_result(task)

    def _fail(self, task_id: str, error: OrchestratorError) -> None:
        for future in self._futures.pop(task_id, []):
            _fail(future, error)


def _settle(future: asyncio.Future[SubmitAnswer], result: SubmitResult) -> None:
    if result.error is not None:
        _fail(future, from_body(result.error))
    elif not future.done():
        future.set_result(msgspec.convert(result, SubmitAnswer, from_attributes=True))


def _fail(future: asyncio.Future[Any], error: OrchestratorError) -> None:
    """Each caller gets an error of its own: one raised in several places would grow a traceback of all of them."""
    if not future.done():
        future.set_exception(from_body(error.body()))
