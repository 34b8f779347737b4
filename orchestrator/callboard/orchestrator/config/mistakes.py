"""What is wrong with a configuration: every mistake with its path, value and source, all in one error."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from callboard.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One mistake. `value` is its text, with secrets hidden; `None` where nothing was given."""

    path: str
    message: str
    value: str | None = None
    source: str | None = None
    concerns: tuple[str, ...] = ()
    """The other settings that it is about."""

    @property
    def setting(self) -> str:
        """The top-level setting that `path` lies in."""
        return self.path.partition(".")[0].partition("[")[0]

    def as_details(self) -> dict[str, str | None]:
        """What goes into an error's details."""
        return {"path": self.path, "message": self.message, "value": self.value, "source": self.source}

    def __str__(self) -> str:
        given = "" if self.value is None else f" (got {self.value})"
        origin = "" if self.source is None else f" [{self.source}]"
        return f"{self.path}: {self.message}{given}{origin}"


class InvalidSettingsError(ConfigurationError):
    """The configuration has mistakes.

    `details.mistakes` lists all of them: `[{path, message, value, source}]`.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        headline = f"{count} {'mistake' if count == 1 else 'mistakes'} in the configuration"
        super().__init__(
            f"{headline}: {'; '.join(map(str, self.mistakes))}",
            mistakes=[mistake.as_details() for mistake in self.mistakes],
        )


def shown(value: object) -> str:
    """A value as a mistake quotes it: on one line, and bounded."""
    text = repr(value.value if isinstance(value, Enum) else value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
