"""The form of the golden messages: for each operation what is right and what is refused, as JSON.

A good message is written as a struct, so that it is encoded as the product encodes. A bad one is the first good one
with one change, so that it is refused for that alone.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from callboard.schemas.base import Message
from callboard.schemas.operations import Operation
from callboard.schemas.subjects import Subjects

ABSENT: Final = object()
"""The change that leaves a field out."""


@dataclass(frozen=True, slots=True)
class Bad:
    """One change that spoils a message.

    Attributes:
        path: what `details.path` of the refusal names.
    """

    note: str
    changes: dict[str, Any]
    path: str


@dataclass(frozen=True, slots=True)
class Golden:
    """The examples of one operation, by note."""

    good: dict[str, Message]
    bad: list[Bad] = field(default_factory=list)
    answers: dict[str, Message] = field(default_factory=dict)


def document(operation: Operation, golden: Golden) -> dict[str, Any]:
    """What stands in `golden/<operation>.json`."""
    base = builtins(next(iter(golden.good.values())))
    refusal = {"code": "invalid_request"} if operation.is_refusable else {}
    return {
        "operation": operation.name,
        "subject": f"{Subjects().root}.{operation.subject}",
        "message": operation.message.__name__,
        "good": [{"note": note, "message": builtins(message)} for note, message in golden.good.items()],
        "bad": [
            {"note": bad.note, "message": _changed(base, bad.changes), **refusal, "path": bad.path}
            for bad in golden.bad
        ],
        **({"answer": operation.answer.__name__} if operation.answer else {}),
        "answers": [{"note": note, "message": builtins(message)} for note, message in golden.answers.items()],
    }


def _changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with other values at these paths, whose parts are joined by dots."""
    changed = dict(base)
    for path, value in changes.items():
        first, _, rest = path.partition(".")
        changed[first] = _changed(base[first], {rest: value}) if rest else value
    return {name: value for name, value in changed.items() if value is not ABSENT}


def builtins(message: Message) -> Any:  # noqa: ANN401 - any JSON value
    """The message as JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(message))
