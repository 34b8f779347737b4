"""Changes that nobody waits for: written with the next change of their task, or when their patience is over.

A task that runs, and its progress, are such. Most tasks end before their patience does: then one write is spared.
"""

from collections.abc import Iterator
from typing import Final

from callboard.orchestrator.core.model import Task


class LazyWrites:
    """Tasks with such a change. Each patience has its queue, and so each queue is in the order of its ends."""

    def __init__(self) -> None:
        self._queues: Final[dict[int, dict[str, tuple[Task, int]]]] = {}

    def put(self, task: Task, now_ms: int, patience_ms: int) -> None:
        """Have `task` wait, if it does not yet: who waits already has less patience left."""
        self._queues.setdefault(patience_ms, {}).setdefault(task.task_id, (task, now_ms + patience_ms))

    def discard(self, task_id: str) -> None:
        """The task waits no more, if it did."""
        for queue in self._queues.values():
            queue.pop(task_id, None)

    def due(self, now_ms: int) -> list[Task]:
        """Those whose patience is over; they wait until they are discarded."""
        found: list[Task] = []
        for queue in self._queues.values():
            for task, due_ms in queue.values():
                if due_ms > now_ms:
                    break
                found.append(task)
        return found

    def next_due_ms(self) -> int | None:
        """When the first patience is over."""
        firsts = (next(iter(queue.values()), None) for queue in self._queues.values())
        return min((due_ms for _, due_ms in filter(None, firsts)), default=None)

    def __iter__(self) -> Iterator[str]:
        return (task_id for queue in self._queues.values() for task_id in queue)
