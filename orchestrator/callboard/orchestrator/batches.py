"""Offers that go to an agent in one message, and which offers each such message held.

Rules:
- What one turn of the owner offers to one agent goes together, cut as `callboard.bus.gather` does.
- Which offers a message held is forgotten when it is answered, or when `KEPT` later ones went out: an answer that comes
  after that is of no use, since the core has repeated the offers.
"""

from collections.abc import Iterator
from typing import Final

from callboard.bus.gather import BATCH_BYTES, gathered
from callboard.orchestrator.core.model import Held

HEAD_BYTES: Final = 128
"""More than the frame around the offers takes."""
KEPT: Final = 10_000

Offer = tuple[Held, bytes]
"""An attempt, and its `assign` message."""


class Batches:
    """What waits to be sent, by agent, and what was sent and not answered."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Offer]] = {}
        self._sent: dict[int, list[Held]] = {}
        self._number = 0

    def add(self, agent_id: str, held: Held, message: bytes) -> None:
        """One more offer for an agent."""
        self._waiting.setdefault(agent_id, []).append((held, message))

    def take(self, max_payload: int) -> Iterator[tuple[str, list[Offer]]]:
        """What waits, cut into messages below `max_payload` bytes where one offer is; nothing waits any more."""
        most = min(BATCH_BYTES, max_payload - HEAD_BYTES)
        waiting, self._waiting = self._waiting, {}
        for agent_id, offers in waiting.items():
            for batch in gathered(offers, lambda offer: len(offer[1]) + 1, most_bytes=most):
                yield agent_id, batch

    def remember(self, offers: list[Held]) -> int:
        """A number for a message with these offers."""
        self._number += 1
        self._sent[self._number] = offers
        if len(self._sent) > KEPT:
            del self._sent[next(iter(self._sent))]
        return self._number

    def held_by(self, number: int) -> list[Held]:
        """The offers of a message that is answered now; nothing when it was answered before."""
        return self._sent.pop(number, [])
