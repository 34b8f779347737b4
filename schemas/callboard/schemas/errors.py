"""The vocabulary of errors (protocol, section 2): one class per wire code, raised alike from within and over the wire.

The first line of a docstring is the default message. `code` and `number` go over the wire; `retryable` says whether
the same request may succeed later; `details` is the context, JSON values only.
"""

from typing import Any, ClassVar

import msgspec

from callboard.schemas.base import Message


class ErrorBody(Message, frozen=True, kw_only=True, omit_defaults=False):
    """What stands under `error` in an answer."""

    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None
    details: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class ErrorAnswer(Message, frozen=True, kw_only=True):
    """The body of an answer that is an error."""

    error: ErrorBody


class OrchestratorError(Exception):
    """Callboard could not do what was asked."""

    code: ClassVar[str] = "internal"
    number: ClassVar[int] = 500
    retryable: ClassVar[bool] = True

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_ms: int | None = None,
        **details: Any,  # noqa: ANN401 - details are open context
    ) -> None:
        self.message = message or (type(self).__doc__ or "").partition("\n")[0]
        self.retry_after_ms = retry_after_ms
        self.details = details
        super().__init__(self.message)

    def body(self) -> ErrorBody:
        """The error as it goes over the wire."""
        return ErrorBody(
            code=self.code,
            message=self.message,
            retryable=self.retryable,
            retry_after_ms=self.retry_after_ms,
            details=self.details,
        )


class InvalidRequestError(OrchestratorError):
    """The request is not what the protocol asks for.

    `details.path` says which field.
    """

    code = "invalid_request"
    number = 400
    retryable = False


class ConfigurationError(OrchestratorError):
    """The configuration does not allow this."""

    code = "configuration_error"
    number = 400
    retryable = False


class TaskNotFoundError(OrchestratorError):
    """There is no such task in this pool."""

    code = "task_not_found"
    number = 404
    retryable = False


class AgentNotFoundError(OrchestratorError):
    """There is no such agent in this pool."""

    code = "agent_not_found"
    number = 404
    retryable = False


class StaleAttemptError(OrchestratorError):
    """This attempt, agent or incarnation is not the current one: drop the work.

    `details.state` is the task's state.
    """

    code = "stale_attempt"
    number = 409
    retryable = False


class IncarnationReplacedError(OrchestratorError):
    """A newer process has this agent id: stop."""

    code = "incarnation_replaced"
    number = 409
    retryable = False


class UnknownIncarnationError(OrchestratorError):
    """This incarnation is not registered: register, listing what you hold, then repeat."""

    code = "unknown_incarnation"
    number = 409
    retryable = True


class KeyConflictError(OrchestratorError):
    """This key belongs to a task with different content."""

    code = "key_conflict"
    number = 409
    retryable = False


class InvalidTransitionError(OrchestratorError):
    """The task's state does not allow this.

    `details.state` is that state.
    """

    code = "invalid_transition"
    number = 409
    retryable = False


class PayloadTooLargeError(OrchestratorError):
    """A part of the message is larger than allowed.

    `details.path` says which, `details.bytes` and `details.limit` how large.
    """

    code = "payload_too_large"
    number = 413
    retryable = False


class TaskDelegationError(OrchestratorError):
    """The task can never be placed as asked."""

    code = "task_delegation_failed"
    number = 422
    retryable = False


class TaskFailedError(OrchestratorError):
    """The task ended without success, so it has no result.

    Raised by clients that asked for a result; it never goes over the wire. `details` has `task_id`, `state`, `error`.
    """

    code = "task_failed"
    number = 422
    retryable = False


class ResourceLimitError(OrchestratorError):
    """A limit of the orchestrator is reached."""

    code = "resource_limit"
    number = 429
    retryable = True


class DatabaseOperationError(OrchestratorError):
    """The database could not do its part."""

    code = "unavailable"
    number = 503
    retryable = True


class UnavailableError(DatabaseOperationError):
    """Nothing was accepted: the database is away or the pool is changing owner."""

    code = "unavailable"
    number = 503
    retryable = True


class OutcomeUnknownError(DatabaseOperationError):
    """The commit is in doubt: ask again with the same key or (task_id, attempt)."""

    code = "outcome_unknown"
    number = 503
    retryable = True


class InternalError(OrchestratorError):
    """A bug of the orchestrator, logged there with this id."""

    code = "internal"
    number = 500
    retryable = True


_WIRE_ERRORS = (
    InvalidRequestError,
    ConfigurationError,
    TaskNotFoundError,
    AgentNotFoundError,
    StaleAttemptError,
    IncarnationReplacedError,
    UnknownIncarnationError,
    KeyConflictError,
    InvalidTransitionError,
    PayloadTooLargeError,
    TaskDelegationError,
    ResourceLimitError,
    UnavailableError,
    OutcomeUnknownError,
    InternalError,
)
ERRORS: dict[str, type[OrchestratorError]] = {error.code: error for error in _WIRE_ERRORS}
"""Wire code to class."""


def from_body(body: ErrorBody) -> OrchestratorError:
    """The exception for an error that came over the wire; an unknown code keeps its message as an `InternalError`."""
    error = ERRORS.get(body.code, InternalError)(body.message, retry_after_ms=body.retry_after_ms)
    error.details = body.details
    return error
