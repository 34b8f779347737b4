from __future__ import annotations

import re

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from callboard.orchestrator.metrics import NAMESPACE, Metrics
from callboard.orchestrator.pool_telemetry import PoolTelemetry
from callboard.orchestrator.telemetry import Telemetry
from callboard.schemas.vocabulary import AgentState, Outcome, TaskPriority, TaskState

ALLOWED_LABELS = {"pool", "state", "outcome", "priority", "endpoint", "code", "reason", "version", "mode", "le"}


def _exercise(telemetry: Telemetry) -> None:
    telemetry.submitted(TaskPriority.HIGH)
    telemetry.submit_answered(2.0)
    telemetry.dispatched(30.0)
    telemetry.offered()
    telemetry.attempt_ended(Outcome.CRASHED, None)
    telemetry.attempt_ended(Outcome.SUCCEEDED, 1500.0)
    telemetry.finished(TaskState.SUCCEEDED, 1600.0)
    telemetry.finished(TaskState.SUCCEEDED, 1600.0)
    telemetry.finished(TaskState.SUCCEEDED, 1600.0)
    telemetry.finished(TaskState.FAILED, 1700.0)
    telemetry.committed(7, 4.0)
    telemetry.commit_failed()
    telemetry.answered("tasks_submit")
    telemetry.answered("tasks_get", 404)
    telemetry.set_tasks({TaskState.QUEUED: 3}, oldest_queued_ms=2500)
    telemetry.set_agents({AgentState.ONLINE: 2}, slots=8, slots_used=5)
    telemetry.set_database(up=True)


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_each_observation_reaches_prometheus() -> None:
    metrics = Metrics()
    metrics.set_build("1.2.3", "test")
    _exercise(PoolTelemetry(metrics, "p"))
    assert _value(metrics, "callboard_tasks_submitted_total", pool="p", priority="high") == 1
    assert _value(metrics, "callboard_tasks_finished_total", pool="p", state="succeeded") == 3
    assert _value(metrics, "callboard_attempts_ended_total", pool="p", outcome="crashed") == 1
    assert _value(metrics, "callboard_offers_total", pool="p") == 1
    assert _value(metrics, "callboard_commits_total", pool="p") == 1
    assert _value(metrics, "callboard_commit_failures_total", pool="p") == 1
    assert _value(metrics, "callboard_commit_batch_size_sum", pool="p") == 7
    assert _value(metrics, "callboard_requests_total", pool="p", endpoint="tasks_submit", code="200") == 1
    assert _value(metrics, "callboard_requests_total", pool="p", endpoint="tasks_get", code="404") == 1
    assert _value(metrics, "callboard_tasks", pool="p", state="queued") == 3
    assert _value(metrics, "callboard_oldest_queued_seconds", pool="p") == 2.5
    assert _value(metrics, "callboard_agents", pool="p", state="online") == 2
    assert _value(metrics, "callboard_agent_slots", pool="p") == 8
    assert _value(metrics, "callboard_agent_slots_used", pool="p") == 5
    assert _value(metrics, "callboard_database_up", pool="p") == 1
    assert _value(metrics, "callboard_pool_owner", pool="p") == 1
    assert _value(metrics, "callboard_build_info", version="1.2.3", mode="test") == 1


@pytest.mark.parametrize(
    ("name", "seconds", "count"),
    [("submit", 0.002, 1), ("dispatch", 0.03, 1), ("run", 1.5, 1), ("end_to_end", 6.5, 4), ("commit", 0.004, 1)],
)
def test_durations_are_in_seconds(name: str, seconds: float, count: int) -> None:
    metrics = Metrics()
    _exercise(PoolTelemetry(metrics, "p"))
    assert _value(metrics, f"callboard_{name}_seconds_sum", pool="p") == pytest.approx(seconds)
    assert _value(metrics, f"callboard_{name}_seconds_count", pool="p") == count


def test_status_shows_percentiles_and_rates() -> None:
    telemetry = PoolTelemetry(Metrics(), "p")
    _exercise(telemetry)
    shown = telemetry.performance(owned_ms=120_000)
    assert shown.success_rate == 0.75
    assert shown.tasks_per_minute == 2
    assert shown.end_to_end.count == 4
    assert shown.run.p99_ms == pytest.approx(1500, rel=0.02)


def test_prometheus_counts_on_over_a_change_of_owner_and_status_begins_anew() -> None:
    metrics = Metrics()
    for _ in range(2):
        telemetry = PoolTelemetry(metrics, "p")
        _exercise(telemetry)
        assert telemetry.performance(owned_ms=120_000).end_to_end.count == 4
    assert _value(metrics, "callboard_end_to_end_seconds_count", pool="p") == 8


def test_a_duration_counts_below_every_bound_that_it_is_clearly_below() -> None:
    metrics = Metrics()
    telemetry = PoolTelemetry(metrics, "p")
    for duration_ms in (0.5, 4.0, 24.0, 26.0, 9_000.0):
        telemetry.submit_answered(duration_ms)
    buckets = {
        le: _value(metrics, "callboard_submit_seconds_bucket", pool="p", le=le)
        for le in ("0.001", "0.0025", "0.005", "0.025", "0.05", "5.0", "+Inf")
    }
    assert buckets == {"0.001": 1, "0.0025": 1, "0.005": 2, "0.025": 3, "0.05": 4, "5.0": 4, "+Inf": 5}


def test_before_the_first_task_there_is_no_rate() -> None:
    shown = PoolTelemetry(Metrics(), "p").performance(owned_ms=0)
    assert shown.success_rate is None
    assert shown.tasks_per_minute == 0


def test_monitoring_off_measures_nothing() -> None:
    telemetry = Telemetry()
    _exercise(telemetry)
    shown = telemetry.performance(owned_ms=1000)
    assert shown.run.count == 0
    assert shown.success_rate is None


def test_every_method_is_measured() -> None:
    methods = {name for name in vars(Telemetry) if not name.startswith("_")}
    assert methods <= set(vars(PoolTelemetry))


def test_a_state_that_emptied_falls_to_zero() -> None:
    metrics = Metrics()
    telemetry = PoolTelemetry(metrics, "p")
    telemetry.set_tasks({TaskState.QUEUED: 3}, oldest_queued_ms=1)
    telemetry.set_tasks({TaskState.RUNNING: 1}, oldest_queued_ms=0)
    assert _value(metrics, "callboard_tasks", pool="p", state="queued") == 0
    assert _value(metrics, "callboard_tasks", pool="p", state="running") == 1


def test_a_pool_that_passed_on_is_reported_no_more() -> None:
    metrics = Metrics()
    for pool in ("p", "other"):
        _exercise(PoolTelemetry(metrics, pool))
    metrics.forget_pool("p")
    assert _value(metrics, "callboard_pool_owner", pool="p") == 0
    assert _value(metrics, "callboard_tasks", pool="p", state="queued") is None
    assert _value(metrics, "callboard_tasks", pool="other", state="queued") == 3
    assert _value(metrics, "callboard_tasks_submitted_total", pool="p", priority="high") == 1


def test_names_and_labels_follow_the_conventions() -> None:
    metrics = Metrics()
    metrics.set_build("1.2.3", "test")
    metrics.dropped_messages.labels("reply_subject").inc()
    _exercise(PoolTelemetry(metrics, "p"))
    families = list(text_string_to_metric_families(generate_latest(metrics.registry).decode()))
    assert families
    for family in families:
        assert re.fullmatch(rf"{NAMESPACE}_[a-z][a-z_]*", family.name)
        assert family.documentation
        for sample in family.samples:
            assert set(sample.labels) <= ALLOWED_LABELS


def test_two_registries_do_not_meet() -> None:
    one, two = Metrics(), Metrics()
    PoolTelemetry(one, "p").offered()
    assert _value(two, "callboard_offers_total", pool="p") is None
