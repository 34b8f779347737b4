"""What is checked of an owner as it decides: the core's invariants, and rules that only a bystander can see.

- No task waits though an agent is free for it, and none is placed before one that comes first.
- A slot is free once the report was answered, and what a refused insert took is given back.
- Nobody is judged by a silence that could not have been heard.
"""

from collections.abc import Sequence
from typing import Final

from tests.simulation.database import Database
from tests.simulation.world import World

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.effects import Batch, Effect
from callboard.orchestrator.core.filters import mismatch
from callboard.orchestrator.core.invariants import BrokenInvariantError, check
from callboard.orchestrator.core.model import Task
from callboard.orchestrator.core.pool import Pool
from callboard.schemas.vocabulary import Outcome, TaskState

CHECKED_SHARE: Final = 0.1
"""After so many of the events and seals the invariants are checked: a check looks at everything."""
LOOKED_AT_CLOSELY: Final = 20
"""One schedule of so many is checked after each of them."""


class Watch:
    """Looks at one owner's pool."""

    def __init__(self, world: World, pool: Pool, database: Database, epoch: int) -> None:
        self._world, self._pool, self._database, self._epoch = world, pool, database, epoch
        self._share = 1.0 if world.seed % LOOKED_AT_CLOSELY == 0 else CHECKED_SHARE
        self._check()

    def handled(self, event: ev.Event, effects: Sequence[Effect]) -> None:
        """An event was taken in."""
        if self._world.chance(self._share):
            self._check()
        if isinstance(event, ev.ResultReported | ev.FailureReported):
            agent = self._pool.agents.get(event.agent_id)
            is_answered = not any(isinstance(effect, do.LookUp) for effect in effects)
            is_known = agent is not None and agent.incarnation == event.incarnation
            if is_known and is_answered:
                self._check_free(event.task_id, event.attempt)
        elif isinstance(event, ev.BatchCommitted):
            for task_id in event.refused:
                self._check_free(task_id)

    def _check_free(self, task_id: str, attempt: int | None = None) -> None:
        for agent in self._pool.agents.values():
            if any(held[0] == task_id and attempt in {None, held[1]} for held in agent.holds):
                self._world.fail(f"{agent.agent_id} still has a slot for {task_id}/{attempt or 1}", about=task_id)

    def sealed(self, batch: Batch, now_ms: int) -> None:
        """A batch was closed."""
        if self._world.chance(self._share):
            self._check()
        number = batch.number if batch.is_written else None
        placed = [
            task
            for task in self._pool.tasks.values()
            if task.state is TaskState.ASSIGNED and task.changed_in == number and task.assigned_ms == now_ms
        ]
        waiting = [task for task in self._pool.tasks.values() if task.state is TaskState.QUEUED]
        if placed and self._epoch == self._database.epoch:
            # The oracle has no window: what waits in the database alone comes first just the same.
            waiting += [task for task in self._database.queued() if task.task_id not in self._pool.tasks]
        for task in waiting:
            self._check_waits_rightly(task, placed)
        self._check_grace(batch)

    def _check_waits_rightly(self, task: Task, placed: Sequence[Task]) -> None:
        key = task.concurrency_key
        use = None if key is None else self._pool.queue.keys.find(key)
        if use is not None and not use.is_open:
            return
        for agent in self._pool.agents.values():
            if mismatch(task.needs, agent) is not None:
                continue
            # What is still listed as ready was more than one batch places: the next one goes on.
            is_due = not self._pool.queue.has_ready and self._pool.reading is None
            if agent.obstacle is None and is_due:
                self._world.fail(f"{task.task_id} waits though {agent.agent_id} is free", about=task.task_id)
            later = [other.task_id for other in placed if other.agent_id == agent.agent_id and other.order > task.order]
            if later:
                self._world.fail(f"{agent.agent_id} got {later} before {task.task_id}", about=task.task_id)

    def _check_grace(self, batch: Batch) -> None:
        from_ms, until_ms = self._pool.observing_from_ms, self._pool.grace_until_ms
        for change in batch.changes.tasks:
            for end in change.ended:
                is_judged = end.outcome is Outcome.TIMED_OUT or change.columns.reason == "lease over"
                if is_judged and from_ms <= end.ended_ms < until_ms:
                    task_id = change.columns.task_id
                    self._world.fail(f"{task_id}/{end.attempt} was judged within the grace", about=task_id)

    def _check(self) -> None:
        try:
            check(self._pool)
        except BrokenInvariantError as error:
            self._world.fail(str(error))
