"""One pass over a history: what happened, by task, by agent and by transaction. The rules read from here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.history import (
    AgentBegan,
    AnyEvent,
    AttemptEvent,
    Cancelled,
    End,
    FaultBegan,
    FaultEnded,
    Finished,
    Healed,
    LeaseRow,
    OfferAnswered,
    Offered,
    Recorded,
    Refused,
    Reporting,
    Row,
    Seen,
    Started,
    SubmitFailed,
    Submitted,
    Submitting,
)

FINAL: Final = frozenset({"succeeded", "failed", "cancelled", "expired", "quarantined"})
HELD: Final = frozenset({"assigned", "running", "waiting_input"})

AttemptOf = tuple[str, int]
Life = tuple[str, str]
"""An agent's id and incarnation."""


def life_of(event: AttemptEvent | AgentBegan) -> Life:
    return event.agent_id, event.incarnation


@dataclass
class TaskStory:
    """What happened to one task. `rows` are its states; the deletion of its live row is not among them."""

    task_id: str
    rows: list[Row] = field(default_factory=list[Row])
    ends: dict[int, tuple[End, Row]] = field(default_factory=dict[int, tuple[End, Row]])
    """How each attempt ended, and the row that says so first."""
    starts: list[Started] = field(default_factory=list[Started])
    reports: list[Reporting] = field(default_factory=list[Reporting])
    recorded: list[Recorded] = field(default_factory=list[Recorded])
    refused: list[Refused] = field(default_factory=list[Refused])
    offers: list[Offered] = field(default_factory=list[Offered])
    answers: list[OfferAnswered] = field(default_factory=list[OfferAnswered])
    accepted: list[Submitted] = field(default_factory=list[Submitted])
    cancelled: list[Cancelled] = field(default_factory=list[Cancelled])
    seen: list[Seen] = field(default_factory=list[Seen])

    @property
    def final(self) -> Row | None:
        """The first final row."""
        return next((row for row in self.rows if row.state in FINAL), None)


@dataclass
class Transaction:
    """What one transaction wrote about tasks."""

    at_ns: int
    rows: list[Row] = field(default_factory=list[Row])


@dataclass
class Fault:
    """A fault that was injected; `ended_ns` is `None` for one that never ended."""

    began: FaultBegan
    ended_ns: int | None = None


@dataclass
class Facts:
    """A whole history."""

    tasks: dict[str, TaskStory] = field(default_factory=dict[str, TaskStory])
    asked: dict[str, int] = field(default_factory=dict[str, int])
    """When each key was submitted first, in ns."""
    lives: dict[Life, AgentBegan] = field(default_factory=dict[Life, AgentBegan])
    by_life: dict[Life, list[AttemptEvent]] = field(default_factory=lambda: defaultdict(list))
    """Offers, starts and ends of one incarnation, in order."""
    transactions: dict[int, Transaction] = field(default_factory=dict[int, Transaction])
    log: list[Row | LeaseRow] = field(default_factory=list[Row | LeaseRow])
    faults: dict[int, Fault] = field(default_factory=dict[int, Fault])
    failed_submits: int = 0
    healed_ns: int | None = None

    def task(self, task_id: str) -> TaskStory:
        """The story of a task, begun when it is new."""
        return self.tasks.setdefault(task_id, TaskStory(task_id))


def gather(history: Iterable[AnyEvent]) -> Facts:
    """The facts of a history that is in order."""
    facts = Facts()
    for event in history:
        _take(facts, event)
    return facts


def _take(facts: Facts, event: AnyEvent) -> None:
    match event:
        case Row():
            _take_row(facts, event)
        case LeaseRow():
            facts.log.append(event)
        case Submitting(key=key):
            facts.asked.setdefault(key, event.at_ns)
        case Submitted(task_id=task_id):
            facts.task(task_id).accepted.append(event)
        case SubmitFailed():
            facts.failed_submits += 1
        case Seen(task_id=task_id):
            facts.task(task_id).seen.append(event)
        case Cancelled(task_id=task_id):
            facts.task(task_id).cancelled.append(event)
        case AgentBegan():
            facts.lives[life_of(event)] = event
        case FaultBegan(fault=fault):
            facts.faults[fault] = Fault(event)
        case FaultEnded(fault=fault):
            facts.faults[fault].ended_ns = event.at_ns
        case Healed():
            facts.healed_ns = event.at_ns
        case _:
            _take_attempt(facts, event)


def _take_attempt(facts: Facts, event: AttemptEvent) -> None:
    story = facts.task(event.task_id)
    match event:
        case Started():
            story.starts.append(event)
        case Reporting():
            story.reports.append(event)
        case Recorded():
            story.recorded.append(event)
        case Refused():
            story.refused.append(event)
        case Offered():
            story.offers.append(event)
        case OfferAnswered():
            story.answers.append(event)
        case _:
            pass
    if isinstance(event, Offered | Started | Finished):
        facts.by_life[life_of(event)].append(event)


def _take_row(facts: Facts, row: Row) -> None:
    facts.log.append(row)
    facts.transactions.setdefault(row.tx, Transaction(row.at_ns)).rows.append(row)
    if row.op == "delete":
        return
    story = facts.task(row.task_id)
    story.rows.append(row)
    for end in row.ends:
        story.ends.setdefault(end.attempt, (end, row))
