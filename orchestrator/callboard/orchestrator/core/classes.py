"""A placement class: the tasks that need the same, and the agents that have it."""

from collections.abc import Iterator

from callboard.orchestrator.core.lanes import Front, Lane, Strand
from callboard.orchestrator.core.model import Needs
from callboard.orchestrator.core.sampling import SampleSet
from callboard.schemas.vocabulary import TaskPriority

Order = tuple[int, int, str]
"""Priority (the highest is the smallest), time and task id."""


class PlacementClass:
    """The tasks of one class and the agents for them."""

    __slots__ = ("eligible", "free", "fronts", "keyed", "marked", "needs", "plain")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.eligible: set[str] = set()
        self.free = SampleSet()
        self.fronts = tuple(Front() for _ in TaskPriority)
        self.plain = Strand(needs, None, None)
        self.keyed: dict[str, Strand] = {}
        """By concurrency key; those that nobody waits in are dropped."""
        self.marked: Order | None = None
        """The order under which it stands in the queue's list of ready classes."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits here."""
        return not self.keyed and self.plain.is_unused

    @property
    def strands(self) -> Iterator[Strand]:
        """All strands."""
        yield self.plain
        yield from self.keyed.values()

    @property
    def lanes(self) -> Iterator[Lane]:
        """All lanes."""
        return (lane for strand in self.strands for lane in strand.lanes.values())

    def firsts(self) -> Iterator[Lane]:
        """The lane that comes first of each priority, the highest first."""
        for front in reversed(self.fronts):
            if (lane := front.first()) is not None:
                yield lane
