"""What is known of the tasks that wait in the database only, without holding them.

Rules:
- A read of the database may be older than what memory has seen since. What left memory while a read was under way is
  therefore not taken from that read: `Departures` tells.
- Time changes tasks in the database as it does in memory. `Agenda` bounds from below the instant at which the first of
  them is changed: the end of a back-off or delay, or a deadline.
"""

from collections import Counter, OrderedDict
from typing import Final

from callboard.schemas.vocabulary import TaskState

KEPT_DEPARTURES: Final = 10_000

AgendaPlace = tuple[int, str]
"""An instant and a task id."""

AGENDA_START: Final[AgendaPlace] = (0, "00000000-0000-0000-0000-000000000000")


class Departures:
    """Which tasks left memory last. An answer of "perhaps" is yes: one reads again, and finds it out."""

    def __init__(self) -> None:
        self.count = 0
        """How many there were ever: the stamp of a read that begins now."""
        self.is_pinned = False
        """Whether a read is under way for which none may be forgotten."""
        # A dictionary finds its first entry behind the gaps of all that went before.
        self._stamps: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0

    def note(self, task_id: str) -> None:
        """The task leaves memory."""
        self.count += 1
        self._stamps.pop(task_id, None)
        self._stamps[task_id] = self.count
        while len(self._stamps) > KEPT_DEPARTURES and not self.is_pinned:
            _, self._forgotten = self._stamps.popitem(last=False)

    def since(self, task_id: str, stamp: int) -> bool:
        """Whether the task may have left memory after a read with this stamp began."""
        return stamp < self._forgotten or self._stamps.get(task_id, 0) > stamp


class Agenda:
    """When time changes the first of the absent tasks, at the earliest."""

    def __init__(self) -> None:
        self.edge: AgendaPlace | None = None
        self.is_wanted = False
        """Whether it is to be read, or being read."""
        self._low: AgendaPlace | None = None

    def note_absent(self, place: AgendaPlace) -> None:
        """A task with this instant waits in the database only."""
        self.edge = place if self.edge is None else min(self.edge, place)
        self._low = place if self._low is None else min(self._low, place)

    def note_asked(self) -> None:
        """It is being read from its edge on."""
        self._low = None

    def note_read(self, edge: AgendaPlace | None) -> None:
        """Memory has all before `edge`, those excepted that have left it meanwhile."""
        self.edge = min((place for place in (edge, self._low) if place is not None), default=None)
        self.is_wanted = False


class Absent:
    """The tasks that are live, and not in memory."""

    def __init__(self) -> None:
        self.counts: Counter[TaskState] = Counter()
        self.agenda = Agenda()
        self.departures = Departures()
