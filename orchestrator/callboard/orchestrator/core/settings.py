"""The numbers that the core decides by. Durations are integer milliseconds."""

from dataclasses import dataclass
from typing import Final

from callboard.schemas.vocabulary import TaskAssignmentStrategy

MAX_HEARTBEAT_INTERVAL_MS: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """What a pool's machine is told at its start; the defaults are the protocol's."""

    strategy: TaskAssignmentStrategy = TaskAssignmentStrategy.AVAILABILITY_BASED
    heartbeat_interval_ms: int = 5_000
    lease_intervals: int = 3
    agents_per_heartbeat_second: int = 500
    """The interval grows so that at most so many heartbeats a second arrive, up to 20 s."""
    offer_repeats_ms: tuple[int, ...] = (1_000, 2_000, 4_000)
    """An unanswered offer is repeated so long after the one before; after the last pause again, it is given up."""
    decline_skip_ms: int = 1_000
    progress_write_ms: int = 1_000
    """Progress waits at most so long to be written with another change of its task."""
    running_write_ms: int = 200
    """And so long `running`, which is told once it is written."""
    forget_agents_ms: int = 24 * 3600 * 1000
    shutdown_grace_ms: int = 10_000
    ageing_ms: int = 0
    """After so long a waiting task counts as one priority higher, and again; 0: never."""
    adopt_late_results: bool = False
    """Whether the result of an attempt that was given up is taken while its task waits (see `reports`)."""
    max_tasks: int = 1_000_000
    far_ms: int = 10_000
    """When many tasks wait for a time, those that wait for one beyond this leave memory, too."""
    max_agents: int = 10_000
    window: int = 20_000
    """Waiting tasks that memory holds, about; the others wait in the database."""
    least_lane: int = 16
    """How many of each placement class and priority it holds however many classes there are; at least 2."""
    batch_tasks: int = 128
    """Tasks of one batch, about: assignments decided in it, and changes after which it takes in no more. So many that
    wait for a ride are written without one."""
    ranked_agents: int = 64
    quarantine_crashes: int = 3
    quarantine_agents: int = 2
    """A task that crashed so often, on so many agents, is poison."""
    quarantine_failures: int = 10
    """An agent that failed so often in a row is sick; 0: never."""
    probe_after_ms: int = 30_000
    """The first back-off of a sick agent; it doubles, up to:"""
    probe_after_most_ms: int = 600_000

    def heartbeat_interval_for(self, agents: int) -> int:
        """The interval to dictate to a fleet of `agents`."""
        spread = agents * 1000 // self.agents_per_heartbeat_second
        return max(self.heartbeat_interval_ms, min(spread, MAX_HEARTBEAT_INTERVAL_MS))
