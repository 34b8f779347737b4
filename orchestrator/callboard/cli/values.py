"""How values are written on the command line: durations, `key=value` pairs, payloads."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

from cyclopts import Parameter, Token

from callboard.cli.exits import UsageError
from callboard.schemas.vocabulary import TaskAssignmentStrategy

_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def parse_duration_ms(text: str) -> int:
    """Milliseconds of `500ms`, `10s`, `1.5m`, `1h30m`.

    Raises:
        ValueError: it is not written so.
    """
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write 500ms, 10s, 5m, 2h or 1d")
    return round(sum(float(number) * _UNITS_MS[unit] for number, unit in parts))


def _duration(_type: Any, tokens: Sequence[Token]) -> int:  # noqa: ANN401 - the converter's contract
    return parse_duration_ms(tokens[0].value)


def _default_duration(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else f"{milliseconds / 1000:g}s"


DurationMs = Annotated[
    int,
    Parameter(converter=_duration, accepts_keys=False, n_tokens=1, metavar="DURATION", show_default=_default_duration),
]
"""An option that takes a duration; the command gets milliseconds."""

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
