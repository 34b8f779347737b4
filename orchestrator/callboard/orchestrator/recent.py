"""Tasks from their birth to their end, as this owner's commits wrote them: who waits for one needs no read.

Rules:
- What is here was committed. It is a cache: what is not here is read.
- Payload and specification of live tasks are kept up to `most_bytes`, those that came first; a task that is not kept
  from its birth on is not known at all.
"""

from collections.abc import Iterable
from typing import Final

from callboard.orchestrator.core.changes import NewTask, TaskChange
from callboard.orchestrator.core.model import EndedAttempt
from callboard.orchestrator.store.documents import document_of
from callboard.orchestrator.store.memory_rows import Kept, whole_of
from callboard.schemas.limits import KEPT_ATTEMPTS
from callboard.schemas.tasks import TaskDocument

MOST_BYTES: Final = 16 * 1024 * 1024
ENTRY_BYTES: Final = 1024
"""What a task takes beside its payload and specification, about."""


class RecentTasks:
    """What was committed of young tasks.

    Args:
        pool: whose tasks.
        most_bytes: how much to keep, about.
    """

    def __init__(self, pool: str, most_bytes: int = MOST_BYTES) -> None:
        self._pool = pool
        self._most_bytes = most_bytes
        self._bytes = 0
        self._live: dict[str, tuple[NewTask, list[EndedAttempt]]] = {}
        self._ended: dict[str, Kept] = {}

    def __len__(self) -> int:
        return len(self._live) + len(self._ended)

    def note(self, changes: Iterable[TaskChange]) -> None:
        """These changes are committed."""
        for change in changes:
            task_id = change.columns.task_id
            if change.new is not None and self._bytes < self._most_bytes:
                self._live[task_id] = change.new, []
                self._bytes += _size(change.new)
            known = self._live.get(task_id)
            if known is None:
                continue
            new, ended = known
            ended += change.ended
            if change.ending is not None:
                del self._live[task_id]
                self._bytes -= _size(new)
                self._ended[task_id] = Kept(
                    pool=self._pool,
                    new=new,
                    columns=change.columns,
                    ended=tuple(ended[-KEPT_ATTEMPTS:]),
                    ending=change.ending,
                )

    def forget(self, task_ids: Iterable[str]) -> None:
        """These tasks do not exist, or are not as they were decided."""
        for task_id in task_ids:
            self._ended.pop(task_id, None)
            known = self._live.pop(task_id, None)
            if known is not None:
                self._bytes -= _size(known[0])

    def take(self, task_ids: Iterable[str], *, wanted: Iterable[str]) -> dict[str, TaskDocument]:
        """The documents of those `wanted` that are known; `task_ids` are final, and forgotten now."""
        found = {task_id: self._ended[task_id] for task_id in wanted if task_id in self._ended}
        for task_id in task_ids:
            self._ended.pop(task_id, None)
        return {task_id: document_of(whole_of(kept)) for task_id, kept in found.items()}


def _size(new: NewTask) -> int:
    return len(new.payload) + len(new.spec) + ENTRY_BYTES
