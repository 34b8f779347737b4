"""The forms of names and the limits of the wire (protocol, sections 1 and 2), as types that decode strictly."""

import re
from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta

# In Python `$` alone also matches before a last line break; other languages read this form the same.
POOL_PATTERN: Final = r"^[a-z0-9_-]{1,32}$(?!\n)"
NAME_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"
TASK_ID_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$(?!\n)"
UUID_PATTERN: Final = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$(?!\n)"

TRACEPARENT_PATTERN: Final = r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$(?!\n)"

MAX_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON implementation keeps exact."""

MAX_DURATION_MS: Final = 10 * 365 * 24 * 3600 * 1000
"""Ten years: longer is a mistake, and sums of instants and durations stay far inside 64 bits."""

NO_NUL_PATTERN: Final = r"^[^\x00]*$"

_FORMS: Final = {
    POOL_PATTERN: "lower-case letters, digits, _ and -, 1 to 32 of them",
    NAME_PATTERN: "letters, digits, _ and -, 1 to 64 of them",
    TASK_ID_PATTERN: "a task id (UUID version 7, lower case)",
    UUID_PATTERN: "a UUID",
    TRACEPARENT_PATTERN: "a W3C traceparent of version 00",
    NO_NUL_PATTERN: "text without NUL",
}
Pool = Annotated[str, Meta(pattern=POOL_PATTERN)]
AgentId = Annotated[str, Meta(pattern=NAME_PATTERN)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Incarnation = Annotated[str, Meta(pattern=UUID_PATTERN)]
TaskId = Annotated[str, Meta(pattern=TASK_ID_PATTERN)]
Traceparent = Annotated[str, Meta(pattern=TRACEPARENT_PATTERN)]
Key = Annotated[str, Meta(min_length=1, max_length=256, pattern=NO_NUL_PATTERN)]
Text = Annotated[str, Meta(pattern=NO_NUL_PATTERN)]
ShortText = Annotated[str, Meta(max_length=1024, pattern=NO_NUL_PATTERN)]
Attempt = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
Query = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
"""The number of a question among those of its attempt."""
Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
DurationMs = Annotated[int, Meta(ge=0, le=MAX_DURATION_MS)]
LimitMs = Annotated[int, Meta(ge=1, le=MAX_DURATION_MS)]
Instant = Annotated[datetime, Meta(tz=True)]
Slots = Annotated[int, Meta(ge=1, le=10_000)]

_POOL = re.compile(POOL_PATTERN)
_NAME = re.compile(NAME_PATTERN)
_TASK_ID = re.compile(TASK_ID_PATTERN)
_TRACEPARENT = re.compile(TRACEPARENT_PATTERN)
_NO_TRACE: Final = "0" * 32
_NO_PARENT: Final = "0" * 16


def is_pool(text: str) -> bool:
    """Whether `text` is a pool's name."""
    return _POOL.match(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` is an agent id, role, capability, type or label key."""
    return _NAME.match(text) is not None


def is_task_id(text: str) -> bool:
    """Whether `text` is a task's id."""
    return _TASK_ID.match(text) is not None


def is_traceparent(text: str) -> bool:
    """Whether `text` is a W3C `traceparent` of version 00 that names a trace and a parent."""
    return _TRACEPARENT.match(text) is not None and text[3:35] != _NO_TRACE and text[36:52] != _NO_PARENT


def in_words(refusal: str) -> str:
    """A decoder's sentence with what a pattern asks for said in words."""
    for pattern, form in _FORMS.items():
        refusal = refusal.replace(f"`str` matching regex {pattern!r}", form)
    return refusal
