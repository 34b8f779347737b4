"""The Prometheus metrics of one orchestrator process, in a registry of their own.

Rules: names by Prometheus conventions (base units, `_total` for counters); no label whose values grow with tasks,
agents or clients: only `pool`, `state`, `outcome`, `priority`, `endpoint`, `code` and `reason`, all short lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from callboard.orchestrator.durations import Durations

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMESPACE: Final = "callboard"

FAST_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""Seconds: answers and commits."""
WORK_BUCKETS: Final = (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400)
"""Seconds: from an answer that comes at once to hours of work."""
BATCH_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """All metrics; `telemetry` is what writes them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)

        self.tasks_submitted = self._counter("tasks_submitted", "Tasks accepted", "pool", "priority")
        self.tasks_finished = self._counter("tasks_finished", "Tasks that reached a final state", "pool", "state")
        self.attempts_ended = self._counter("attempts_ended", "Attempts that ended", "pool", "outcome")
        self.requests = self._counter("requests", "Requests answered; code 200 or that of the error",
                                      "pool", "endpoint", "code")  # fmt: skip
        self.offers = self._counter("offers", "Assignments sent to agents, repeats included", "pool")
        self.dropped_messages = self._counter("dropped_messages", "Messages that could not be answered", "reason")
        self.commits = self._counter("commits", "Batches committed", "pool")
        self.commit_failures = self._counter("commit_failures", "Batches that could not be committed", "pool")
        self.events_published = self._counter("events_published", "Events that have arrived", "pool")
        self.event_failures = self._counter("event_failures", "Times that events could not be published", "pool")
        self.agent_restarts = self._counter("agent_restarts", "Spawned agents started again after they died")

        self.batch_size = self._histogram("commit_batch_size", "Events in a committed batch", BATCH_BUCKETS)
        self.commit_seconds = self._durations("commit_seconds", "Time a batch took to commit", FAST_BUCKETS)
        self.submit_seconds = self._durations("submit_seconds", "From a submit's arrival to its answer", FAST_BUCKETS)
        self.dispatch_seconds = self._durations("dispatch_seconds", "From ready to assigned", WORK_BUCKETS)
        self.run_seconds = self._durations("run_seconds", "From accepted to ended, by attempt", WORK_BUCKETS)
        self.end_to_end_seconds = self._durations("end_to_end_seconds", "From submitted to final", WORK_BUCKETS)

        self.tasks = self._gauge("tasks", "Live tasks", "pool", "state")
        self.agents = self._gauge("agents", "Agents known", "pool", "state")
        self.slots = self._gauge("agent_slots", "Slots of agents that are not gone", "pool")
        self.slots_used = self._gauge("agent_slots_used", "Slots that are held", "pool")
        self.oldest_queued = self._gauge("oldest_queued_seconds", "Age of the oldest task that waits", "pool")
        self.outbox_batches = self._gauge("outbox_batches", "Batches whose events are kept to be published", "pool")
        self.outbox_bytes = self._gauge("outbox_bytes", "Bytes of events that are kept to be published", "pool")
        self.outbox_oldest = self._gauge("outbox_oldest_seconds", "Age of the oldest event that is kept", "pool")
        self.owner = self._gauge("pool_owner", "1 if this replica owns the pool", "pool")
        self.database_up = self._gauge("database_up", "1 while the pool's owner can commit", "pool")
        self.bus_connected = self._gauge("bus_connected", "1 while connected to NATS")
        self.event_loop_tasks = self._gauge("event_loop_tasks", "Tasks of the process's event loop")
        self._build_info = self._gauge("build_info", "Always 1", "version", "mode")

    def set_build(self, version: str, mode: str) -> None:
        """Say which build runs."""
        self._build_info.labels(version, mode).set(1)

    def forget_pool(self, pool: str) -> None:
        """Stop reporting the state of a pool that another replica owns now; its counters stay."""
        outbox = (self.outbox_batches, self.outbox_bytes, self.outbox_oldest)
        fleet = (self.agents, self.slots, self.slots_used)
        for gauge in (self.tasks, self.oldest_queued, self.database_up, *fleet, *outbox):
            gauge.remove_by_labels({"pool": pool})
        self.owner.labels(pool).set(0)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, namespace=NAMESPACE, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, namespace=NAMESPACE, registry=self.registry)

    def _durations(self, name: str, meaning: str, buckets: Sequence[float]) -> Durations:
        durations = Durations(f"{NAMESPACE}_{name}", meaning, buckets)
        self.registry.register(durations)
        return durations

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, meaning, ("pool",), namespace=NAMESPACE, registry=self.registry, buckets=buckets)
