"""The answer to the query subject (protocol, section 5), and the owner's announcement."""

from callboard.schemas.base import Message
from callboard.schemas.names import Instant
from callboard.schemas.tasks import TaskCounts
from callboard.schemas.vocabulary import AgentState, DatabaseHealth, Durability, TaskAssignmentStrategy


class Owner(Message, frozen=True, kw_only=True):
    """Which replica owns the pool, under which epoch, since when."""

    replica: str
    epoch: int
    since: Instant


class OwnerEvent(Message, frozen=True, kw_only=True):
    """The data of what `event.owner` carries: a higher epoch makes every other holder let go."""

    pool: str
    replica: str
    epoch: int
    at: Instant


class Health(Message, frozen=True, kw_only=True):
    """`degraded` while the owner cannot commit; `since` says from when."""

    database: DatabaseHealth
    bus: str
    degraded: bool
    since: Instant | None = None


class AgentCounts(Message, frozen=True, kw_only=True):
    """The fleet: how many agents, in which states, and how many of their slots are held."""

    total: int
    by_state: dict[AgentState, int]
    slots: int
    slots_used: int


class Latency(Message, frozen=True, kw_only=True):
    """A duration since the owner took over: how many were measured, and percentiles in milliseconds."""

    count: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


class Performance(Message, frozen=True, kw_only=True):
    """`success_rate` over tasks that ended since the owner took over; `None` before the first."""

    submit: Latency
    dispatch: Latency
    run: Latency
    end_to_end: Latency
    commit: Latency
    success_rate: float | None
    tasks_per_minute: float


class SystemStatus(Message, frozen=True, kw_only=True):
    """The answer to `status`: from memory and at once, also while the database is away.

    `paused` is the whole pool's; `paused_types` are the types that are paused by themselves, the first 100 by
    name.
    """

    pool: str
    mode: str
    version: str
    started_at: Instant
    uptime_ms: int
    owner: Owner
    durability: Durability
    health: Health
    agents: AgentCounts
    tasks: TaskCounts
    performance: Performance
    strategy: TaskAssignmentStrategy
    paused: bool
    paused_types: list[str] | None = None
