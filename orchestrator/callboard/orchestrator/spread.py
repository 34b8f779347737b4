"""How the pools spread over the replicas: what each replica concludes from what all have said of themselves. Pure.

Rules:
- The load of a replica is the number of pools that it has.
- A pool that nobody has goes to the least loaded of those who would serve it.
- A pool moves only where the giver has at least two pools more than the taker: after the move the giver has no fewer,
  so that no move can be the reason for its own reversal, and moving comes to an end (the sum of the squared loads falls
  with each move). Where all replicas stand for the same pools, each then has its fair share, rounded up or down.
- One move at a time, from the most loaded. Ties go by name, so that the same knowledge leads to the same conclusion.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from callboard.schemas.base import Message

WORTH_MOVING: Final = 2
"""By how many pools the giver must exceed the taker."""


class Standing(Message, frozen=True, kw_only=True):
    """What a replica says of itself."""

    holder: str
    """Who it is: the holder of its leases."""
    owns: frozenset[str]
    """Pools whose lease it has."""
    would_serve: frozenset[str]
    """Pools that it stands for, does not own, and could serve at once."""
    may_move: frozenset[str]
    """Pools that it owns and could hand over."""
    store: str | None = None
    """The identity of its database, if it knows and says it."""
    since_ms: int = 0
    """When it began, or the first one it knows that shares its database; by wall clocks."""


@dataclass(frozen=True, slots=True)
class Move:
    """A hand-over that evens the loads."""

    pool: str
    giver: str
    taker: str


def next_move(standings: Collection[Standing]) -> Move | None:
    """The one hand-over that comes next, or `None` when the pools are spread."""
    for giver in sorted(standings, key=lambda each: (-len(each.owns), each.holder)):
        for pool in sorted(giver.may_move):
            takers = [each for each in standings if pool in each.would_serve]
            if not takers:
                continue
            taker = min(takers, key=lambda each: (len(each.owns), each.holder))
            if len(giver.owns) - len(taker.owns) >= WORTH_MOVING:
                return Move(pool, giver.holder, taker.holder)
    return None


def heirs(standings: Collection[Standing]) -> dict[str, str]:
    """Who should take each pool that nobody has."""
    loads = {each.holder: len(each.owns) for each in standings}
    owned = frozenset[str]().union(*(each.owns for each in standings))
    wanted = frozenset[str]().union(*(each.would_serve for each in standings))
    chosen: dict[str, str] = {}
    for pool in sorted(wanted - owned):
        heir = min((loads[each.holder], each.holder) for each in standings if pool in each.would_serve)[1]
        chosen[pool] = heir
        loads[heir] += 1
    return chosen
