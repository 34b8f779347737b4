"""What a session wants done, in the imperative. The shell does it and reports back by an event.

Every `Send…` that carries a `call` is answered by exactly one event with that call. `timeout_ms` is how long to wait.
"""

from enum import StrEnum

import msgspec

from callboard.agents.session.events import Reply
from callboard.agents.session.states import Phase
from callboard.schemas.agents import Assign, AssignAnswer
from callboard.schemas.errors import ErrorBody
from callboard.schemas.tasks import AttemptRef, Progress, TaskError


class SendRegister(msgspec.Struct, frozen=True):
    """Request `register`."""

    call: int
    running: tuple[AttemptRef, ...]
    draining: bool
    timeout_ms: int


class SendHeartbeat(msgspec.Struct, frozen=True):
    """Request `heartbeat`."""

    call: int
    seq: int
    running: tuple[AttemptRef, ...]
    draining: bool
    timeout_ms: int


class AnswerOffer(msgspec.Struct, frozen=True):
    """Answer an offer."""

    reply: Reply
    answer: AssignAnswer


class Acknowledge(msgspec.Struct, frozen=True):
    """Answer `{}`."""

    reply: str


class StartHandler(msgspec.Struct, frozen=True):
    """Run the handler of `offer.type`; it ends in `HandlerSucceeded`, `HandlerFailed` or `HandlerStopped`."""

    ref: AttemptRef
    offer: Assign


class CancelHandler(msgspec.Struct, frozen=True):
    """Tell a running handler to end; it still reports by its event."""

    ref: AttemptRef


class SendComplete(msgspec.Struct, frozen=True):
    """Request `complete`."""

    ref: AttemptRef
    call: int
    result: bytes
    timeout_ms: int


class SendFail(msgspec.Struct, frozen=True):
    """Request `fail`."""

    ref: AttemptRef
    call: int
    error: TaskError
    timeout_ms: int


class SendProgress(msgspec.Struct, frozen=True):
    """Publish `progress`; whether it arrives does not matter."""

    ref: AttemptRef
    progress: Progress


class SendQuery(msgspec.Struct, frozen=True):
    """Request `query`."""

    ref: AttemptRef
    call: int
    query: int
    prompt: str
    data: bytes | None
    timeout_ms: int


class GiveAnswer(msgspec.Struct, frozen=True):
    """Tell a handler the answer to its question, JSON, or the error that refused the question for good."""

    ref: AttemptRef
    query: int
    answer: bytes | ErrorBody


class SendLeave(msgspec.Struct, frozen=True):
    """Request `leave`; ends in `LeaveEnded`."""

    reason: str
    timeout_ms: int


class Announce(msgspec.Struct, frozen=True):
    """Tell people that the session is in another phase now, and why."""

    phase: Phase
    why: str


class AnnounceEnding(msgspec.Struct, frozen=True):
    """Tell whoever watches that the process ends once `unfinished` attempts are over: until then it looks stuck."""

    unfinished: int


class ExitCause(StrEnum):
    """Why a session is over."""

    LEFT = "left"
    REPLACED = "replaced"
    REFUSED = "refused"
    ABANDONED = "abandoned"


class Exit(msgspec.Struct, frozen=True):
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
    | AnnounceEnding
    | Exit
)
