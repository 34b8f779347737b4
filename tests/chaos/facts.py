"""One pass over a history: what happened, by task, by agent and by transaction. The rules read from here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.history import (
    AgentBegan,
    Answering,
    AnyEvent,
    AttemptEvent,
    Began,
    Cancelled,
    Completed,
    Completing,
    End,
    FaultBegan,
    FaultEnded,
    Finished,
    Healed,
    Heard,
    LeaseRow,
    OfferAnswered,
    Offered,
    Paused,
    Pausing,
    Recorded,
    Refused,
    Reporting,
    Retried,
    Retrying,
    Row,
    Seen,
    Started,
    SubmitFailed,
    Submitted,
    Submitting,
    Unpaused,
    Unpausing,
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
    ended_as: dict[tuple[int, str], Row] = field(default_factory=dict[tuple[int, str], Row])
    """The same by attempt and outcome: one that was given up may have succeeded after all."""
    starts: list[Started] = field(default_factory=list[Started])
    reports: list[Reporting] = field(default_factory=list[Reporting])
    recorded: list[Recorded] = field(default_factory=list[Recorded])
    refused: list[Refused] = field(default_factory=list[Refused])
    offers: list[Offered] = field(default_factory=list[Offered])
    answers: list[OfferAnswered] = field(default_factory=list[OfferAnswered])
    accepted: list[Submitted | Retried] = field(default_factory=list[Submitted | Retried])
    completing_ns: int | None = None
    """When a client asked first to finish it itself."""
    answering_ns: dict[int, int] = field(default_factory=dict[int, int])
    """When a client answered the question of each attempt first."""
    heard: list[Heard] = field(default_factory=list[Heard])
    completed: list[Completed] = field(default_factory=list[Completed])
    retrying_ns: int | None = None
    """When a client asked first for a retry of it."""
    retries: set[str] = field(default_factory=set[str])
    """What clients were told that its retry is."""
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
class Pause:
    """A pause of the pool (`None`) or of a type. Nothing is given out between `paused_ns` and `unpausing_ns`; between
    `pausing_ns` and `unpaused_ns` it may be in force or not. `None`: not asked, or not answered."""

    type: str | None
    pausing_ns: int
    paused_ns: int | None = None
    unpausing_ns: int | None = None
    unpaused_ns: int | None = None

    def may_hold(self, task_type: str, at_ns: int) -> bool:
        """Whether it may be the reason that nothing of this type is given out then."""
        is_meant = self.type in {None, task_type}
        return is_meant and self.pausing_ns <= at_ns and (self.unpaused_ns is None or at_ns <= self.unpaused_ns)

    def must_hold(self, task_type: str, at_ns: int) -> bool:
        """Whether nothing of this type may be given out then."""
        if self.type not in {None, task_type} or self.paused_ns is None:
            return False
        return self.paused_ns <= at_ns and (self.unpausing_ns is None or at_ns <= self.unpausing_ns)


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
    pauses: list[Pause] = field(default_factory=list[Pause])
    adopts: bool = False
    """Whether the pool wants late results."""

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
        case Completing(task_id=task_id):
            story = facts.task(task_id)
            story.completing_ns = story.completing_ns or event.at_ns
        case Completed(task_id=task_id):
            facts.task(task_id).completed.append(event)
        case Answering(task_id=task_id, attempt=attempt):
            facts.task(task_id).answering_ns.setdefault(attempt, event.at_ns)
        case Retrying(task_id=task_id):
            story = facts.task(task_id)
            story.retrying_ns = story.retrying_ns or event.at_ns
        case Retried(task_id=task_id):
            facts.task(task_id).retries.add(event.retry)
            facts.task(event.retry).accepted.append(event)
        case Pausing() | Paused() | Unpausing() | Unpaused():
            _take_pause(facts, event)
        case Began(late_results=late_results):
            facts.adopts = late_results == "adopt"
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


def _take_pause(facts: Facts, event: Pausing | Paused | Unpausing | Unpaused) -> None:
    """Pauses of one type follow one another."""
    if isinstance(event, Pausing):
        facts.pauses.append(Pause(event.type, event.at_ns))
        return
    pause = next(pause for pause in reversed(facts.pauses) if pause.type == event.type)
    match event:
        case Paused():
            pause.paused_ns = event.at_ns
        case Unpausing():
            pause.unpausing_ns = event.at_ns
        case Unpaused():
            pause.unpaused_ns = event.at_ns


def _take_attempt(facts: Facts, event: AttemptEvent) -> None:
    story = facts.task(event.task_id)
    match event:
        case Started():
            story.starts.append(event)
        case Heard():
            story.heard.append(event)
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
        story.ended_as.setdefault((end.attempt, end.outcome), row)
