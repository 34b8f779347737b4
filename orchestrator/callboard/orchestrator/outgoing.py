"""What is told and not known to have arrived: which of it memory has, what must be read again, what may be forgotten.

The rules of the outbox (`publisher` carries them out):

1. Whatever a batch tells is written with it. After the commit it is published from memory, and counts as published
   once the carrier knows that it has arrived; a later batch, or a renewal of the lease, then forgets the rows.
2. What a former owner left is read and published before anything of ours.
3. When anything fails, memory is of no use: what is not known to have arrived is read again and published again. So
   memory holds little, however long NATS is away, and the table holds the rest.
4. Groups go one after another: what a later batch tells is never sent before an earlier one has arrived.

An event's id never changes, so that whoever hears it twice can tell.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from callboard.orchestrator.store.port import NOTHING_PUBLISHED, NOWHERE, Place, Published
from callboard.schemas.events import Change

HELD_BYTES: Final = 8 * 1024 * 1024
"""What memory holds of what is committed and not published; beyond, it is read from the table."""


class Told(NamedTuple):
    """What one batch tells; `size` in bytes."""

    place: Place
    changes: Sequence[Change]
    size: int


class Outgoing:
    """The state of one pool's publishing, from its take-over on."""

    def __init__(self, epoch: int, *, held_bytes: int = HELD_BYTES) -> None:
        self._held_bytes = held_bytes
        self._waiting: deque[Told] = deque()
        self._waiting_bytes = 0
        self.last = Place(epoch, 0)
        """The last batch that is known to be committed."""
        self.published = NOWHERE
        """Everything up to this batch has arrived."""
        self._read_through = self.last
        """Through this batch the table has to be read: memory has only what came later."""
        self._forgotten = NOWHERE

    def take(self, number: int, changes: Sequence[Change]) -> None:
        """Batch `number` of this epoch is committed, and tells this."""
        had_all = self.is_empty
        self.last = Place(self.last.epoch, number)
        if not changes:
            # Its row, if it has one, tells of nothing that was written: it is forgotten with what came before.
            if had_all:
                self.published = self.last
            return
        size = sum(len(change.data) for change in changes)
        self._waiting.append(Told(self.last, changes, size))
        self._waiting_bytes += size
        if self._waiting_bytes > self._held_bytes:
            self.failed()

    @property
    def must_read(self) -> bool:
        """Whether the table has what memory has not."""
        return self.published < self._read_through

    @property
    def is_empty(self) -> bool:
        """Whether everything has arrived."""
        return not self._waiting and not self.must_read

    def group(self) -> list[Told]:
        """What memory has to be published next, while nothing has to be read; say `arrived` for the last of it."""
        return list(self._waiting)

    def arrived(self, place: Place) -> None:
        """Everything up to `place` has."""
        self.published = max(self.published, place)
        while self._waiting and self._waiting[0].place <= self.published:
            self._waiting_bytes -= self._waiting.popleft().size

    def failed(self) -> None:
        """Nobody knows what has arrived: hold nothing, the table has it all."""
        self._waiting.clear()
        self._waiting_bytes = 0
        self._read_through = self.last

    @property
    def to_forget(self) -> Published:
        """What need not be kept any more; say `forgot` once it is not."""
        if self.published == self._forgotten:
            return NOTHING_PUBLISHED
        return Published(self._forgotten, self.published)

    def forgot(self, published: Published) -> None:
        """The rows of these are gone."""
        if published != NOTHING_PUBLISHED:
            self._forgotten = published.through
