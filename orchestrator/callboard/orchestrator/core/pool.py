"""Everything that the machine knows of its pool, and the book-keeping of the batch being decided.

`number` is the batch that the next write will belong to; `committed` the last one known to be durable.
"""

from typing import Final

import msgspec

from callboard.orchestrator.core.absent import Absent
from callboard.orchestrator.core.changes import KeyHold, NewTask
from callboard.orchestrator.core.dice import Dice
from callboard.orchestrator.core.effects import Announcement, Answer, Effect, PublishTask, Refuse
from callboard.orchestrator.core.events import Ticket
from callboard.orchestrator.core.lanes import Lane
from callboard.orchestrator.core.lazy import LazyWrites
from callboard.orchestrator.core.model import Agent, Dialogue, Task
from callboard.orchestrator.core.performance import Performance
from callboard.orchestrator.core.placement import Placer
from callboard.orchestrator.core.queue import Queue
from callboard.orchestrator.core.settings import CoreSettings
from callboard.orchestrator.core.timers import Clock, Timers
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.vocabulary import TaskState

_LIVE_STATES: Final = tuple(state for state in TaskState if not state.is_final)

KeyPlace = tuple[str, str, int]
"""Agent, task and attempt."""


class Submission(msgspec.Struct):
    """A submit that is answered when the batch is sealed, with the state that its task has then."""

    ticket: Ticket
    task: Task
    satisfiable: bool
    is_retry: bool


class Pool:
    """The state of one pool, as its owner decides it."""

    def __init__(self, name: str, settings: CoreSettings, *, epoch: int, seed: int) -> None:
        self.name = name
        self.settings = settings
        self.epoch = epoch
        self.tasks: dict[str, Task] = {}
        self.queue = Queue(settings.ageing_ms, window=settings.window, least_lane=settings.least_lane)
        self.absent = Absent()
        self.reading: tuple[Lane, ...] | None = None
        """The lanes that are being read, while any read of the window is under way."""
        self.keyed: dict[KeyPlace, str] = {}
        """The concurrency key of every attempt that counts for one."""
        self.written_holds: dict[KeyPlace, KeyHold] = {}
        """Those of them that are over, as they are written down."""
        self.timers = Timers()
        self.dice = Dice(seed)
        self.performance = Performance()
        self.placer = Placer(self.dice, self.performance, ranked_agents=settings.ranked_agents)
        self.counts: dict[TaskState, int] = dict.fromkeys(TaskState, 0)
        self.observing_from_ms = 0
        """Silence before this instant says nothing about anybody."""

        self.number = 1
        self.committed = 0
        self.is_urgent = False
        """Whether the batch must be written; answers to questions wait for something to ride along with."""
        self.unsealed_bytes = 0
        """Bytes of payloads and results that wait for the next write."""
        self.new: dict[str, NewTask] = {}
        self.dirty: dict[str, Task] = {}
        self.lazy = LazyWrites()
        self.unsaid: dict[str, PublishTask] = {}
        """What is to be told of a task that waits there; it is told with the write of its row, like all else."""
        self.dirty_agents: dict[str, Agent] = {}
        self.forgotten_agents: set[str] = set()
        self.dirty_dialogues: dict[str, Dialogue | None] = {}
        """What was asked, answered or ended (`None`) since the last batch, by task."""
        self.dirty_pauses: dict[str, bool] = {}
        """What was paused (true) or resumed (false) since the last batch."""
        self.ending: dict[int, list[Task]] = {}
        """Final tasks by the batch that writes their end: they leave memory when it is committed."""
        self.settling: dict[int, list[Task]] = {}
        """Waiting tasks by the batch that writes them: then they may leave memory."""
        self.ended_keyed: list[KeyPlace] = []
        """Attempts with a concurrency key that ended since the last batch."""
        self.dropped_holds: list[KeyHold] = []
        self.submissions: list[Submission] = []
        self.at_once: list[Effect] = []
        self.after_commit: list[Effect] = []
        self.announcements: list[Announcement] = []
        """Changes to be told: written with the rows that they are about, so these may wait for the next write."""

    @property
    def agents(self) -> dict[str, Agent]:
        """The known agents by id."""
        return self.queue.agents

    @property
    def live_tasks(self) -> int:
        """How many tasks are not final, as decided."""
        return sum(map(self.counts.__getitem__, _LIVE_STATES))

    @property
    def heartbeat_interval_ms(self) -> int:
        """The interval to dictate now."""
        return self.settings.heartbeat_interval_for(len(self.agents))

    @property
    def lease_ms(self) -> int:
        """The agents' lease that goes with that interval."""
        return self.heartbeat_interval_ms * self.settings.lease_intervals

    @property
    def grace_until_ms(self) -> int:
        """Until then no lease or limit of a held attempt runs out: held results come first (design: three clocks)."""
        return self.observing_from_ms + self.lease_ms

    def answer(self, ticket: Ticket, message: object) -> None:
        """Answer after the commit."""
        self.after_commit.append(Answer(ticket, message))

    def refuse(self, ticket: Ticket, error: OrchestratorError) -> None:
        """Refuse after the commit: what the refusal rests on may not be durable yet."""
        self.after_commit.append(Refuse(ticket, error))

    def touch(self, task: Task) -> None:
        """Have `task` written with this batch, and with it what waited."""
        self.is_urgent = True
        task.changed_in = self.number
        self.dirty[task.task_id] = task
        self.lazy.discard(task.task_id)
        if task.task_id in self.unsaid:
            self.announcements.append(self.unsaid.pop(task.task_id))

    def touch_lazily(self, task: Task, now_ms: int, patience_ms: int) -> None:
        """Have `task` written with its next change, or in `patience_ms`."""
        if task.task_id not in self.dirty:
            self.lazy.put(task, now_ms, patience_ms)
            self.flush_by(now_ms + patience_ms)

    def announce(self, said: PublishTask) -> None:
        """Tell of a task with the write of its row."""
        if said.task_id in self.dirty:
            self.announcements.append(said)
        else:
            self.unsaid[said.task_id] = said

    def flush(self, now_ms: int) -> None:
        """Have written what has waited long enough."""
        for task in self.lazy.due(now_ms):
            self.touch(task)
        self.is_urgent = self.is_urgent or bool(self.dirty_dialogues)
        due_ms = self.lazy.next_due_ms()
        if due_ms is not None:
            self.flush_by(due_ms)

    def flush_by(self, due_ms: int) -> None:
        """Have what waits for a ride written at `due_ms`, if nothing else comes before."""
        set_ms = self.timers.due_of(Clock.FLUSH, "")
        if set_ms is None or due_ms < set_ms:
            self.timers.set(Clock.FLUSH, "", due_ms)

    def watch_deadline(self, task: Task) -> None:
        """Start the clock of the whole task, if it has one."""
        if task.deadline_ms is not None:
            self.timers.set(Clock.DEADLINE, task.task_id, task.deadline_ms)

    def touch_agent(self, agent: Agent) -> None:
        """Have `agent` written with this batch."""
        agent.changed_in = self.number
        self.dirty_agents[agent.agent_id] = agent
        # One forgotten in this very batch is back: its row is written over, not deleted.
        self.forgotten_agents.discard(agent.agent_id)
        self.is_urgent = True

    def is_committed(self, changed_in: int) -> bool:
        """Whether a record's last decided change is durable."""
        return changed_in <= self.committed

    def agent_of(self, task: Task) -> Agent | None:
        """The agent that holds the current attempt of `task`, if it is still known."""
        return None if task.agent_id is None else self.agents.get(task.agent_id)

    @property
    def deferred_in_memory(self) -> int:
        """How many tasks wait for a time, here and not only in the database."""
        return self.counts[TaskState.DEFERRED] - self.absent.counts[TaskState.DEFERRED]
