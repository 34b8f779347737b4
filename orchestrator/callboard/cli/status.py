"""The command that shows the pool's status."""

from collections.abc import Mapping

from callboard.cli.connection import HERE, Connection, connected, run
from callboard.cli.output import ago, duration, print_fields, print_json, print_line, print_table
from callboard.schemas.status import Latency, SystemStatus
from callboard.schemas.vocabulary import AgentState, TaskState


def status(*, json: bool = False, to: Connection = HERE) -> None:
    """Show the pool: its owner, health, agents, tasks and speed.

    Args:
        json: Print the status as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        async with connected(to) as client:
            answer = await client.status(timeout_s=to.timeout_s)
        print_json(answer) if json else _show(answer)

    run(ask())


def _show(status: SystemStatus) -> None:
    health, agents, tasks, performance = status.health, status.agents, status.tasks, status.performance
    degraded = f" (degraded since {ago(health.since)})" if health.degraded else ""
    oldest = f", the oldest queued for {duration(tasks.oldest_queued_ms)}" if tasks.oldest_queued_ms else ""
    paused = [*(["the pool"] if status.paused else []), *(f"type {each}" for each in status.paused_types or ())]
    live = {state: count for state, count in tasks.by_state.items() if not state.is_final}
    ended = {state: count for state, count in tasks.by_state.items() if state.is_final}
    rate = "no task has ended yet" if performance.success_rate is None else f"{performance.success_rate:.1%} succeeded"
    print_fields(
        (
            ("pool", status.pool),
            ("paused", paused or None),
            ("orchestrator", f"{status.version}, {status.mode}, up {duration(status.uptime_ms)}"),
            ("owner", f"{status.owner.replica}, epoch {status.owner.epoch}, since {ago(status.owner.since)}"),
            ("health", f"database {health.database}, bus {health.bus}{degraded}"),
            ("durability", status.durability),
            ("strategy", status.strategy),
            (
                "agents",
                f"{agents.total} ({_counts(agents.by_state)}); {agents.slots_used} of {agents.slots} slots used",
            ),
            ("live tasks", f"{_counts(live)}{oldest}"),
            ("ended tasks", f"{_counts(ended)}, since {status.owner.replica} owns the pool"),
            ("throughput", f"{performance.tasks_per_minute:.0f} tasks per minute; {rate}"),
        )
    )
    print_line("")
    spans = ("submit", "dispatch", "run", "end_to_end", "commit")
    print_table(
        ("DURATION", "COUNT", "P50", "P95", "P99"),
        ((name.replace("_", " "), *_latency(getattr(performance, name))) for name in spans),
    )


def _counts(by_state: Mapping[TaskState, int] | Mapping[AgentState, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in by_state.items() if count) or "none"


def _latency(latency: Latency) -> tuple[object, ...]:
    points = (latency.p50_ms, latency.p95_ms, latency.p99_ms)
    return (latency.count, *(None if point is None else f"{point:.1f}ms" for point in points))
