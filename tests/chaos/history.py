"""The history of a run: one file, one JSON object on each line, written by everyone who takes part.

Rules:
- Clients, agents and the fault injector append as things happen, each line in one `write`: a process that is killed
  leaves whole lines. What the database did is read from its own log afterwards (`database_log`) and appended, too.
- A question is written before it is sent, an answer after it came: between the two the truth may have changed.
- All clocks are this machine's (`at_ns`: nanoseconds since the Unix epoch), so that the lines can be merged.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, TypedDict

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", omit_defaults=True):
    """Something that happened."""

    at_ns: int = msgspec.field(default_factory=time.time_ns)


# Clients.


class Submitting(Event, frozen=True, kw_only=True, tag=True):
    """A client is about to submit (again)."""

    key: str


class Submitted(Event, frozen=True, kw_only=True, tag=True):
    """The orchestrator says that the task is accepted."""

    key: str
    task_id: str


class SubmitFailed(Event, frozen=True, kw_only=True, tag=True):
    """The submit got an error, or no answer: it may have been accepted or not."""

    key: str
    code: str


class Seen(Event, frozen=True, kw_only=True, tag=True):
    """A client was told the state of a task."""

    task_id: str
    state: str


class Cancelled(Event, frozen=True, kw_only=True, tag=True):
    """A client was told that the task is cancelled, by this request or an earlier one."""

    task_id: str


class Completing(Event, frozen=True, kw_only=True, tag=True):
    """A client is about to finish a task itself."""

    task_id: str


class Completed(Event, frozen=True, kw_only=True, tag=True):
    """A client was told that the task has succeeded; `changed` when it was by this very request."""

    task_id: str
    changed: bool


class Answering(Event, frozen=True, kw_only=True, tag=True):
    """A client is about to answer the question of an attempt."""

    task_id: str
    attempt: int


class Retrying(Event, frozen=True, kw_only=True, tag=True):
    """A client is about to ask for a new task in the place of one that ended without success."""

    task_id: str


class Retried(Event, frozen=True, kw_only=True, tag=True):
    """A client was told which task is the retry of another."""

    task_id: str
    retry: str


class Pausing(Event, frozen=True, kw_only=True, tag=True):
    """A client is about to pause the pool, or a type of task in it."""

    type: str | None


class Paused(Event, frozen=True, kw_only=True, tag=True):
    """The pause is committed."""

    type: str | None


class Unpausing(Event, frozen=True, kw_only=True, tag=True):
    """A client is about to end the pause."""

    type: str | None


class Unpaused(Event, frozen=True, kw_only=True, tag=True):
    """The end of the pause is committed."""

    type: str | None


# Agents. An agent's life is one incarnation.


class AgentEvent(Event, frozen=True, kw_only=True):
    agent_id: str
    incarnation: str


class AgentBegan(AgentEvent, frozen=True, kw_only=True, tag=True):
    """An agent's process has begun."""

    slots: int
    capabilities: tuple[str, ...] = ()


class Ref(TypedDict):
    """An attempt, and whose it is."""

    agent_id: str
    incarnation: str
    task_id: str
    attempt: int


class AttemptEvent(AgentEvent, frozen=True, kw_only=True):
    task_id: str
    attempt: int


class Offered(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """An offer came; a repetition is written again."""

    epoch: int


class OfferAnswered(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The agent accepts or declines."""

    accepted: bool


class Started(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The handler begins."""


class Finished(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The handler has ended, however."""


class Heard(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The handler got an answer to its question."""

    answer: str


class Reporting(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """`complete` or `fail` (`verb`) is about to be sent."""

    verb: str


class Recorded(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The report was answered `recorded`."""

    verb: str


class Refused(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The report was answered with an error."""

    verb: str
    code: str


class CancelHeard(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The agent was told to stop this attempt."""


# The database, in the order of its commits.


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended, as the task's row keeps it."""

    attempt: int
    agent_id: str
    outcome: str
    incarnation: str | None = None


class Row(Event, frozen=True, kw_only=True, tag=True):
    """A task's row was written by transaction `tx`.

    `op` is `insert`, `update` or `delete` for the table of live tasks, `final` for the history. A lower `order` comes
    first; `placement` is the placement class; `progress` is there when it is new: who said so, as in a result.
    """

    sequence: int
    tx: int
    op: str
    task_id: str
    state: str
    version: int
    attempt: int
    epoch: int
    batch: int
    agent_id: str | None = None
    incarnation: str | None = None
    key: str | None = None
    type: str = "work"
    retry_of: str | None = None
    requires: tuple[str, ...] = ()
    order: tuple[int, int, str] = (0, 0, "")
    placement: str = ""
    max_attempts: int = 3
    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    spent: int | None = None
    crashes: int | None = None
    ends: tuple[End, ...] = ()
    result: str | None = None
    progress: tuple[str, int, str, str] | None = None


class LeaseRow(Event, frozen=True, kw_only=True, tag=True):
    """The pool's lease was written: taken, renewed, given up, or counted on by a batch."""

    sequence: int
    tx: int
    epoch: int
    batch: int
    replica: str
    held: bool = True


# The injector.


class Began(Event, frozen=True, kw_only=True, tag=True):
    """The run begins; how the pool is set up."""

    late_results: str


class FaultBegan(Event, frozen=True, kw_only=True, tag=True):
    """A fault begins.

    Attributes:
        fault: its number in the run.
        agents: whose attempts it may make run again, with how many each at most.
    """

    fault: int
    kind: str
    target: str
    agents: dict[str, int] = {}


class FaultEnded(Event, frozen=True, kw_only=True, tag=True):
    """What the fault did is undone; the system may still be recovering."""

    fault: int


class Healed(Event, frozen=True, kw_only=True, tag=True):
    """The last fault is over and no client submits any more."""


AnyEvent = (
    Submitting
    | Submitted
    | SubmitFailed
    | Seen
    | Cancelled
    | Completing
    | Completed
    | Answering
    | Retrying
    | Retried
    | Pausing
    | Paused
    | Unpausing
    | Unpaused
    | AgentBegan
    | Offered
    | OfferAnswered
    | Started
    | Finished
    | Heard
    | Reporting
    | Recorded
    | Refused
    | CancelHeard
    | Row
    | LeaseRow
    | Began
    | FaultBegan
    | FaultEnded
    | Healed
)

_DECODER: Final = msgspec.json.Decoder(AnyEvent)


class History:
    """Appends to the file at `path`, made when missing; any number of processes may."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, event: AnyEvent) -> None:
        """Append one line."""
        os.write(self._descriptor, msgspec.json.encode(event) + b"\n")

    def close(self) -> None:
        """Write no more."""
        os.close(self._descriptor)


def read(path: Path) -> list[AnyEvent]:
    """The events of a history in the order of time; those of the database in the order of its commits."""
    with path.open("rb") as lines:
        events = [_DECODER.decode(line) for line in lines]
    return in_order(events)


def in_order(events: list[AnyEvent]) -> list[AnyEvent]:
    """Merged by time. At the same instant the database comes first: whoever speaks of a commit does so after it."""

    def place(event: AnyEvent) -> tuple[int, int]:
        return event.at_ns, event.sequence if isinstance(event, Row | LeaseRow) else 1 << 62

    return sorted(events, key=place)
