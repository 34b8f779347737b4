"""What the core decided, done in its order: after the commit, and only while the owner may act.

Rules:
- What needs content is given what is at hand: of a submission until its answer is given, of a young task until its end.
  The rest is read, beside the others, and its effects are done once it is there.
- Whoever waits for a task is told once all effects at hand are done.
"""

from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from callboard.orchestrator.core.changes import TaskChange
from callboard.orchestrator.core.effects import (
    Announcement,
    Answer,
    Effect,
    LookUp,
    PublishTask,
    ReadWindow,
    SendOffer,
)
from callboard.orchestrator.core.events import Event
from callboard.orchestrator.direct_effects import DirectEffects
from callboard.orchestrator.reads import Reads
from callboard.orchestrator.recent import RecentTasks
from callboard.orchestrator.store.port import OfferContent
from callboard.orchestrator.tickets import Fresh, Ticket
from callboard.orchestrator.waiters import Waiters

TRUSTED_EFFECTS: Final = 64
"""Effects done between two looks at the lease, a millisecond about; what they send is written out later still."""

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class Effects:
    """The effects of one pool that are still to be done.

    Args:
        direct: does those that need no database.
        reads: reads what the others need, of `pool`.
        spawn: runs a coroutine beside the owner.
        post: hands an event to the machine.
        may_act: whether the lease is trusted.
        most_waiters: how many tasks may be waited for.
    """

    def __init__(
        self,
        direct: DirectEffects,
        reads: Reads,
        *,
        pool: str,
        spawn: Spawn,
        post: Callable[[Event], None],
        may_act: Callable[[], bool],
        most_waiters: int,
    ) -> None:
        self._direct, self._reads = direct, reads
        self._spawn, self._may_act = spawn, may_act
        self._recent = RecentTasks(pool)
        self.waiters = Waiters(self._recent.ended, reads.documents, spawn, most=most_waiters)
        self._queue: deque[Effect | Announcement] = deque()
        self._fresh: dict[str, Fresh] = {}
        self._unread: list[SendOffer] = []
        self._finished: list[str] = []
        # Every task has several effects: one look says whose each is.
        self._verbs: dict[type[Any], Callable[[Any], None]] = {
            PublishTask: self._note_task,
            Answer: self._answer,
            SendOffer: self._offer,
            LookUp: lambda effect: spawn(reads.look_up(effect, post)),
            ReadWindow: lambda effect: spawn(reads.window(effect.asked, post)),
        }

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, effects: Iterable[Effect | Announcement]) -> None:
        """Have these done, after all that were added before."""
        self._queue.extend(effects)

    def committed(self, changes: Iterable[TaskChange], effects: Iterable[Effect], dropped: frozenset[str]) -> None:
        """These changes are durable, but for those of `dropped`; `effects`, which follow from them, are not added."""
        for effect in effects:
            if not isinstance(effect, Answer) or not isinstance(effect.ticket, Ticket):
                continue
            fresh = effect.ticket.fresh
            if fresh is not None and effect.task_id is not None and effect.task_id not in dropped:
                self._fresh[effect.task_id] = fresh
        self._recent.note(changes)
        self._recent.forget(dropped)

    def do(self) -> None:
        """Do all that may be done."""
        others = self._direct.do
        while self._queue and self._may_act():
            for _ in range(min(len(self._queue), TRUSTED_EFFECTS)):
                effect = self._queue.popleft()
                self._verbs.get(type(effect), others)(effect)
        self._direct.flush()
        if self._finished:
            finished, self._finished = self._finished, []
            waited = self.waiters.waited_for(finished)
            self.waiters.finished(waited, self._recent.ended(waited))
        if self._unread:
            unread, self._unread = self._unread, []
            self._spawn(self._reads.offer(unread, self._offer_read))

    def _note_task(self, effect: PublishTask) -> None:
        if effect.event.state.is_final:
            self._finished.append(effect.task_id)
        self._direct.do(effect)

    def _answer(self, effect: Answer) -> None:
        if effect.task_id is not None:
            self._fresh.pop(effect.task_id, None)
        self._direct.do(effect)

    def _offer(self, effect: SendOffer) -> None:
        fresh = self._fresh.get(effect.task_id)
        content = self._recent.content(effect.task_id) if fresh is None else fresh.content
        if content is None:
            self._unread.append(effect)
        else:
            self._direct.offer(effect, content)

    def _offer_read(self, offers: list[tuple[SendOffer, OfferContent]]) -> None:
        if self._may_act():
            for offer, content in offers:
                self._direct.offer(offer, content)
            self._direct.flush()
