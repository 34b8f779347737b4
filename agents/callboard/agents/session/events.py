"""What can happen to an agent's session, in the past tense. Values only: the shell fills them in, the session decides.

`call` is the number that the effect which asked carried; an answer to a call that was given up is recognised by it.
`reply` is an opaque handle of the shell for the message to be answered.
"""

from dataclasses import dataclass

from callboard.schemas.agents import Assign, AssignAnswer, HeartbeatAnswer, RegisterAnswer
from callboard.schemas.errors import ErrorBody
from callboard.schemas.tasks import AttemptRef, Progress, TaskError

Reply = str | list[AssignAnswer]
"""A subject, or the answers to one message's offers so far."""


@dataclass(frozen=True, slots=True)
class Started:
    """The shell listens on the agent's subjects: sign in."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The bus is away; what was asked will not be answered."""


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The bus is back: nobody may know us any more."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The orchestrator took us in."""

    call: int
    answer: RegisterAnswer


@dataclass(frozen=True, slots=True)
class RegisterRefused:
    """The orchestrator answered `register` with an error."""

    call: int
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class RegisterUnanswered:
    """Nobody answered `register`."""

    call: int


@dataclass(frozen=True, slots=True)
class HeartbeatAnswered:
    """The orchestrator knows that we live."""

    call: int
    answer: HeartbeatAnswer


@dataclass(frozen=True, slots=True)
class HeartbeatRefused:
    """The orchestrator answered `heartbeat` with an error."""

    call: int
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class HeartbeatUnanswered:
    """Nobody answered `heartbeat`."""

    call: int


@dataclass(frozen=True, slots=True)
class OfferArrived:
    """`assign` came, or one of `assign_many`; `reply` is where its answer goes, of no concern here."""

    reply: Reply
    offer: Assign


@dataclass(frozen=True, slots=True)
class HandlerSucceeded:
    """A handler returned; `result` is its JSON."""

    ref: AttemptRef
    result: bytes


@dataclass(frozen=True, slots=True)
class HandlerFailed:
    """A handler raised."""

    ref: AttemptRef
    error: TaskError


@dataclass(frozen=True, slots=True)
class HandlerStopped:
    """A handler ended because we told it to."""

    ref: AttemptRef


@dataclass(frozen=True, slots=True)
class ProgressMade:
    """A handler told how far it is."""

    ref: AttemptRef
    progress: Progress


@dataclass(frozen=True, slots=True)
class QuestionAsked:
    """A handler asks something, as question number `query` of its attempt, and waits for the answer."""

    ref: AttemptRef
    query: int
    prompt: str
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class QueryRecorded:
    """A `query` is committed."""

    ref: AttemptRef
    call: int


@dataclass(frozen=True, slots=True)
class QueryRefused:
    """A `query` was answered with an error."""

    ref: AttemptRef
    call: int
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class QueryUnanswered:
    """Nobody answered a `query`; that it was not recorded is not said."""

    ref: AttemptRef
    call: int


@dataclass(frozen=True, slots=True)
class AnswerArrived:
    """`answer` came: to question number `query`, as JSON."""

    reply: str
    epoch: int
    ref: AttemptRef
    query: int
    answer: bytes


@dataclass(frozen=True, slots=True)
class ReportRecorded:
    """A `complete` or `fail` is committed."""

    ref: AttemptRef


@dataclass(frozen=True, slots=True)
class ReportRefused:
    """A `complete` or `fail` was answered with an error."""

    ref: AttemptRef
    call: int
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class ReportUnanswered:
    """Nobody answered a `complete` or `fail`."""

    ref: AttemptRef
    call: int


@dataclass(frozen=True, slots=True)
class CancelArrived:
    """`cancel` came."""

    reply: str
    epoch: int
    ref: AttemptRef
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class DrainArrived:
    """`drain` came: the operator wants nothing new here, until told otherwise."""

    reply: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ShutdownArrived:
    """`shutdown` came: finish within `grace_ms`, leave, exit."""

    reply: str
    epoch: int
    grace_ms: int


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """Our own process wants to end: finish everything, leave, exit."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Our own process wants to end within `grace_ms`."""

    grace_ms: int = 0


@dataclass(frozen=True, slots=True)
class AbandonRequested:
    """What this agent stands for is dead, so that it is to end without a word, as if its process had died."""


@dataclass(frozen=True, slots=True)
class LeaveEnded:
    """`leave` was answered, or it was not: either way we have said it."""


@dataclass(frozen=True, slots=True)
class TimeAdvanced:
    """`next_due_ms` has come."""


Event = (
    Started
    | Disconnected
    | Reconnected
    | Registered
    | RegisterRefused
    | RegisterUnanswered
    | HeartbeatAnswered
    | HeartbeatRefused
    | HeartbeatUnanswered
    | OfferArrived
    | HandlerSucceeded
    | HandlerFailed
    | HandlerStopped
    | ProgressMade
    | QuestionAsked
    | QueryRecorded
    | QueryRefused
    | QueryUnanswered
    | AnswerArrived
    | ReportRecorded
    | ReportRefused
    | ReportUnanswered
    | CancelArrived
    | DrainArrived
    | ShutdownArrived
    | DrainRequested
    | StopRequested
    | AbandonRequested
    | LeaveEnded
    | TimeAdvanced
)
