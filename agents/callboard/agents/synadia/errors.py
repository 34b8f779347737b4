"""Errors of the protocol (section 9), to and from how an attempt failed."""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from callboard.agents.errors import TaskFailed
from callboard.agents.retry_after import LONGEST_MS
from callboard.agents.synadia.wire import ERROR_CODE, ERROR_TEXT
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.tasks import TaskError

BAD_REQUEST: Final = 400
RATE_LIMITED: Final = 429
INTERNAL: Final = 500
_NEVER: Final = range(400, 500)
_KNOWN: Final = frozenset({BAD_REQUEST, 401, 403, 404, 409, RATE_LIMITED, INTERNAL})
_LATER: Final = frozenset({408, 409, RATE_LIMITED})
"""Of the caller's faults those that pass: a conflict with the agent's state, too much at once."""
_DESCRIPTION: Final = 200
"""Characters in the header: the protocol wants a short one."""


def failure_of(headers: Mapping[str, str], data: bytes) -> TaskFailed | None:
    """How the attempt failed, if this message is an error.

    The body's `error` becomes the type, its `message` the message, its `retry_after_s` counts.
    """
    code = headers.get(ERROR_CODE)
    if code is None:
        return None
    try:
        body = msgspec.json.decode(data) if data else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = {}
    said: dict[str, Any] = body if isinstance(body, dict) else {}
    kind, message = said.get("error"), said.get("message")
    number = int(code) if code.isascii() and code.isdigit() else INTERNAL
    return TaskFailed(
        message if isinstance(message, str) and message else headers.get(ERROR_TEXT) or f"error {code}",
        type=kind if isinstance(kind, str) and kind else f"error_{number}",
        retryable=number in _LATER or number not in _NEVER,
        retry_after_ms=_retry_after_ms(said.get("retry_after_s")),
    )


def error_of(error: TaskError | None, why: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of the error that a caller gets for a task that ended without success."""
    code = INTERNAL if error is None or error.retry_after_ms is None else RATE_LIMITED
    kind = "task_failed" if error is None or error.type is None else error.type
    retry_after_s = None if error is None or error.retry_after_ms is None else error.retry_after_ms / 1000
    return refusal(code, why, kind, retry_after_s=retry_after_s)


def refusal_of(error: OrchestratorError) -> tuple[dict[str, str], bytes]:
    """Headers and body for what the orchestrator refused, by the codes that there are (section 9.2)."""
    code = error.number if error.number in _KNOWN else BAD_REQUEST if error.number in _NEVER else INTERNAL
    retry_after_s = None if error.retry_after_ms is None else error.retry_after_ms / 1000
    return refusal(code, error.message, error.code, retry_after_s=retry_after_s)


def refusal(code: int, text: str, kind: str, *, retry_after_s: float | None = None) -> tuple[dict[str, str], bytes]:
    """Headers and body of an error; the headers hold one printable line."""
    line = "".join(character if character.isprintable() else " " for character in text)
    body: dict[str, Any] = {"error": kind, "message": text}
    if retry_after_s is not None:
        body["retry_after_s"] = retry_after_s
    return {ERROR_CODE: str(code), ERROR_TEXT: line[:_DESCRIPTION] or kind}, msgspec.json.encode(body)


def _retry_after_ms(seconds: object) -> int | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
        return None
    return min(math.ceil(seconds * 1000), LONGEST_MS)
