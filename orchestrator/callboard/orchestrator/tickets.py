"""Requests that wait for a decision: each is answered once, and none waits for ever.

When a commit is in doubt, everyone who waits for it is told so (`outcome_unknown`); what comes out later for them is
dropped here. A heartbeat waits for no commit, and is answered all the same: an agent must not lose its lease over it.
"""

from time import perf_counter
from typing import Protocol

import msgspec

from callboard.orchestrator.store.port import OfferContent
from callboard.schemas.errors import OrchestratorError


class Fresh(msgspec.Struct, frozen=True):
    """A submission until its commit is done with: what its offer carries, and whose key it has."""

    content: OfferContent
    scope: str = "client"
    key: str | None = None
    digest: bytes = b""


class Answerable(Protocol):
    """Whoever asked: a request of the bus, or one of many in it."""

    def answer(self, message: object) -> None:
        """Answer it, once."""
        ...

    def refuse(self, error: OrchestratorError) -> None:
        """Refuse it, once."""
        ...


class Ticket:
    """One request in the machine's hands."""

    __slots__ = ("_book", "began", "fresh", "request", "waits_for_commit")

    def __init__(self, book: "TicketBook", request: Answerable, *, waits_for_commit: bool) -> None:
        self._book = book
        self.waits_for_commit = waits_for_commit
        self.request = request
        self.began = perf_counter()
        self.fresh: Fresh | None = None
        """Of a submission: what its offer will carry."""

    def answer(self, message: object) -> None:
        """Answer, unless that was done."""
        if self._book.close(self):
            self.request.answer(message)

    def refuse(self, error: OrchestratorError) -> None:
        """Refuse, unless it was answered."""
        if self._book.close(self):
            self.request.refuse(error)

    @property
    def age_ms(self) -> float:
        """Milliseconds since the request came."""
        return (perf_counter() - self.began) * 1000


class TicketBook:
    """The open tickets of one pool."""

    def __init__(self) -> None:
        self._open: set[Ticket] = set()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, request: Answerable, *, waits_for_commit: bool = True) -> Ticket:
        """A ticket for `request`."""
        ticket = Ticket(self, request, waits_for_commit=waits_for_commit)
        self._open.add(ticket)
        return ticket

    def close(self, ticket: Ticket) -> bool:
        """Whether the ticket was open; it is not any more."""
        if ticket in self._open:
            self._open.remove(ticket)
            return True
        return False

    def refuse_waiting(self, error: OrchestratorError) -> None:
        """Refuse everyone who waits for a commit."""
        for ticket in [ticket for ticket in self._open if ticket.waits_for_commit]:
            ticket.refuse(error)

    def refuse_all(self, error: OrchestratorError) -> None:
        """Refuse everyone who still waits."""
        for ticket in list(self._open):
            ticket.refuse(error)
