"""How values are written on the command line, and which are none: durations, numbers, texts, `key=value` pairs."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter, Token

from callboard.cli.exits import UsageError
from callboard.schemas.limits import LIST_LIMIT
from callboard.schemas.names import MAX_DURATION_MS, MAX_INTEGER, is_task_id
from callboard.schemas.vocabulary import TaskAssignmentStrategy

_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def parse_duration_ms(text: str) -> int:
    """Milliseconds of `500ms`, `10s`, `1.5m`, `1h30m`.

    Raises:
        ValueError: it is not written so, negative, or longer than the protocol takes.
    """
    if text.startswith("-") and _PART.match(text, 1):
        raise ValueError(f"{text!r}: a duration must not be negative")
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write 500ms, 10s, 5m, 2h or 1d")
    milliseconds = sum(float(number) * _UNITS_MS[unit] for number, unit in parts)
    if milliseconds > MAX_DURATION_MS:
        raise ValueError(f"{text!r} is too long; give at most {MAX_DURATION_MS // _UNITS_MS['d']}d")
    return round(milliseconds)


def _duration(_type: Any, tokens: Sequence[Token]) -> int:  # noqa: ANN401 - the converter's contract
    return parse_duration_ms(tokens[0].value)


def _default_duration(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else f"{milliseconds / 1000:g}s"


DurationMs = Annotated[
    int,
    Parameter(
        converter=_duration,
        accepts_keys=False,
        n_tokens=1,
        # So that a negative one comes here and is called so, instead of being taken for an option.
        allow_leading_hyphen=True,
        metavar="DURATION",
        show_default=_default_duration,
    ),
]
"""An option that takes a duration; the command gets milliseconds."""


def _between(low: int, high: int) -> Callable[[Any, Any], None]:
    def check(_type: Any, value: Any) -> None:  # noqa: ANN401 - the validator's contract
        if isinstance(value, int) and not low <= value <= high:
            raise ValueError(f"must be between {low} and {high}")

    return check


Port = Annotated[int, Parameter(validator=_between(0, 65_535))]
"""A TCP port; 0 takes a free one."""

PageSize = Annotated[int, Parameter(validator=_between(1, LIST_LIMIT))]
"""How many for a page (protocol, section 4)."""

Slots = Annotated[int, Parameter(validator=_between(1, 10_000))]
"""How many tasks an agent runs at once, as `callboard.schemas.names.Slots`."""

MaxAttempts = Annotated[int, Parameter(validator=_between(1, 1_000))]
"""How many attempts may fail, as the field of a submit."""


Ordinal = Annotated[int, Parameter(validator=_between(1, MAX_INTEGER))]
"""An attempt's or a question's number."""


def _not_empty(_type: Any, value: Any) -> None:  # noqa: ANN401 - the validator's contract
    if value == "":
        raise ValueError("must not be empty")


Text = Annotated[str, Parameter(validator=_not_empty)]
"""A text that is not empty: an empty one is most often a variable of a script that is not set."""


def _task_id(_type: Any, value: Any) -> None:  # noqa: ANN401 - the validator's contract
    if isinstance(value, str) and not is_task_id(value):
        raise ValueError(
            "A task id is expected, as 01993b5e-7c1a-7bd2-8f0e-3a1f5c2d9e10 (UUID version 7, lower case), "
            "which callboard list shows, or callboard get --key KEY"
        )


TaskId = Annotated[str, Parameter(validator=_task_id)]
"""A task's id. What is none would be refused by the orchestrator too, which cannot say what it was."""


def _path(_type: Any, tokens: Sequence[Token]) -> Path:  # noqa: ANN401 - the converter's contract
    if not tokens[0].value:
        # Python takes the empty path for the current directory.
        raise ValueError("a path must not be empty")
    return Path(tokens[0].value)


FilePath = Annotated[Path, Parameter(converter=_path, accepts_keys=False, n_tokens=1)]
"""A path that is not empty."""

Names = Annotated[list[str] | None, Parameter(negative=(), consume_multiple=False)]
"""An option that may be given several times."""


Strategy = Annotated[TaskAssignmentStrategy | None, Parameter(name_transform=str.lower)]
"""A strategy, by the name that the protocol gives it."""


def parse_pairs(pairs: Sequence[str] | None, option: str) -> dict[str, str]:
    """`key=value` texts as a mapping.

    Raises:
        UsageError: one has no `=`.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {pair!r}: write it as name=value", path=option)
        found[name] = value
    return found


def parse_label(text: str) -> str | bool | int | float:
    """A label's value: `true`, `false` and numbers are what they look like, all else is text."""
    if text in {"true", "false"}:
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
