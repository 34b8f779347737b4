"""Tasks from their birth to their end, as this owner's commits wrote them: what is asked of them needs no read.

Rules:
- What is here was committed. It is a cache: what is not here is read.
- Live tasks are kept with payload and specification, those that came first; a task that is not kept from its birth
  on is not known at all. Those that had to wait have room of their own: a deep queue must not keep out the tasks that
  begin at once and are over soon.
- Of the tasks that have ended the last ones are kept: whoever asks late asks soon.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

from callboard.orchestrator.core.changes import NewTask, TaskChange, TaskColumns
from callboard.orchestrator.core.model import EndedAttempt
from callboard.orchestrator.store.documents import document_of
from callboard.orchestrator.store.memory_rows import Kept, whole_of
from callboard.orchestrator.store.port import OfferContent
from callboard.schemas.limits import KEPT_ATTEMPTS
from callboard.schemas.tasks import TaskDocument

MOST_BYTES: Final = 8 * 1024 * 1024
ENTRY_BYTES: Final = 1024
"""What a task takes beside its payload, specification and result, about."""


class _Room(msgspec.Struct):
    """How much of a share is taken."""

    bytes: int = 0


class _Live(msgspec.Struct):
    new: NewTask
    columns: TaskColumns
    room: _Room
    ended: tuple[EndedAttempt, ...] = ()


class RecentTasks:
    """What was committed of young tasks.

    Args:
        pool: whose tasks.
        most_bytes: how much to keep of live ones that had to wait, and of the others; half of that of ended ones.
    """

    def __init__(self, pool: str, most_bytes: int = MOST_BYTES) -> None:
        self._pool = pool
        self._most_bytes = most_bytes
        self._most_ended = most_bytes // 2
        self._waited, self._began = _Room(), _Room()
        self._ended_bytes = 0
        self._live: dict[str, _Live] = {}
        # A dictionary finds its first entry behind the gaps of all that went before.
        self._ended: OrderedDict[str, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._live) + len(self._ended)

    def note(self, changes: Iterable[TaskChange]) -> None:
        """These changes are committed."""
        for change in changes:
            columns = change.columns
            new = change.new
            if new is not None:
                room = self._waited if columns.agent_id is None else self._began
                if room.bytes < self._most_bytes:
                    self._live[columns.task_id] = _Live(new, columns, room)
                    room.bytes += _size(new)
            known = self._live.get(columns.task_id)
            if known is None:
                continue
            known.columns = columns
            if change.ended:
                known.ended = (*known.ended, *change.ended)[-KEPT_ATTEMPTS:]
            if change.ending is not None:
                del self._live[columns.task_id]
                known.room.bytes -= _size(known.new)
                self._keep(
                    Kept(pool=self._pool, new=known.new, columns=columns, ended=known.ended, ending=change.ending)
                )

    def _keep(self, kept: Kept) -> None:
        self._ended[kept.columns.task_id] = kept
        self._ended_bytes += _size_ended(kept)
        while self._ended_bytes > self._most_ended:
            _, oldest = self._ended.popitem(last=False)
            self._ended_bytes -= _size_ended(oldest)

    def forget(self, task_ids: Iterable[str]) -> None:
        """These tasks do not exist, or are not as they were decided."""
        for task_id in task_ids:
            kept = self._ended.pop(task_id, None)
            if kept is not None:
                self._ended_bytes -= _size_ended(kept)
            known = self._live.pop(task_id, None)
            if known is not None:
                known.room.bytes -= _size(known.new)

    def ended(self, task_ids: Iterable[str]) -> dict[str, TaskDocument]:
        """The documents of those of these tasks that are known to be final."""
        ended = self._ended
        return {task_id: document_of(whole_of(ended[task_id])) for task_id in task_ids if task_id in ended}

    def content(self, task_id: str) -> OfferContent | None:
        """What an offer of this task carries, if it is known."""
        known = self._live.get(task_id)
        if known is None:
            return None
        return OfferContent(spec=known.new.spec, payload=known.new.payload, progress=known.columns.progress)


def _size(new: NewTask) -> int:
    return len(new.payload) + len(new.spec) + ENTRY_BYTES


def _size_ended(kept: Kept) -> int:
    return _size(kept.new) + (0 if kept.ending is None else len(kept.ending.result or b""))
