# ruff: noqa: D102 - what a method means is said once, in `Telemetry`
"""Measures one pool: each observation goes to Prometheus (in seconds) and to the percentiles that `status` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from callboard.orchestrator.telemetry import Telemetry
from callboard.schemas.status import Latency, Performance
from callboard.schemas.vocabulary import AgentState, Outcome, TaskPriority, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import Counter, Gauge

    from callboard.orchestrator.durations import Durations
    from callboard.orchestrator.metrics import Metrics

OK_CODE: Final = "200"

_State = TypeVar("_State", bound=str)


class PoolTelemetry(Telemetry):
    """Measures one pool from its take-over on; make a new one at each."""

    def __init__(self, metrics: Metrics, pool: str) -> None:
        self._metrics = metrics
        self._pool = pool
        self._submit = _Duration(metrics.submit_seconds, pool)
        self._dispatch = _Duration(metrics.dispatch_seconds, pool)
        self._run = _Duration(metrics.run_seconds, pool)
        self._end_to_end = _Duration(metrics.end_to_end_seconds, pool)
        self._commit = _Duration(metrics.commit_seconds, pool)
        self._offers = metrics.offers.labels(pool)
        self._events = metrics.events_published.labels(pool)
        self._commits = metrics.commits.labels(pool)
        self._batch_size = metrics.batch_size.labels(pool)
        self._database_up: bool | None = None
        self._children: dict[object, Counter] = {}
        self._finished = dict.fromkeys((state for state in TaskState if state.is_final), 0)
        self._task_states: set[TaskState] = set()
        self._agent_states: set[AgentState] = set()
        metrics.owner.labels(pool).set(1)

    def submitted(self, priority: TaskPriority) -> None:
        self._count(self._metrics.tasks_submitted, priority)

    def submit_answered(self, duration_ms: float) -> None:
        self._submit.observe(duration_ms)

    def dispatched(self, waited_ms: float) -> None:
        self._dispatch.observe(waited_ms)

    def offered(self) -> None:
        self._offers.inc()

    def attempt_ended(self, outcome: Outcome, ran_ms: float | None) -> None:
        self._count(self._metrics.attempts_ended, outcome)
        if ran_ms is not None:
            self._run.observe(ran_ms)

    def finished(self, state: TaskState, end_to_end_ms: float) -> None:
        self._count(self._metrics.tasks_finished, state)
        self._finished[state] += 1
        self._end_to_end.observe(end_to_end_ms)

    def committed(self, events: int, duration_ms: float) -> None:
        self._commits.inc()
        self._batch_size.observe(events)
        self._commit.observe(duration_ms)

    def commit_failed(self) -> None:
        self._metrics.commit_failures.labels(self._pool).inc()

    def events_published(self, events: int) -> None:
        self._events.inc(events)

    def events_failed(self) -> None:
        self._metrics.event_failures.labels(self._pool).inc()

    def set_outbox(self, batches: int, size: int, oldest_ms: float) -> None:
        self._metrics.outbox_batches.labels(self._pool).set(batches)
        self._metrics.outbox_bytes.labels(self._pool).set(size)
        self._metrics.outbox_oldest.labels(self._pool).set(oldest_ms / 1000)

    def answered(self, endpoint: str, code: int | None = None) -> None:
        self._count(self._metrics.requests, endpoint, OK_CODE if code is None else str(code))

    def _count(self, counter: Counter, *labels: str) -> None:
        """One more; prometheus-client takes longer to find a child than to count in it."""
        place = (counter, *labels)
        child = self._children.get(place)
        if child is None:
            child = self._children[place] = counter.labels(self._pool, *labels)
        child.inc()

    def set_tasks(self, by_state: Mapping[TaskState, int], oldest_queued_ms: float) -> None:
        _set_by_state(self._metrics.tasks, self._pool, by_state, self._task_states)
        self._metrics.oldest_queued.labels(self._pool).set(oldest_queued_ms / 1000)

    def set_agents(self, by_state: Mapping[AgentState, int], slots: int, slots_used: int) -> None:
        _set_by_state(self._metrics.agents, self._pool, by_state, self._agent_states)
        self._metrics.slots.labels(self._pool).set(slots)
        self._metrics.slots_used.labels(self._pool).set(slots_used)

    def set_database(self, *, up: bool) -> None:
        # Said at every turn of the owner. Nothing before the first: a gauge is 0 until then.
        if up is not self._database_up:
            self._database_up = up
            self._metrics.database_up.labels(self._pool).set(up)

    def performance(self, owned_ms: float) -> Performance:
        ended = sum(self._finished.values())
        return Performance(
            submit=self._submit.snapshot(),
            dispatch=self._dispatch.snapshot(),
            run=self._run.snapshot(),
            end_to_end=self._end_to_end.snapshot(),
            commit=self._commit.snapshot(),
            success_rate=self._finished[TaskState.SUCCEEDED] / ended if ended else None,
            tasks_per_minute=round(ended * 60_000 / owned_ms, 3) if owned_ms > 0 else 0.0,
        )


class _Duration:
    """One kind of duration: Prometheus counts on, whoever owned the pool; `status` shows it from the take-over on."""

    __slots__ = ("_before", "_window", "observe")

    def __init__(self, durations: Durations, pool: str) -> None:
        self._window = durations.of(pool)
        self._before = self._window.copy()
        self.observe = self._window.observe

    def snapshot(self) -> Latency:
        return self._window.since(self._before).snapshot()


def _set_by_state(gauge: Gauge, pool: str, by_state: Mapping[_State, int], seen: set[_State]) -> None:
    # A state that has emptied must fall to 0, not stay at its last number.
    seen.update(by_state)
    for state in seen:
        gauge.labels(pool, state).set(by_state.get(state, 0))
