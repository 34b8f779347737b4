"""The closed lists of the protocol: states, outcomes, priorities, strategies; and the usual roles, an open one.

Every value is the text that goes over the wire and into the database.
"""

from enum import StrEnum


class TaskState(StrEnum):
    """Where a task is (protocol, section 4). A final state never changes."""

    QUEUED = "queued"
    DEFERRED = "deferred"
    ASSIGNED = "assigned"
    RUNNING = "running"
    WAITING_INPUT = "waiting_input"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    QUARANTINED = "quarantined"

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self in FINAL_TASK_STATES


FINAL_TASK_STATES = frozenset(
    {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED, TaskState.QUARANTINED}
)
ACCEPTED_TASK_STATES = frozenset({TaskState.RUNNING, TaskState.WAITING_INPUT})
"""An agent has taken the attempt, and works or waits for an answer."""
HELD_TASK_STATES = frozenset({TaskState.ASSIGNED, *ACCEPTED_TASK_STATES})
WAITING_TASK_STATES = frozenset({TaskState.QUEUED, TaskState.DEFERRED})


class AgentState(StrEnum):
    """What the orchestrator believes of an agent (protocol, section 3)."""

    STARTING = "starting"
    ONLINE = "online"
    SUSPECT = "suspect"
    OFFLINE = "offline"
    DRAINING = "draining"
    QUARANTINED = "quarantined"
    STOPPED = "stopped"


class Outcome(StrEnum):
    """How an attempt ended, and so what it cost (protocol, section 3, table of outcomes)."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    DECLINED = "declined"
    UNDELIVERED = "undelivered"
    RELEASED = "released"
    CANCELLED = "cancelled"


class TaskPriority(StrEnum):
    """Scheduling class: strictly the highest first, the oldest first within one."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for `low` to 3 for `critical`: what the order and the database compare."""
        return _RANKS[self]


_RANKS = {priority: rank for rank, priority in enumerate(TaskPriority)}


class TaskAssignmentStrategy(StrEnum):
    """How one agent is chosen among the eligible ones."""

    ROUND_ROBIN = "round_robin"
    AVAILABILITY_BASED = "availability_based"
    CAPABILITY_MATCH = "capability_match"
    PERFORMANCE_BASED = "performance_based"


class OnUnsatisfiable(StrEnum):
    """What to do with a task that no known agent could ever take."""

    WAIT = "wait"
    REJECT = "reject"


class Durability(StrEnum):
    """What an acknowledged commit survives, as `status` reports it."""

    FSYNC = "fsync"
    RELAXED = "relaxed"
    MEMORY = "memory"


class DatabaseHealth(StrEnum):
    """Whether the pool's owner can commit."""

    OK = "ok"
    DOWN = "down"


class DeferralReason(StrEnum):
    """Why a `deferred` task waits."""

    NOT_BEFORE = "not_before"
    BACKOFF = "backoff"


class DeclineReason(StrEnum):
    """The reasons for `accepted: false` that the orchestrator knows; agents may send any other text."""

    BUSY = "busy"
    UNSUPPORTED = "unsupported"
    DRAINING = "draining"


class AgentRole(StrEnum):
    """The usual roles. Roles are open strings: any name of the protocol's form is one."""

    ARCHITECT = "architect"
    BACKEND_DEVELOPER = "backend_developer"
    FRONTEND_DEVELOPER = "frontend_developer"
    DATA_ENGINEER = "data_engineer"
    DEVOPS_ENGINEER = "devops_engineer"
    SECURITY_ENGINEER = "security_engineer"
    TESTER = "tester"
    REVIEWER = "reviewer"
    RESEARCHER = "researcher"
    WRITER = "writer"
    WORKER = "worker"
