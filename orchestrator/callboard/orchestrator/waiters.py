"""Callers of `tasks.wait` and `tasks.wait_many`: told when a task of theirs is final, or at the time-out. Bounded."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from callboard.bus.serve import Request
from callboard.orchestrator.answers import fitting
from callboard.schemas.errors import OrchestratorError, ResourceLimitError, TaskNotFoundError, UnavailableError
from callboard.schemas.tasks import TaskDocument

Read = Callable[[list[str]], Awaitable[dict[str, TaskDocument]]]
Spawn = Callable[[Coroutine[Any, Any, None]], object]
Known = Callable[[Iterable[str]], Mapping[str, TaskDocument]]
Found = Mapping[str, TaskDocument | None]
"""What was read of a caller's tasks; `None`: there is no such task."""


class Caller:
    """Who waits, and for which tasks; answered once."""

    def __init__(self, request: Request, task_ids: Sequence[str]) -> None:
        self.request = request
        self.task_ids = task_ids
        self.timer: asyncio.TimerHandle | None = None

    def at_time_out(self) -> Sequence[str]:
        """The tasks to be read when the time is over: a `wait` tells how its task stands."""
        return self.task_ids

    def answer(self, found: Found) -> None:
        """Answer with its one task."""
        [(task_id, document)] = found.items()
        if document is None:
            self.request.refuse(TaskNotFoundError(f"there is no task {task_id}", task_id=task_id))
        else:
            self.request.answer(document)


class CallerOfMany(Caller):
    """Who waits for the first of many: told of those that are final, as many as fit."""

    def at_time_out(self) -> Sequence[str]:
        """None: not one of them was final."""
        return ()

    def answer(self, found: Found) -> None:
        """Answer with those of its tasks that are final."""
        final = (document for document in found.values() if document is not None and document.state.is_final)
        tasks = [data for _, data in fitting(final)]
        unknown = [task_id for task_id, document in found.items() if document is None]
        # A `WaitManyAnswer` whose documents were encoded to measure them, and are not encoded again.
        self.request.answer({"tasks": tasks, "unknown": unknown})


class Waiters:
    """The waiting callers of one pool, by task.

    Args:
        known: documents of those tasks that are known to be final, by task id, without reading.
        read: documents by task id; missing tasks are left out.
        spawn: runs a coroutine beside the caller.
        most: how many tasks may be waited for, each as often as somebody waits for it.
    """

    def __init__(self, known: Known, read: Read, spawn: Spawn, *, most: int) -> None:
        self._known = known
        self._read = read
        self._spawn = spawn
        self._most = most
        self._waiting: dict[str, set[Caller]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, task_id: str, request: Request, timeout_ms: int, *, look: bool) -> None:
        """Have `request` wait for `task_id` for `timeout_ms`; with `look` the task may be final already.

        Raises:
            ResourceLimitError: too many wait already.
        """
        self._add(Caller(request, (task_id,)), timeout_ms, [task_id] if look and timeout_ms else [])

    def add_many(self, task_ids: Iterable[str], request: Request, timeout_ms: int, *, look: list[str]) -> None:
        """Have `request` wait for the first of `task_ids`; those in `look` may be final already.

        Raises:
            ResourceLimitError: too many wait already.
        """
        self._add(CallerOfMany(request, tuple(dict.fromkeys(task_ids))), timeout_ms, look)

    def _add(self, caller: Caller, timeout_ms: int, look: list[str]) -> None:
        ended = self._known(look)
        if ended and len(ended) == len(look):
            caller.answer(ended)
            return
        if self._count + len(caller.task_ids) > self._most:
            raise ResourceLimitError(f"{self._count} tasks are waited for", retry_after_ms=1000, limit=self._most)
        for task_id in caller.task_ids:
            self._waiting.setdefault(task_id, set()).add(caller)
        self._count += len(caller.task_ids)
        caller.timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._time_out, caller)
        if look:
            self._spawn(self._look(caller, look))

    def waited_for(self, task_ids: Iterable[str]) -> list[str]:
        """Those of these tasks that somebody waits for."""
        return [task_id for task_id in task_ids if task_id in self._waiting]

    def finished(self, task_ids: Iterable[str], known: Mapping[str, TaskDocument]) -> None:
        """Answer everyone who waits for one of these tasks; those that are not `known` are read, all at once."""
        told: dict[Caller, list[str]] = {}
        for task_id in task_ids:
            for caller in self._waiting.get(task_id, ()):
                told.setdefault(caller, []).append(task_id)
        if told:
            for caller in told:
                self._remove(caller)
            for caller in [caller for caller, its in told.items() if all(task_id in known for task_id in its)]:
                caller.answer({task_id: known[task_id] for task_id in told.pop(caller)})
        if told:
            self._spawn(self._answer(told))

    async def answer_all(self) -> None:
        """Answer everyone with their task as it stands: the owner leaves."""
        callers = {caller for waiting in self._waiting.values() for caller in waiting}
        for caller in callers:
            self._remove(caller)
        await self._answer({caller: caller.at_time_out() for caller in callers})

    def _remove(self, caller: Caller) -> None:
        if caller.timer is not None:
            caller.timer.cancel()
        for task_id in caller.task_ids:
            waiting = self._waiting[task_id]
            waiting.remove(caller)
            if not waiting:
                del self._waiting[task_id]
        self._count -= len(caller.task_ids)

    def _time_out(self, caller: Caller) -> None:
        self._remove(caller)
        self._spawn(self._answer({caller: caller.at_time_out()}))

    async def _look(self, caller: Caller, task_ids: list[str]) -> None:
        """Answer at once if one of these tasks is final, or is none."""
        try:
            documents = await self._read(task_ids)
        except OrchestratorError as error:
            if self._is_waiting(caller):
                self._remove(caller)
                caller.request.refuse(error)
            return
        found = {task_id: documents.get(task_id) for task_id in task_ids}
        ended = {task_id: it for task_id, it in found.items() if it is None or it.state.is_final}
        if ended and self._is_waiting(caller):
            self._remove(caller)
            caller.answer(ended)

    def _is_waiting(self, caller: Caller) -> bool:
        return caller in self._waiting.get(caller.task_ids[0], ())

    async def _answer(self, callers: Mapping[Caller, Sequence[str]]) -> None:
        wanted = {task_id for task_ids in callers.values() for task_id in task_ids}
        try:
            documents = await self._read(list(wanted)) if wanted else {}
        except OrchestratorError as error:
            _refuse(callers, error)
            return
        except asyncio.CancelledError:
            _refuse(callers, UnavailableError("the orchestrator is stopping: ask again"))
            raise
        for caller, task_ids in callers.items():
            caller.answer({task_id: documents.get(task_id) for task_id in task_ids})


def _refuse(callers: Iterable[Caller], error: OrchestratorError) -> None:
    for caller in callers:
        caller.request.refuse(error)
