"""The tables at the end: what was measured, and who did how much of it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.box import SIMPLE
from rich.table import Table

from callboard.demo.fleet import Member
from callboard.demo.jobs import Job, Kind
from callboard.schemas.tasks import TaskDocument
from callboard.schemas.vocabulary import Outcome

LARGEST: Final = 12
"""Packages with a row of their own."""
_CHECKSUM_DIGITS: Final = 7
_FAILED: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT})


@dataclass(slots=True)
class PackageRow:
    """The sums and maxima over a package's files."""

    name: str
    files: int = 0
    lines: int = 0
    longest: int = 0
    code: int = 0
    functions: int = 0
    classes: int = 0
    nesting: int = 0
    checksum: str = ""

    def add(self, other: "PackageRow") -> None:
        """Take another row in; the checksum stays."""
        self.files += other.files
        self.lines += other.lines
        self.longest = max(self.longest, other.longest)
        self.code += other.code
        self.functions += other.functions
        self.classes += other.classes
        self.nesting = max(self.nesting, other.nesting)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRow:
    """How an agent's attempts ended: `lost` when it died, `other` when it gave them back or never got them."""

    agent_id: str
    succeeded: int
    failed: int
    lost: int
    other: int


def package_rows(results: Mapping[Job, Any]) -> list[PackageRow]:
    """A row for each package, the longest first.

    Args:
        results: What each task gave; each of them was checked.
    """
    rows: dict[str, PackageRow] = {}
    for job, value in results.items():
        row = rows.setdefault(job.package, PackageRow(job.package))
        if job.kind is Kind.CHECKSUM:
            row.checksum = value
        elif job.kind is Kind.TEXT:
            row.add(PackageRow("", files=1, **value))
        else:
            row.add(PackageRow("", **value))
    return sorted(rows.values(), key=lambda row: -row.lines)


def agent_rows(tasks: Iterable[TaskDocument], fleet: Sequence[Member]) -> list[AgentRow]:
    """A row for each agent, from the attempts that the orchestrator recorded with each task."""
    outcomes: defaultdict[str, Counter[Outcome | None]] = defaultdict(Counter)
    for task in tasks:
        for attempt in task.attempts or ():
            outcomes[attempt.agent_id][attempt.outcome] += 1
    return [_agent_row(member.agent_id, outcomes[member.agent_id]) for member in fleet]


def package_table(rows: Sequence[PackageRow]) -> Table:
    """The largest packages, the others together, and all of it."""
    others = PackageRow(f"{len(rows) - LARGEST} others")
    total = PackageRow("all")
    for row in rows[LARGEST:]:
        others.add(row)
    for row in rows:
        total.add(row)
    columns = ("package", "files", "lines", "longest", "code", "functions", "classes", "nesting", "sha256")
    shown = [*rows[:LARGEST], others] if others.files else rows
    return _table(columns, map(_package_cells, shown), _package_cells(total))


def agent_table(rows: Sequence[AgentRow], fleet: Sequence[Member], killed: str) -> Table:
    """Who did what: attempts by how they ended."""
    notes = {member.agent_id: ", ".join(member.capabilities) for member in fleet}
    notes[killed] += " (killed)"
    total = AgentRow(
        agent_id="all",
        succeeded=sum(row.succeeded for row in rows),
        failed=sum(row.failed for row in rows),
        lost=sum(row.lost for row in rows),
        other=sum(row.other for row in rows),
    )
    columns = ("agent", "succeeded", "failed", "lost", "given back", "capabilities")
    cells = [_agent_cells(row, notes[row.agent_id]) for row in rows]
    return _table(columns, cells, _agent_cells(total, ""))


def history(task: TaskDocument) -> str:
    """What became of a task, attempt after attempt: `specialist crashed, then generalist succeeded`."""
    attempts = task.attempts or ()
    return ", then ".join(f"{one.agent_id} {one.outcome or 'unfinished'}" for one in attempts)


def _agent_row(agent_id: str, outcomes: Counter[Outcome | None]) -> AgentRow:
    succeeded = outcomes[Outcome.SUCCEEDED]
    failed = sum(outcomes[outcome] for outcome in _FAILED)
    lost = outcomes[Outcome.CRASHED]
    other = outcomes.total() - succeeded - failed - lost
    return AgentRow(agent_id=agent_id, succeeded=succeeded, failed=failed, lost=lost, other=other)


def _package_cells(row: PackageRow) -> tuple[str, ...]:
    numbers = (row.files, row.lines, row.longest, row.code, row.functions, row.classes, row.nesting)
    return (row.name, *map(_number, numbers), row.checksum[:_CHECKSUM_DIGITS])


def _agent_cells(row: AgentRow, note: str) -> tuple[str, ...]:
    return (row.agent_id, *map(_number, (row.succeeded, row.failed, row.lost, row.other)), note)


def _number(value: int) -> str:
    return f"{value:,}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], total: Sequence[str]) -> Table:
    """Text in the first and the last column, numbers between them."""
    table = Table(box=SIMPLE, show_edge=False, show_footer=True, padding=0)
    for column, footer in zip(columns, total, strict=True):
        is_text = column in (columns[0], columns[-1])
        table.add_column(column, footer, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
