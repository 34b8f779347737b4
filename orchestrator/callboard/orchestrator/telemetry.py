"""What the owner of a pool reports about its work.

`Telemetry` measures nothing and costs nothing: `enable_performance_monitoring` off. `pool_telemetry` measures.
Durations are milliseconds, as everywhere inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard.schemas.status import Latency, Performance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from callboard.schemas.vocabulary import AgentState, Outcome, TaskPriority, TaskState


class Telemetry:
    """What the service reports of one pool; as it stands it measures nothing. No method raises or waits."""

    def submitted(self, priority: TaskPriority) -> None:
        """A task was accepted (committed)."""

    def submit_answered(self, duration_ms: float) -> None:
        """A submit was answered, so long after its arrival."""

    def dispatched(self, waited_ms: float) -> None:
        """A task was assigned, so long after it could have been."""

    def offered(self) -> None:
        """An assignment was sent."""

    def attempt_ended(self, outcome: Outcome, ran_ms: float | None) -> None:
        """An attempt ended, so long after it was accepted (none: it never was)."""

    def finished(self, state: TaskState, end_to_end_ms: float) -> None:
        """A task reached a final state, so long after it was submitted."""

    def committed(self, events: int, duration_ms: float) -> None:
        """A batch of `events` was committed."""

    def commit_failed(self) -> None:
        """A batch was not committed."""

    def events_published(self, events: int) -> None:
        """So many events have arrived."""

    def events_failed(self) -> None:
        """Events could not be published, and are kept; or one was dropped, which is logged."""

    def set_outbox(self, batches: int, size: int, oldest_ms: float) -> None:
        """What is committed and not known to be published: batches, bytes, and how long the oldest has waited."""

    def answered(self, endpoint: str, code: int | None = None) -> None:
        """A request was answered; `code` is the error's number."""

    def set_tasks(self, by_state: Mapping[TaskState, int], oldest_queued_ms: float) -> None:
        """How many live tasks there are now; a state left out counts 0."""

    def set_agents(self, by_state: Mapping[AgentState, int], slots: int, slots_used: int) -> None:
        """How many agents there are now; a state left out counts 0."""

    def set_database(self, *, up: bool) -> None:
        """Whether the owner can commit."""

    def performance(self, owned_ms: float) -> Performance:  # noqa: ARG002 - nothing is measured here
        """What `status` shows, `owned_ms` after this replica took the pool over."""
        nothing = Latency(count=0)
        return Performance(
            submit=nothing,
            dispatch=nothing,
            run=nothing,
            end_to_end=nothing,
            commit=nothing,
            success_rate=None,
            tasks_per_minute=0.0,
        )
