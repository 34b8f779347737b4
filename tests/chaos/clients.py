"""Clients that submit, ask again, wait and cancel, as fast as they are told, and write down what they are told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tests.chaos import history as h

from callboard.schemas.errors import InvalidTransitionError, OrchestratorError
from callboard.schemas.tasks import Backoff
from callboard.schemas.vocabulary import TaskPriority

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from random import Random

    from callboard.bus.client import Client

PRIORITIES: Final = tuple(TaskPriority)
BACKOFF: Final = Backoff(initial_ms=100, factor=2.0, max_ms=1000)
PATIENCE_S: Final = 60.0
BULKY: Final = 12_000
"""Characters of a payload that does not fit once NATS takes small messages only."""


class Clients:
    """Any number of clients over one connection.

    Attributes:
        errors: how often each error reached a user of the SDK.
    """

    def __init__(self, client: Client, history: h.History, dice: Random, *, name: str = "k") -> None:
        self.client, self.history = client, history
        self.errors: dict[str, int] = {}
        self.submitted = 0
        self._dice = dice
        self._name = name
        self._tasks: set[asyncio.Task[object]] = set()

    async def submit(
        self, kind: str = "work", payload: Mapping[str, object] | None = None, *, timeout_s: float = PATIENCE_S,
        key: str | None = None, priority: TaskPriority = TaskPriority.NORMAL, ttl_ms: int | None = None,
        max_attempts: int = 3, agent_id: str | None = None,
    ) -> str:  # fmt: skip
        """Submit a task, and return its id.

        Raises:
            OrchestratorError: as the SDK raises it, after `timeout_s`.
        """
        self.submitted += 1
        key = key or f"{self._name}-{self.submitted}"
        self.history.write(h.Submitting(key=key))
        try:
            answer = await self.client.submit(
                kind, payload or {"ms": 20}, key=key, priority=priority, ttl_ms=ttl_ms, max_attempts=max_attempts,
                backoff=BACKOFF, agent_id=agent_id, timeout_s=timeout_s,
            )  # fmt: skip
        except OrchestratorError as error:
            self.history.write(h.SubmitFailed(key=key, code=error.code))
            self.errors[error.code] = self.errors.get(error.code, 0) + 1
            raise
        self.history.write(h.Submitted(key=key, task_id=answer.task_id))
        return answer.task_id

    async def wait(self, task_id: str, *, timeout_s: float = PATIENCE_S) -> str:
        """The state of a task once it is final, or after `timeout_s`."""
        task = await self.client.wait(task_id, timeout_s=timeout_s, patience_s=timeout_s)
        self.history.write(h.Seen(task_id=task_id, state=task.state))
        return task.state

    async def cancel(self, task_id: str) -> None:
        """Cancel a task; that it has ended meanwhile is no mistake."""
        try:
            answer = await self.client.cancel(task_id, timeout_s=PATIENCE_S)
        except InvalidTransitionError:
            return
        except OrchestratorError as error:
            self.errors[error.code] = self.errors.get(error.code, 0) + 1
        else:
            self.history.write(h.Cancelled(task_id=answer.task_id))

    # A mixed load.

    async def keep_submitting(self, per_second: float) -> None:
        """Submit at this rate, until cancelled; `close` waits for what is under way then."""
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            self.begin_one()
            next_s = max(next_s + self._dice.expovariate(per_second), loop.time() - 1.0)
            await asyncio.sleep(max(0.0, next_s - loop.time()))

    def begin_one(self) -> None:
        """One client of the mix, in the background."""
        self._begin(self._one())

    def begin_poison(self) -> None:
        """A task that kills whoever runs it."""
        self._begin(self._quietly("poison", {}, max_attempts=4))

    def _begin(self, client: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(client)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait until every client has got its answer."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def abandon(self) -> None:
        """Every client goes away."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _one(self) -> None:
        dice, payload = self._dice, {"ms": self._dice.choice((5, 20, 60, 200, 1500)), "bulk": ""}
        if dice.random() < 0.05:
            payload["bulk"] = "x" * BULKY
        kind = "work"
        if dice.random() < 0.1:
            kind, payload = "fails", {**payload, "times": dice.choice((1, 2, 9))}
        ttl_ms = dice.choice((50, 2_000, 20_000)) if dice.random() < 0.05 else None
        priority = dice.choice(PRIORITIES)
        task_id = await self._quietly(kind, payload, priority=priority, ttl_ms=ttl_ms)
        if task_id is None:
            return
        what = dice.random()
        if what < 0.05:
            await self.cancel(task_id)
        elif what < 0.25:
            try:
                await self.wait(task_id)
            except OrchestratorError as error:
                self.errors[error.code] = self.errors.get(error.code, 0) + 1

    async def _quietly(
        self, kind: str, payload: Mapping[str, object], *, priority: TaskPriority = TaskPriority.NORMAL,
        ttl_ms: int | None = None, max_attempts: int = 3,
    ) -> str | None:  # fmt: skip
        """Submit; an error is counted. Now and then the same again, as a client does that forgot the answer."""
        key = f"{self._name}-{self.submitted + 1}"
        task_id = None
        for _ in range(2 if self._dice.random() < 0.1 else 1):
            try:
                task_id = await self.submit(
                    kind, payload, key=key, priority=priority, ttl_ms=ttl_ms, max_attempts=max_attempts
                )
            except OrchestratorError:
                continue
        return task_id
