"""What crosses the bus, and what is told about the bus itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from callboard.schemas.errors import UnavailableError


class NoRespondersError(UnavailableError):
    """Nobody listens to this subject: nobody has got the request."""


class BusState(StrEnum):
    """What happened to the connection."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    RECONNECTED = "reconnected"
    FAILED = "failed"
    """No server could be reached this time."""
    REFUSED = "refused"
    """The server does not allow a subject to this user; the connection stays."""
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class BusChange:
    """`reason` is one line for people: why it was lost, why dialling failed, or which server answered."""

    state: BusState
    reason: str


class BusMessage:
    """One message; `reply` is empty when none is awaited, `status` is 503 when a request had no responders."""

    __slots__ = ("data", "headers", "reply", "status", "subject")

    def __init__(
        self,
        subject: str,
        reply: str,
        data: bytes,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self.status = status
        self.headers = headers

    def __repr__(self) -> str:
        return f"<BusMessage {self.subject} {len(self.data)} bytes>"
