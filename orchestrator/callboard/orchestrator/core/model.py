"""The records of the core: tasks, attempts, agents. Plain data; the modules beside this one change them.

Instants (`*_ms` without a duration's name) are milliseconds since the Unix epoch, on the pool's clock.
"""

from collections import OrderedDict

import msgspec
from msgspec import UNSET, Raw, UnsetType

from callboard.orchestrator.core.labels import LabelTest
from callboard.schemas.labels import LabelValue
from callboard.schemas.tasks import Backoff, TaskError
from callboard.schemas.vocabulary import AgentState, Outcome, TaskAssignmentStrategy, TaskPriority, TaskState
from callboard.schemas.why import AgentScore

Held = tuple[str, int]
"""A task id and an attempt: what occupies a slot."""


class EndedAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An attempt that is over, as it is kept with its task (the last 20).

    `state` and `until_ms` are what the task became by it, so that a repeated report gets its first answer again.
    `awaits_answer`: its handler waits for an answer that does not come any more.
    """

    attempt: int
    agent_id: str
    incarnation: str
    started_ms: int
    ended_ms: int
    outcome: Outcome
    state: TaskState
    until_ms: int | None = None
    error: TaskError | None = None
    awaits_answer: bool = False
    scores: tuple[AgentScore, ...] = ()
    """The best scores of the decision that placed it."""


class Dialogue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the attempt in hand asked last, as it is kept with its task until the attempt ends.

    `prompt` and `data` are the question, `answer` is its answer until the agent has acknowledged it. `waited_ms` is for
    how long the attempt waited, less the time since `asked_ms` while the question is open.
    """

    attempt: int
    query: int
    asked_ms: int
    prompt: str
    data: Raw | UnsetType = UNSET
    is_open: bool = True
    answer: Raw | UnsetType = UNSET
    waited_ms: int = 0


class Needs(msgspec.Struct, frozen=True):
    """What an agent must have, for any task of a placement class: the class's identity."""

    type: str
    role: str | None
    agent_id: str | None
    capabilities: frozenset[str]
    labels: frozenset[LabelTest] = frozenset()


class Task(msgspec.Struct, kw_only=True):
    """A live task, without its payload. Final ones stay only until their batch is committed."""

    task_id: str
    needs: Needs
    priority: TaskPriority
    created_ms: int
    order_ms: int
    """`max(created, not_before)`: its place within its priority."""
    strategy: TaskAssignmentStrategy | None
    max_attempts: int
    backoff: Backoff
    run_timeout_ms: int | None
    progress_timeout_ms: int | None
    deadline_ms: int | None
    prefers: tuple[tuple[LabelTest, float], ...] = ()
    """Comparisons and their weights."""
    affinity_key: str | None = None
    traceparent: str | None = None
    """The trace that it belongs to."""
    concurrency_key: str | None = None
    concurrency_limit: int = 0
    """How many tasks of the key may be held at once; without a key it says nothing."""

    state: TaskState
    version: int = 1
    attempt: int = 0
    agent_id: str | None = None
    incarnation: str | None = None
    assigned_ms: int | None = None
    started_ms: int | None = None
    updated_ms: int = 0
    until_ms: int | None = None
    reason: str | None = None
    spent: int = 0
    """Attempts that counted against `max_attempts`."""
    crashes: int = 0
    crashed_on: tuple[str, ...] = ()
    progress: bytes | None = None
    last_end: EndedAttempt | None = None
    dialogue: Dialogue | None = None

    scores: tuple[AgentScore, ...] = ()
    """The best scores of the decision that placed the current attempt; a new owner does not know them."""
    offers_sent: int = 0
    missed_listings: int = 0
    changed_in: int = 0
    """The number of the batch that carries its last decided change."""
    written: tuple[TaskState, int] | None = None
    """State and attempt as the last sealed batch wrote them: the guard of the next write. `None`: not inserted."""
    unwritten_ends: list[EndedAttempt] = msgspec.field(default_factory=list[EndedAttempt])
    result: bytes | None = None
    error: TaskError | None = None

    @property
    def place(self) -> tuple[int, str]:
        """Its place within its priority; the smallest is first."""
        return (self.order_ms, self.task_id)

    @property
    def order(self) -> tuple[int, int, str]:
        """The protocol's order: priority class, then time, then task id; the smallest is first."""
        return (-self.priority.rank, self.order_ms, self.task_id)

    def waited_ms(self, now_ms: int) -> int:
        """For how long the attempt in hand waited for answers: time that it did not work."""
        if self.dialogue is None:
            return 0
        return self.dialogue.waited_ms + (max(now_ms - self.dialogue.asked_ms, 0) if self.dialogue.is_open else 0)

    @property
    def held(self) -> Held:
        """The current attempt, as it occupies a slot."""
        return (self.task_id, self.attempt)


class Agent(msgspec.Struct, kw_only=True):
    """An agent as its messages and its silence show it."""

    agent_id: str
    liveness: AgentState
    """`starting`, `online`, `suspect`, `offline` or `stopped`; draining is apart, see `state`."""
    incarnation: str | None = None
    replaced: tuple[str, ...] = ()
    role: str | None = None
    capabilities: frozenset[str] = frozenset()
    labels: dict[str, LabelValue] = msgspec.field(default_factory=dict[str, LabelValue])
    metadata: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    slots: int = 1
    version: str | None = None
    operator_drain: bool = False
    own_drain: bool = False
    stopping: bool = False
    spawned: bool = False
    batches: bool = False
    """Whether it takes many offers in one message; a new owner learns it from the next heartbeat."""

    seq: int = -1
    interval_ms: int = 0
    """The heartbeat interval that it was told last."""
    seen_ms: int = 0
    holds: dict[Held, bool] = msgspec.field(default_factory=dict[Held, bool])
    """What occupies its slots; the value says whether the attempt was accepted."""
    # A dictionary finds its first entry behind the gaps of all that went before.
    reported: OrderedDict[Held, None] = msgspec.field(default_factory=OrderedDict[Held, None])
    """The attempts whose end it reported last, the oldest first; at most two for each slot."""
    skip_until_ms: int = 0
    unsupported: set[str] = msgspec.field(default_factory=set[str])
    turn: int = 0
    """When it was chosen last, counted in decisions."""
    failures_in_row: int = 0
    quarantines: int = 0
    """How many it had since it last succeeded; more than 0: it is quarantined (see `health`)."""
    is_probed: bool = False
    """Quarantined, and given one task at a time to show that it is well."""
    has_room: bool = False
    """Whether the queue lists it as free: nothing is in its way."""
    changed_in: int = 0

    @property
    def state(self) -> AgentState:
        """The state that the protocol shows."""
        if self.liveness is AgentState.ONLINE and (self.operator_drain or self.own_drain or self.stopping):
            return AgentState.DRAINING
        if self.liveness is AgentState.ONLINE and self.quarantines:
            return AgentState.QUARANTINED
        return self.liveness

    @property
    def obstacle(self) -> str | None:
        """Why it may not be offered anything now, whatever it is; `None` when it may."""
        if self.liveness is AgentState.SUSPECT:
            return "suspect"
        if self.liveness is not AgentState.ONLINE:
            return "offline"
        if self.operator_drain or self.own_drain or self.stopping:
            return "draining"
        if self.quarantines and not (self.is_probed and not self.holds):
            return "quarantined"
        if self.skip_until_ms:
            return "declined"
        return "no_slot" if len(self.holds) >= self.slots else None
