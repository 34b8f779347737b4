"""The pool's subjects: who publishes there, and whoever owns the pool and hears it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tests.simulation.book import Book
from tests.simulation.database import Database
from tests.simulation.fleet import Fleet
from tests.simulation.network import Network
from tests.simulation.plan import Plan
from tests.simulation.world import World

from callboard.orchestrator.core import events as ev


@dataclass(frozen=True, slots=True)
class Message:
    """What came in: its event is made for whoever takes it in."""

    event_of: Callable[[object], ev.Event]
    answer: Callable[[object, str], None] | None
    """Takes the message, and the name of who sends it."""


class Announces(Protocol):
    """A replica, as far as announcements go."""

    name: str


class Serves(Protocol):
    """What a replica stands in."""

    plan: Plan
    world: World
    network: Network
    database: Database
    fleet: Fleet
    book: Book

    def announce(self, replica: Announces, epoch: int) -> None:
        """Publish `event.owner`."""
        ...
