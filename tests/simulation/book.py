"""The book of one schedule: what was promised and what was committed, checked against each other as it is written.

- A final state and its result never change, and nothing is written after it.
- Attempts rise by one, each has its one end, and no agent holds more than its slots.
- A result is of the current attempt, from its own agent and incarnation, or of a client that gave it.
- What is told was committed, as it was committed; each change is told, each for the first time after the one before it.
- `recorded`, `created` and `cancelled` are said after the commit only.
- A question is answered after the commit, with what was said to that very attempt.
- A task runs once, again when an attempt of it failed or timed out, and else only because of a fault.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from tests.simulation.world import World

from callboard.orchestrator.core.changes import Changes, TaskChange
from callboard.orchestrator.core.model import EndedAttempt
from callboard.schemas.events import Change
from callboard.schemas.vocabulary import HELD_TASK_STATES, Outcome, TaskState

BY_HAND = b'"by hand"'
GIVEN_UP = frozenset({Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.UNDELIVERED, Outcome.RELEASED})
AFTERMATH_MS = 10_000
"""How long after a fault its consequences may show: a lease, a suspicion, the back-off of a heartbeat."""


def answer_to(task_id: str, attempt: int) -> bytes:
    """What is answered to the question of an attempt, and to no other."""
    return msgspec.json.encode([task_id, attempt])


@dataclass(slots=True)
class Line:
    """What is committed of one task."""

    state: TaskState
    attempt: int
    version: int
    agent_id: str | None
    ends: list[EndedAttempt] = field(default_factory=list[EndedAttempt])
    result: bytes | None = None
    states: dict[int, TaskState] = field(default_factory=dict[int, TaskState])
    """The states that were written, by version; some are passed through within one batch."""
    heard: list[bytes] = field(default_factory=list[bytes])
    """What was told, by version, when it was told for the first time."""


class Heard(msgspec.Struct):
    """What an event says."""

    task_id: str
    version: int
    state: TaskState


class Run(NamedTuple):
    """A handler was started."""

    at_ms: int
    attempt: int
    agent_id: str
    incarnation: str


class Blame(NamedTuple):
    """Something that may make a task run again."""

    from_ms: int
    until_ms: int
    agent_id: str | None
    """Whom it concerns; `None`: everybody."""


class Book:
    """All tasks that ever were committed, and what was said of them."""

    def __init__(self, world: World, *, adopts_late: bool) -> None:
        self.adopts_late = adopts_late
        self._world = world
        self.lines: dict[str, Line] = {}
        self.on_waiting: Callable[[str, int], None] = lambda _task_id, _attempt: None
        """Called when an attempt is committed as waiting for an answer."""
        self.live: dict[str, Line] = {}
        """Those that are not final."""
        self.slots: dict[str, int] = {}
        self.max_attempts: dict[str, int] = {}
        self.keys: dict[str, tuple[str, int]] = {}
        """The concurrency key and limit of tasks that have one."""
        self.accepted: set[str] = set()
        self.by_hand: set[str] = set()
        self.runs: dict[str, list[Run]] = {}
        self.failures: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._blames: list[Blame] = []

    # Commits.

    def committed(self, changes: Changes, refused: frozenset[str]) -> None:
        """A batch became durable, less the refused inserts."""
        for change in changes.tasks:
            if change.columns.task_id not in refused:
                self._committed(change)
        self._check_keys(changes)
        over = [agent_id for agent_id, held in self._held.items() if held > self.slots[agent_id]]
        if over:
            self._world.fail(f"{over[0]} has {self._held[over[0]]} attempts in {self.slots[over[0]]} slots")

    def _check_keys(self, changes: Changes) -> None:
        """No assignment brought a key over the lowest limit of those that were alive at the decision."""
        written = {change.columns.task_id: change for change in changes.tasks}
        assigned = {
            self.keys[task_id][0]
            for task_id, change in written.items()
            if task_id in self.keys and change.columns.state is TaskState.ASSIGNED
        }
        for key in assigned:
            lines = [(self.lines[of], of) for of, (name, _) in self.keys.items() if name == key and of in self.lines]
            held = sum(line.state in HELD_TASK_STATES for line, _ in lines)
            known = [
                self.keys[task_id][1]
                for line, task_id in lines
                if line.state in HELD_TASK_STATES
                or (not line.state.is_final and (task_id not in written or written[task_id].new is None))
            ]
            if held > min(known, default=held):
                self._world.fail(f"{held} tasks of {key} are held at a limit of {min(known)}")

    def _committed(self, change: TaskChange) -> None:
        columns = change.columns
        task_id, fail = columns.task_id, self._world.fail
        line = self.lines.get(task_id)
        if (line is None) != (change.new is not None):
            fail(f"{task_id} is inserted twice, or written before it exists", about=task_id)
        if line is None:
            line = self.lines[task_id] = self.live[task_id] = Line(TaskState.QUEUED, 0, 0, None)
        self._world.note("committed", task_id, columns.state.value, columns.attempt, columns.agent_id)
        if line.state.is_final:
            fail(f"{task_id} was {line.state}, and is written again as {columns.state}", about=task_id)
        # Progress alone makes no new version.
        if columns.version < line.version + (columns.state is not line.state):
            fail(f"{task_id} goes from version {line.version} to {columns.version}", about=task_id)
        ends = self._without_adopted([*line.ends, *change.ended], change)
        if [end.attempt for end in ends] != list(range(1, len(ends) + 1)):
            fail(f"{task_id} ends attempts {change.ended} after {len(line.ends)}", about=task_id)
        line.ends = ends
        is_held = columns.state in HELD_TASK_STATES
        if columns.attempt != len(line.ends) + is_held:
            fail(f"{task_id} is {columns.state} in attempt {columns.attempt}, {len(line.ends)} ended", about=task_id)
        if columns.spent > self.max_attempts.get(task_id, columns.spent):
            fail(f"{task_id} spent {columns.spent} attempts", about=task_id)
        if line.state in HELD_TASK_STATES:
            self._held[str(line.agent_id)] -= 1
        if is_held:
            self._held[str(columns.agent_id)] += 1
        if columns.state is TaskState.WAITING_INPUT and line.state is not TaskState.WAITING_INPUT:
            self.on_waiting(task_id, columns.attempt)
        line.state, line.attempt, line.version = columns.state, columns.attempt, columns.version
        line.agent_id = columns.agent_id
        line.states[columns.version] = columns.state
        if change.ending is not None:
            del self.live[task_id]
            line.result = change.ending.result
            self._check_end(change, line)
        elif columns.state.is_final:
            fail(f"{task_id} is {columns.state} without an end", about=task_id)

    def _without_adopted(self, ends: list[EndedAttempt], change: TaskChange) -> list[EndedAttempt]:
        """The ends, one to an attempt: a success that came late takes the place of the attempt's first end."""
        if len(ends) < 2 or ends[-1].attempt != ends[-2].attempt:
            return ends
        first, last = ends[-2:]
        is_one = (first.agent_id, first.incarnation) == (last.agent_id, last.incarnation)
        is_late_success = first.outcome in GIVEN_UP and last.outcome is Outcome.SUCCEEDED
        if not (self.adopts_late and is_one and is_late_success and change.columns.state is TaskState.SUCCEEDED):
            task_id = change.columns.task_id
            self._world.fail(f"{task_id} ends an attempt twice: {first} and {last}", about=task_id)
        self._world.tally["late success"] += 1
        return [*ends[:-2], last]

    def _check_end(self, change: TaskChange, line: Line) -> None:
        columns = change.columns
        if (line.state is TaskState.SUCCEEDED) != (line.result is not None):
            self._world.fail(f"{columns.task_id} is {line.state} with {line.result!r}", about=columns.task_id)
        if line.result is None or (line.result == BY_HAND and columns.task_id in self.by_hand):
            return
        wanted = [columns.task_id, columns.attempt, columns.agent_id, columns.incarnation]
        if msgspec.json.decode(line.result) != wanted:
            self._world.fail(f"result {line.result!r} was accepted for {wanted}", about=columns.task_id)

    # Promises.

    def submit_answered(self, task_id: str) -> None:
        """A client was told that this task is accepted."""
        if task_id not in self.lines:
            self._world.fail(f"{task_id} was accepted before its commit", about=task_id)
        self.accepted.add(task_id)

    def recorded(self, task_id: str, attempt: int, outcome: Outcome) -> None:
        """An agent was told that its report is recorded."""
        line = self.lines.get(task_id)
        ends = [] if line is None else [end.outcome for end in line.ends if end.attempt == attempt]
        if ends != [outcome]:
            self._world.fail(f"{task_id}/{attempt} was recorded as {outcome}, and ended {ends}", about=task_id)

    def refused(self, task_id: str, attempt: int, outcome: Outcome, who: tuple[str, str]) -> None:
        """An agent was told that its report is stale."""
        line = self.lines.get(task_id)
        ends = [] if line is None else [end for end in line.ends if end.attempt == attempt]
        if any(end.outcome is outcome and (end.agent_id, end.incarnation) == who for end in ends):
            self._world.fail(f"{task_id}/{attempt} of {who} is recorded as {outcome}, and refused", about=task_id)

    def offered(self, task_id: str, attempt: int, agent_id: str) -> None:
        """An attempt was offered; by one who was stopped, long after it ended."""
        line = self.lines.get(task_id)
        if line is None or line.attempt < attempt:
            self._world.fail(f"{task_id}/{attempt} was offered to {agent_id} before its commit", about=task_id)
        holder = line.ends[attempt - 1].agent_id if attempt <= len(line.ends) else line.agent_id
        if holder != agent_id:
            self._world.fail(f"{task_id}/{attempt} of {holder} was offered to {agent_id}", about=task_id)

    def answered(self, task_id: str, attempt: int, answer: bytes) -> None:
        """A handler was given the answer to its question."""
        line = self.lines[task_id]
        if line.attempt == attempt and line.state is TaskState.WAITING_INPUT:
            self._world.fail(f"{task_id}/{attempt} was answered before the commit", about=task_id)
        if answer != answer_to(task_id, attempt):
            self._world.fail(f"{task_id}/{attempt} was answered {answer!r}", about=task_id)
        self._world.tally["answered"] += 1

    def told(self, task_id: str, state: TaskState) -> None:
        """A client was told the final state of its task."""
        line = self.lines.get(task_id)
        if line is None or line.state is not state:
            self._world.fail(f"{task_id} was said to be {state}, and is {line}", about=task_id)

    # Events.

    def heard(self, change: Change) -> None:
        """Somebody heard of a change."""
        if not change.topic.startswith("task."):
            return
        event = msgspec.json.decode(change.data, type=Heard)
        task_id, version, line = event.task_id, event.version, self.lines.get(event.task_id)
        if line is None or version > line.version or event.state is not line.states.get(version, event.state):
            self._world.fail(
                f"{task_id} was told to be {event.state} in version {version}, and is {line}", about=task_id
            )
        if version > len(line.heard) + 1:
            self._world.fail(f"{task_id}: version {version} was told after {len(line.heard)}", about=task_id)
        if version == len(line.heard) + 1:
            line.heard.append(change.data)
        elif line.heard[version - 1] != change.data:
            self._world.fail(f"{task_id}: version {version} was told in two ways", about=task_id)
        else:
            self._world.tally["told again"] += 1

    @property
    def is_told(self) -> bool:
        """Whether everything was."""
        return all(len(line.heard) == line.version for line in self.lines.values())

    def check_told(self) -> None:
        """Every change was told."""
        for task_id, line in self.lines.items():
            if len(line.heard) != line.version:
                self._world.fail(f"{task_id} is in version {line.version}, told {len(line.heard)}", about=task_id)

    # Executions.

    def ran(self, task_id: str, attempt: int, agent_id: str, incarnation: str) -> None:
        """A handler was started; by one process not twice for one attempt, whatever happens."""
        runs = self.runs.setdefault(task_id, [])
        if any((run.attempt, run.incarnation) == (attempt, incarnation) for run in runs):
            self._world.fail(f"{incarnation} runs {task_id}/{attempt} for the second time", about=task_id)
        runs.append(Run(self._world.now_ms, attempt, agent_id, incarnation))

    def blame(self, agent_id: str | None, lasts_ms: int = 0) -> None:
        """Something happened that may make a task run again."""
        now_ms = self._world.now_ms
        self._blames.append(Blame(now_ms, now_ms + lasts_ms + AFTERMATH_MS, agent_id))

    def check_runs(self) -> None:
        """Every execution beyond the first has its cause: an end that asks for another, or a fault."""
        for task_id, runs in self.runs.items():
            ends = self.lines[task_id].ends
            wanted = 1 + sum(end.outcome in {Outcome.FAILED, Outcome.TIMED_OUT} for end in ends)
            extra = len(runs) - wanted
            if extra > 0 and extra > (faults := self._faults(runs)):
                self._world.fail(f"{task_id} ran {len(runs)} times, {wanted} wanted, {faults} faults", about=task_id)
            self._world.tally["executed again"] += max(extra, 0)

    def _faults(self, runs: list[Run]) -> int:
        """How many faults could have made this task run again."""
        agents = {run.agent_id for run in runs}
        return sum(
            blame.from_ms <= runs[-1].at_ms
            and blame.until_ms >= runs[0].at_ms
            and (blame.agent_id is None or blame.agent_id in agents)
            for blame in self._blames
        )

    # The end.

    @property
    def is_drained(self) -> bool:
        """Whether every committed task is final."""
        return not self.live

    def unfinished(self) -> list[str]:
        """Tasks that are not final."""
        return list(self.live)
