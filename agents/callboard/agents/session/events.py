"""What can happen to an agent's session, in the past tense. Values only: the shell fills them in, the session decides.

`call` is the number that the effect which asked carried; an answer to a call that was given up is recognised by it.
`reply` is an opaque handle of the shell for the message to be answered.
"""

import msgspec

from callboard.schemas.agents import Assign, AssignAnswer, HeartbeatAnswer, RegisterAnswer
from callboard.schemas.errors import ErrorBody
from callboard.schemas.tasks import AttemptRef, Progress, TaskError

Reply = str | list[AssignAnswer]
"""A subject, or the answers to one message's offers so far."""


class Started(msgspec.Struct, frozen=True):
    """The shell listens on the agent's subjects: sign in."""


class Disconnected(msgspec.Struct, frozen=True):
    """The bus is away; what was asked will not be answered."""


class Reconnected(msgspec.Struct, frozen=True):
    """The bus is back: nobody may know us any more."""


class Registered(msgspec.Struct, frozen=True):
    """The orchestrator took us in."""

    call: int
    answer: RegisterAnswer


class RegisterRefused(msgspec.Struct, frozen=True):
    """The orchestrator answered `register` with an error."""

    call: int
    error: ErrorBody


class RegisterUnanswered(msgspec.Struct, frozen=True):
    """Nobody answered `register`."""

    call: int


class HeartbeatAnswered(msgspec.Struct, frozen=True):
    """The orchestrator knows that we live."""

    call: int
    answer: HeartbeatAnswer


class HeartbeatRefused(msgspec.Struct, frozen=True):
    """The orchestrator answered `heartbeat` with an error."""

    call: int
    error: ErrorBody


class HeartbeatUnanswered(msgspec.Struct, frozen=True):
    """Nobody answered `heartbeat`."""

    call: int


class OfferArrived(msgspec.Struct, frozen=True):
    """`assign` came, or one of `assign_many`; `reply` is where its answer goes, of no concern here."""

    reply: Reply
    offer: Assign


class HandlerSucceeded(msgspec.Struct, frozen=True):
    """A handler returned; `result` is its JSON."""

    ref: AttemptRef
    result: bytes


class HandlerFailed(msgspec.Struct, frozen=True):
    """A handler raised."""

    ref: AttemptRef
    error: TaskError


class HandlerStopped(msgspec.Struct, frozen=True):
    """A handler ended because we told it to."""

    ref: AttemptRef


class ProgressMade(msgspec.Struct, frozen=True):
    """A handler told how far it is."""

    ref: AttemptRef
    progress: Progress


class QuestionAsked(msgspec.Struct, frozen=True):
    """A handler asks something, as question number `query` of its attempt, and waits for the answer."""

    ref: AttemptRef
    query: int
    prompt: str
    data: bytes | None = None


class QueryRecorded(msgspec.Struct, frozen=True):
    """A `query` is committed."""

    ref: AttemptRef
    call: int


class QueryRefused(msgspec.Struct, frozen=True):
    """A `query` was answered with an error."""

    ref: AttemptRef
    call: int
    error: ErrorBody


class QueryUnanswered(msgspec.Struct, frozen=True):
    """Nobody answered a `query`; that it was not recorded is not said."""

    ref: AttemptRef
    call: int


class AnswerArrived(msgspec.Struct, frozen=True):
    """`answer` came: to question number `query`, as JSON."""

    reply: str
    epoch: int
    ref: AttemptRef
    query: int
    answer: bytes


class ReportRecorded(msgspec.Struct, frozen=True):
    """A `complete` or `fail` is committed."""

    ref: AttemptRef


class ReportRefused(msgspec.Struct, frozen=True):
    """A `complete` or `fail` was answered with an error."""

    ref: AttemptRef
    call: int
    error: ErrorBody


class ReportUnanswered(msgspec.Struct, frozen=True):
    """Nobody answered a `complete` or `fail`."""

    ref: AttemptRef
    call: int


class CancelArrived(msgspec.Struct, frozen=True):
    """`cancel` came."""

    reply: str
    epoch: int
    ref: AttemptRef
    reason: str | None = None


class DrainArrived(msgspec.Struct, frozen=True):
    """`drain` came: the operator wants nothing new here, until told otherwise."""

    reply: str
    epoch: int


class ShutdownArrived(msgspec.Struct, frozen=True):
    """`shutdown` came: finish within `grace_ms`, leave, exit."""

    reply: str
    epoch: int
    grace_ms: int


class DrainRequested(msgspec.Struct, frozen=True):
    """Our own process wants to end: finish everything, leave, exit."""


class StopRequested(msgspec.Struct, frozen=True):
    """Our own process wants to end within `grace_ms`."""

    grace_ms: int = 0


class AbandonRequested(msgspec.Struct, frozen=True):
    """What this agent stands for is dead, so that it is to end without a word, as if its process had died."""


class LeaveEnded(msgspec.Struct, frozen=True):
    """`leave` was answered, or it was not: either way we have said it."""


class TimeAdvanced(msgspec.Struct, frozen=True):
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
