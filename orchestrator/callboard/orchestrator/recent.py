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

from callboard.orchestrator.core.changes import Ending, NewTask, TaskChange, TaskColumns
from callboard.orchestrator.core.model import EndedAttempt
from callboard.orchestrator.store.documents import document_of
from callboard.orchestrator.store.memory_rows import Kept, whole_of
from callboard.orchestrator.store.port import OfferContent
from callboard.schemas.limits import KEPT_ATTEMPTS
from callboard.schemas.tasks import TaskDocument

MOST_BYTES: Final = 8 * 1024 * 1024
ENTRY_BYTES: Final = 1024
"""What a task takes beside payload, specification, progress and result, about."""
ATTEMPT_BYTES: Final = 512
"""What an attempt that is over takes beside its error, and an agent's score in a decision, about."""


class _Room(msgspec.Struct):
    """How much of a share is taken."""

    bytes: int = 0


class _Live(msgspec.Struct):
    new: NewTask
    columns: TaskColumns
    room: _Room
    size: int
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
        self._ended: OrderedDict[str, tuple[Kept, int]] = OrderedDict()

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
                    self._live[columns.task_id] = _Live(new, columns, room, 0)
            known = self._live.get(columns.task_id)
            if known is None:
                continue
            known.columns = columns
            if change.ended:
                known.ended = (*known.ended, *change.ended)[-KEPT_ATTEMPTS:]
            known.room.bytes -= known.size
            known.size = _size(known)
            if change.ending is None:
                known.room.bytes += known.size
            else:
                del self._live[columns.task_id]
                self._keep(known, change.ending)

    def _keep(self, known: _Live, ending: Ending) -> None:
        columns = known.columns
        kept = Kept(pool=self._pool, new=known.new, columns=columns, ended=known.ended, ending=ending)
        size = known.size + len(ending.result or b"")
        self._ended[columns.task_id] = kept, size
        self._ended_bytes += size
        while self._ended_bytes > self._most_ended:
            _, (_, size) = self._ended.popitem(last=False)
            self._ended_bytes -= size

    def forget(self, task_ids: Iterable[str]) -> None:
        """These tasks do not exist, or are not as they were decided."""
        for task_id in task_ids:
            ended = self._ended.pop(task_id, None)
            if ended is not None:
                self._ended_bytes -= ended[1]
            known = self._live.pop(task_id, None)
            if known is not None:
                known.room.bytes -= known.size

    def ended(self, task_ids: Iterable[str]) -> dict[str, TaskDocument]:
        """The documents of those of these tasks that are known to be final."""
        ended = self._ended
        return {task_id: document_of(whole_of(ended[task_id][0])) for task_id in task_ids if task_id in ended}

    def content(self, task_id: str) -> OfferContent | None:
        """What an offer of this task carries, if it is known."""
        known = self._live.get(task_id)
        if known is None:
            return None
        return OfferContent(spec=known.new.spec, payload=known.new.payload, progress=known.columns.progress)


def _size(known: _Live) -> int:
    new, columns = known.new, known.columns
    size = ENTRY_BYTES + len(new.payload) + len(new.spec) + len(columns.progress or b"")
    size += ATTEMPT_BYTES * (len(known.ended) + len(columns.scores))
    for attempt in known.ended:
        size += ATTEMPT_BYTES * len(attempt.scores)
        if attempt.error is not None:
            size += len(attempt.error.message)
    return size
