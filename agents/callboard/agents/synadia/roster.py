"""Who of the protocol's agents is there: heartbeats, discovery records and the clock in, comings and goings out. Pure.

Rules:
- A *peer* is what one prompt subject stands for. Several instances may share it, as a queue group (section 3.4).
- An instance that was not heard for three of its intervals is `silent` (section 8.2), and is to be asked: heartbeats
  may be lost. What could not be heard counts for nothing: after `resumed` everybody has three intervals anew.
- A peer was *restarted* when an instance is gone and those that are left were first heard after its last word: what
  the old one did is lost. It has *left* when no instance remains.
"""

from dataclasses import dataclass, field
from typing import Final

from callboard.agents.synadia.peers import Peer
from callboard.agents.synadia.wire import DEFAULT_INTERVAL_S

MISSED_BEATS: Final = 3
LONGEST_INTERVAL_MS: Final = 10 * 60 * 1000
"""A longer interval is believed to be this: else one heartbeat could keep an agent for ever."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A peer is there that was not."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Restarted:
    """A peer is there anew: what it did before is lost."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Left:
    """A peer is there no more."""

    subject: str


Change = Joined | Restarted | Left


@dataclass(slots=True)
class _Instance:
    peer: Peer
    joined_ms: int
    heard_ms: int
    interval_ms: int


@dataclass(slots=True)
class _Place:
    """A prompt subject, and the instances behind it."""

    instances: set[str] = field(default_factory=set[str])


class Roster:
    """All peers, by their prompt subjects."""

    def __init__(self) -> None:
        self._instances: dict[str, _Instance] = {}
        self._places: dict[str, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def knows(self, instance_id: str) -> bool:
        """Whether this instance need not be asked who it is."""
        return instance_id in self._instances

    def others(self, peer: Peer) -> list[str]:
        """The other instances at the place of `peer`, which may be dead by now."""
        place = self._places.get(peer.subject)
        return [] if place is None else sorted(place.instances - {peer.instance_id})

    def beat(self, instance_id: str, interval_s: float, now_ms: int) -> None:
        """A known instance lives."""
        found = self._instances.get(instance_id)
        if found is not None:
            found.heard_ms = now_ms
            found.interval_ms = _interval_ms(interval_s)

    def introduce(self, peer: Peer, now_ms: int, *, interval_s: float = DEFAULT_INTERVAL_S) -> list[Change]:
        """An instance told who it is. One that moved to another subject has left the old one."""
        known = self._instances.get(peer.instance_id)
        if known is not None and known.peer.subject == peer.subject:
            known.peer, known.heard_ms = peer, now_ms
            return []
        changes = self.gone(peer.instance_id)
        self._instances[peer.instance_id] = _Instance(peer, now_ms, now_ms, _interval_ms(interval_s))
        place = self._places.setdefault(peer.subject, _Place())
        place.instances.add(peer.instance_id)
        return [*changes, Joined(peer)] if len(place.instances) == 1 else changes

    def gone(self, instance_id: str) -> list[Change]:
        """An instance is there no more, and known to be so."""
        lost = self._instances.pop(instance_id, None)
        if lost is None:
            return []
        subject = lost.peer.subject
        place = self._places[subject]
        place.instances.discard(instance_id)
        if not place.instances:
            del self._places[subject]
            return [Left(subject)]
        left = [self._instances[each] for each in place.instances]
        if all(each.joined_ms >= lost.heard_ms for each in left):
            return [Restarted(max(left, key=lambda each: each.joined_ms).peer)]
        return []

    def vacate(self, subject: str) -> list[Change]:
        """Nobody listens on this subject: whoever was there is gone."""
        place = self._places.get(subject)
        instances = [] if place is None else sorted(place.instances)
        changes = [change for each in instances for change in self.gone(each)]
        return [change for change in changes if isinstance(change, Left)]

    def silent(self, now_ms: int) -> list[str]:
        """Instances that were not heard for too long: gone, unless they answer when they are asked."""
        return [name for name, each in self._instances.items() if now_ms >= _due_ms(each)]

    def resumed(self, now_ms: int) -> None:
        """Nothing could be heard until now."""
        for each in self._instances.values():
            each.heard_ms = now_ms

    def next_due_ms(self) -> int | None:
        """When `silent` may have something to say."""
        return min(map(_due_ms, self._instances.values()), default=None)


def _due_ms(instance: _Instance) -> int:
    return instance.heard_ms + MISSED_BEATS * instance.interval_ms


def _interval_ms(interval_s: float) -> int:
    return max(1, min(round(min(interval_s, LONGEST_INTERVAL_MS) * 1000), LONGEST_INTERVAL_MS))
