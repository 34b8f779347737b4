"""How a command ends: the exit statuses, and an error as the one line that a person reads."""

import errno
from enum import IntEnum
from typing import Final

from callboard.schemas.errors import InvalidRequestError, OrchestratorError

_FIRST_SERVER_NUMBER: Final = 500
_RATE_NUMBER: Final = 429


class ExitStatus(IntEnum):
    """What a script can rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNAVAILABLE = 4
    INTERRUPTED = 130
    BROKEN_PIPE = 141


EXIT_HELP: Final = """\
Exit status:
  0    done; with a wait: the task succeeded
  1    the awaited task failed, was cancelled, expired or quarantined
  2    the command line or the configuration is wrong, or a path cannot be used
  3    refused or not found: repeating it will not help
  4    unavailable, over a limit, or not known in time: it may work later
  130  interrupted
  141  whoever read the output has gone"""

_HINTS: Final = {
    "task_not_found": "see: callboard list",
    "agent_not_found": "see: callboard agents",
    "key_conflict": "use another --key, or send the same content",
    "payload_too_large": "keep large data elsewhere and submit where it is",
    "task_delegation_failed": "see: callboard agents",
    "resource_limit": "try again later",
}

_WRONG_PLACE: Final = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EROFS,
        errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EADDRNOTAVAIL,
    }
)  # fmt: skip
"""What the system says of a path or address that will be as wrong the next time."""


class UsageError(InvalidRequestError):
    """The command line asks for what cannot be."""


def status_of(error: OrchestratorError) -> ExitStatus:
    """The exit status for an error."""
    if error.code == "task_failed":
        return ExitStatus.FAILED
    if isinstance(error, UsageError) or error.code == "configuration_error":
        return ExitStatus.USAGE
    later = error.number >= _FIRST_SERVER_NUMBER or error.number == _RATE_NUMBER
    return ExitStatus.UNAVAILABLE if later else ExitStatus.REFUSED


def line_of(error: OrchestratorError) -> str:
    """What happened, and what to do about it when the error itself does not say."""
    hint = _HINTS.get(error.code)
    return f"{error.message} ({hint})" if hint else error.message


def status_of_system(error: OSError) -> ExitStatus:
    """The exit status for what the system refused: a wrong path is the user's to mend, all else may work later."""
    return ExitStatus.USAGE if error.errno in _WRONG_PLACE else ExitStatus.UNAVAILABLE


def line_of_system(error: OSError) -> str:
    """What the system refused, and for which path or address."""
    # asyncio's errors name the address in their text, and Python's own time-out has no text at all.
    what = error.strerror or str(error) or type(error).__name__
    where = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join((what, " -> ".join(where))) if where else what
