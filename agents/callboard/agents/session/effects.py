"""What a session wants done, in the imperative. The shell does it and reports back by an event.

Every `Send…` that carries a `call` is answered by exactly one event with that call. `timeout_ms` is how long to wait.
"""

from dataclasses import dataclass
from enum import StrEnum

from callboard.agents.session.events import Reply
from callboard.agents.session.states import Phase
from callboard.schemas.agents import Assign, AssignAnswer
from callboard.schemas.errors import ErrorBody
from callboard.schemas.tasks import AttemptRef, Progress, TaskError


@dataclass(frozen=True, slots=True)
class SendRegister:
    """Request `register`."""

    call: int
    running: tuple[AttemptRef, ...]
    draining: bool
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """Request `heartbeat`."""

    call: int
    seq: int
    running: tuple[AttemptRef, ...]
    draining: bool
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class AnswerOffer:
    """Answer an offer."""

    reply: Reply
    answer: AssignAnswer


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Answer `{}`."""

    reply: str


@dataclass(frozen=True, slots=True)
class StartHandler:
    """Run the handler of `offer.type`; it ends in `HandlerSucceeded`, `HandlerFailed` or `HandlerStopped`."""

    ref: AttemptRef
    offer: Assign


@dataclass(frozen=True, slots=True)
class CancelHandler:
    """Tell a running handler to end; it still reports by its event."""

    ref: AttemptRef


@dataclass(frozen=True, slots=True)
class SendComplete:
    """Request `complete`."""

    ref: AttemptRef
    call: int
    result: bytes
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class SendFail:
    """Request `fail`."""

    ref: AttemptRef
    call: int
    error: TaskError
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class SendProgress:
    """Publish `progress`; whether it arrives does not matter."""

    ref: AttemptRef
    progress: Progress


@dataclass(frozen=True, slots=True)
class SendQuery:
    """Request `query`."""

    ref: AttemptRef
    call: int
    query: int
    prompt: str
    data: bytes | None
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class GiveAnswer:
    """Tell a handler the answer to its question, JSON, or the error that refused the question for good."""

    ref: AttemptRef
    query: int
    answer: bytes | ErrorBody


@dataclass(frozen=True, slots=True)
class SendLeave:
    """Request `leave`; ends in `LeaveEnded`."""

    reason: str
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell people that the session is in another phase now, and why."""

    phase: Phase
    why: str


class ExitCause(StrEnum):
    """Why a session is over."""

    LEFT = "left"
    REPLACED = "replaced"
    REFUSED = "refused"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class Exit:
    """The session is over: nothing more will come of it. `error` says why, unless it left by itself."""

    cause: ExitCause
    error: ErrorBody | None = None


Effect = (
    SendRegister
    | SendHeartbeat
    | AnswerOffer
    | Acknowledge
    | StartHandler
    | CancelHandler
    | SendComplete
    | SendFail
    | SendProgress
    | SendQuery
    | GiveAnswer
    | SendLeave
    | Announce
    | Exit
)
