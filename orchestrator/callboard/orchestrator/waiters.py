"""Callers of `tasks.wait`: told when their task is final, or at the time-out how it stands. Bounded in number."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from callboard.bus.serve import Request
from callboard.schemas.errors import OrchestratorError, ResourceLimitError, TaskNotFoundError, UnavailableError
from callboard.schemas.tasks import TaskDocument

Read = Callable[[list[str]], Awaitable[dict[str, TaskDocument]]]
Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Waiters:
    """The waiting callers of one pool, by task.

    Args:
        read: documents by task id; missing tasks are left out.
        spawn: runs a coroutine beside the caller.
        most: how many may wait.
    """

    def __init__(self, read: Read, spawn: Spawn, *, most: int) -> None:
        self._read = read
        self._spawn = spawn
        self._most = most
        self._waiting: dict[str, dict[Request, asyncio.TimerHandle]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, task_id: str, request: Request, timeout_ms: int) -> None:
        """Have `request` wait for `task_id` for `timeout_ms`.

        Raises:
            ResourceLimitError: too many wait already.
        """
        if self._count >= self._most:
            raise ResourceLimitError(f"{self._most} callers wait already", retry_after_ms=1000, limit=self._most)
        timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._time_out, task_id, request)
        self._waiting.setdefault(task_id, {})[request] = timer
        self._count += 1

    def look(self, task_id: str) -> None:
        """Read a task that may be final already, and answer its waiters if it is, or if there is no such task."""
        self._spawn(self._look(task_id))

    async def _look(self, task_id: str) -> None:
        try:
            document = (await self._read([task_id])).get(task_id)
        except OrchestratorError as error:
            _refuse({task_id: self._take(task_id)}, error)
            return
        if document is None or document.state.is_final:
            _answer_with({task_id: document}, {task_id: self._take(task_id)})

    def finished(self, task_ids: Iterable[str]) -> None:
        """Answer everyone who waits for one of these tasks, with one read for all."""
        done = {task_id: self._take(task_id) for task_id in task_ids if task_id in self._waiting}
        if done:
            self._spawn(self._answer(done))

    async def answer_all(self) -> None:
        """Answer everyone with their task as it stands: the owner leaves."""
        await self._answer({task_id: self._take(task_id) for task_id in list(self._waiting)})

    def _take(self, task_id: str) -> list[Request]:
        taken = self._waiting.pop(task_id, {})
        for timer in taken.values():
            timer.cancel()
        self._count -= len(taken)
        return list(taken)

    def _time_out(self, task_id: str, request: Request) -> None:
        waiting = self._waiting[task_id]
        del waiting[request]
        if not waiting:
            del self._waiting[task_id]
        self._count -= 1
        self._spawn(self._answer({task_id: [request]}))

    async def _answer(self, requests: dict[str, list[Request]]) -> None:
        try:
            documents = await self._read(list(requests))
        except OrchestratorError as error:
            _refuse(requests, error)
            return
        except asyncio.CancelledError:
            _refuse(requests, UnavailableError("the orchestrator is stopping: ask again"))
            raise
        _answer_with(documents, requests)


def _answer_with(documents: Mapping[str, TaskDocument | None], requests: dict[str, list[Request]]) -> None:
    for task_id, waiting in requests.items():
        document = documents.get(task_id)
        for request in waiting:
            if document is None:
                request.refuse(TaskNotFoundError(f"there is no task {task_id}", task_id=task_id))
            else:
                request.answer(document)


def _refuse(requests: dict[str, list[Request]], error: OrchestratorError) -> None:
    for waiting in requests.values():
        for request in waiting:
            request.refuse(error)
