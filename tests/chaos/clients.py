"""Clients that submit, ask again, wait, cancel, finish, retry, answer and pause; they write down what they are told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec
from tests.chaos import history as h
from tests.chaos.rules_of_tasks import CLIENTS_RESULT

from callboard.schemas.errors import InvalidTransitionError, OrchestratorError, StaleAttemptError
from callboard.schemas.tasks import Backoff, Requirements, TaskSpec
from callboard.schemas.vocabulary import TaskPriority, TaskState

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from random import Random

    from callboard.bus.client import Client

SECOND: Final = "second"
"""What every other agent can do, and some tasks require."""
PRIORITIES: Final = tuple(TaskPriority)
BACKOFF: Final = Backoff(initial_ms=100, factor=2.0, max_ms=1000)
PATIENCE_S: Final = 60.0
DURATIONS_MS: Final = (5, 20, 60, 200, 1500)
RARE: Final = 0.05
SOME: Final = 0.1
CANCELLED: Final = 0.05
COMPLETED: Final = 0.03
AWAITED: Final = 0.2
RETRIED: Final = 0.5
"""Of those that ended without success, and whose client knows."""
RUN_LIMIT_MS: Final = 300
LOOK_S: Final = 0.2
BULKY: Final = 12_000
"""Characters of a payload that does not fit once NATS takes small messages only."""


class Clients:
    """Any number of clients over one connection.

    Attributes:
        errors: how often each error reached a user of the SDK, by what was asked.
        answers: whether somebody answers what agents ask (`keep_answering`); without, no task asks anything.
    """

    def __init__(self, client: Client, history: h.History, dice: Random, *, name: str = "k") -> None:
        self.client, self.history = client, history
        self.errors: dict[str, int] = {}
        self.submitted = 0
        self.answers = False
        self._answered: set[tuple[str, int]] = set()
        self._dice = dice
        self._name = name
        self._tasks: set[asyncio.Task[object]] = set()

    async def submit(
        self, kind: str = "work", payload: Mapping[str, object] | None = None, *, timeout_s: float = PATIENCE_S,
        **wanted: Any,  # noqa: ANN401 - fields of a specification
    ) -> str:  # fmt: skip
        """Submit a task with the specification's fields `wanted`, and return its id.

        Raises:
            OrchestratorError: as the SDK raises it, after `timeout_s`.
        """
        key: str = wanted.get("key") or self.new_key()
        spec = TaskSpec(
            type=kind,
            payload=msgspec.Raw(msgspec.json.encode(payload or {"ms": 20})),
            backoff=BACKOFF,
            **{**wanted, "key": key},
        )
        self.history.write(h.Submitting(key=key))
        try:
            answer = await self.client.submit_spec(spec, timeout_s=timeout_s)
        except OrchestratorError as error:
            self.history.write(h.SubmitFailed(key=key, code=error.code))
            self._count("submit", error)
            raise
        self.history.write(h.Submitted(key=key, task_id=answer.task_id))
        return answer.task_id

    def new_key(self) -> str:
        """One that no other submit has."""
        self.submitted += 1
        return f"{self._name}-{self.submitted}"

    def _count(self, verb: str, error: OrchestratorError) -> None:
        what = f"{verb}: {error.code}"
        self.errors[what] = self.errors.get(what, 0) + 1

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
            self._count("cancel", error)
        else:
            self.history.write(h.Cancelled(task_id=answer.task_id))

    async def complete(self, task_id: str) -> None:
        """Finish a task oneself; that it has ended otherwise meanwhile is no mistake."""
        self.history.write(h.Completing(task_id=task_id))
        try:
            answer = await self.client.complete(task_id, msgspec.json.decode(CLIENTS_RESULT), timeout_s=PATIENCE_S)
        except InvalidTransitionError:
            return
        except OrchestratorError as error:
            self._count("complete", error)
        else:
            self.history.write(h.Completed(task_id=answer.task_id, changed=answer.changed))

    async def retry(self, task_id: str) -> None:
        """Ask for a new task in the place of one that ended without success, now and then twice."""
        for _ in range(2 if self._dice.random() < SOME else 1):
            self.history.write(h.Retrying(task_id=task_id))
            try:
                answer = await self.client.retry(task_id, timeout_s=PATIENCE_S)
            except OrchestratorError as error:
                self._count("retry", error)
            else:
                self.history.write(h.Retried(task_id=task_id, retry=answer.task_id))

    async def keep_answering(self) -> None:
        """Answer what agents ask, until cancelled."""
        self.answers = True
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                page = await self.client.list(state=TaskState.WAITING_INPUT, limit=100)
            except OrchestratorError:
                continue
            for task in page.tasks:
                if (task.task_id, task.attempt) not in self._answered:
                    self._answered.add((task.task_id, task.attempt))
                    self._begin(self._answer(task.task_id, task.attempt))

    async def _answer(self, task_id: str, attempt: int) -> None:
        """What is said is told apart from what is said to any other attempt."""
        self.history.write(h.Answering(task_id=task_id, attempt=attempt))
        try:
            await self.client.answer(task_id, f"{task_id}/{attempt}", attempt=attempt, query=1, timeout_s=PATIENCE_S)
        except (InvalidTransitionError, StaleAttemptError):
            return
        except OrchestratorError as error:
            self._count("answer", error)

    async def pause(self, task_type: str | None) -> None:
        """Pause the pool, or a type of task in it."""
        self.history.write(h.Pausing(type=task_type))
        try:
            await self.client.pause(task_type, timeout_s=PATIENCE_S)
        except OrchestratorError as error:
            self._count("pause", error)
        else:
            self.history.write(h.Paused(type=task_type))

    async def unpause(self, task_type: str | None) -> None:
        """End a pause. That must not fail: nothing would be done any more."""
        self.history.write(h.Unpausing(type=task_type))
        await self.client.unpause(task_type, timeout_s=2 * PATIENCE_S)
        self.history.write(h.Unpaused(type=task_type))

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
        dice = self._dice
        kind, payload, wanted = self._any_task()
        task_id = await self._quietly(kind, payload, **wanted)
        what = dice.random()
        if task_id is None:
            return
        if what < CANCELLED:
            await self.cancel(task_id)
        elif what < CANCELLED + COMPLETED:
            await self.complete(task_id)
        if what < CANCELLED + COMPLETED + AWAITED:
            await self._see_it_end(task_id)

    async def _see_it_end(self, task_id: str) -> None:
        try:
            state = TaskState(await self.wait(task_id))
        except OrchestratorError as error:
            self._count("wait", error)
        else:
            if state.is_final and state is not TaskState.SUCCEEDED and self._dice.random() < RETRIED:
                await self.retry(task_id)

    def _any_task(self) -> tuple[str, dict[str, object], dict[str, Any]]:
        dice = self._dice
        payload: dict[str, object] = {"ms": dice.choice(DURATIONS_MS)}
        wanted: dict[str, Any] = {"priority": dice.choice(PRIORITIES)}
        kind = "work"
        if dice.random() < RARE:
            payload["bulk"] = "x" * BULKY
        if dice.random() < RARE:
            wanted["ttl_ms"] = dice.choice((50, 2_000, 20_000))
        if dice.random() < SOME:
            kind, payload["times"] = "fails", dice.choice((1, 2, 9))
        if self.answers and dice.random() < RARE:
            kind = "asks"
        if dice.random() < RARE:
            wanted["run_timeout_ms"] = RUN_LIMIT_MS
        if dice.random() < SOME:
            wanted["requires"] = Requirements(capabilities=[SECOND])
        if dice.random() < SOME:
            wanted |= {"concurrency_key": f"c{dice.randrange(5)}", "concurrency_limit": dice.choice((1, 2, 3))}
        return kind, payload, wanted

    async def _quietly(self, kind: str, payload: Mapping[str, object], **wanted: Any) -> str | None:  # noqa: ANN401 - fields of a specification
        """Submit; an error is counted. Now and then the same again, as a client does that forgot the answer."""
        key, task_id = self.new_key(), None
        for _ in range(2 if self._dice.random() < SOME else 1):
            try:
                task_id = await self.submit(kind, payload, key=key, **wanted)
            except OrchestratorError:
                continue
        return task_id
