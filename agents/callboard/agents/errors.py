"""What a handler may raise to say more than that it failed."""

from typing import Self

from callboard.schemas.tasks import TaskError


class TaskFailed(Exception):  # noqa: N818 - an outcome of the task, not a mistake in the program
    """The task failed, and this is what to do about it.

    Args:
        message: for people.
        type: for programs; `task_failed` by default.
        retryable: whether another attempt may succeed; `False` makes the task fail at once.
        retry_after_ms: not before; the task's own back-off holds when this is absent.
    """

    def __init__(
        self,
        message: str,
        *,
        type: str = "task_failed",  # noqa: A002 - the protocol's name of the field
        retryable: bool = True,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.error = TaskError(message=message, type=type, retryable=retryable, retry_after_ms=retry_after_ms)

    @classmethod
    def of(cls, error: TaskError) -> Self:
        """The exception for what was, or would be, told to the orchestrator."""
        failed = cls(error.message)
        failed.error = error
        return failed


class TaskCancelled(Exception):  # noqa: N818 - as above
    """The task is not wanted any more: raised in a synchronous handler by what it asks of its context."""
