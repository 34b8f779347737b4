"""One limit: what was measured beside what is allowed."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.tables import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A row of the table.

    Attributes:
        name: what is measured.
        value: what was found.
        unit: of both.
        least: it must be at least so much.
        most: it must be at most so much.
        note: how it was measured, in a few words.
    """

    name: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is within."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    @property
    def target(self) -> str:
        """For people."""
        bounds = [f"at least {self.least:g}"] if self.least is not None else []
        bounds += [f"at most {self.most:g}"] if self.most is not None else []
        return f"{' and '.join(bounds)} {self.unit}".strip() if bounds else "none"


@dataclass(frozen=True, slots=True)
class Limits:
    """A whole run; `scale` is the part of the agents and tasks that it was made with."""

    machine: dict[str, str]
    scale: float
    limits: Sequence[Limit]

    def table(self) -> Rows:
        """A row for each."""
        rows = [
            [
                limit.name,
                f"{limit.value:,.2f} {limit.unit}".strip(),
                limit.target,
                "holds" if limit.holds else "MISSED",
                limit.note,
            ]
            for limit in self.limits
        ]
        return "Limits", ["what", "found", "target", "", "how"], rows
