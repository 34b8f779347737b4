"""The answer to the query subject: from memory and at once, also while the database is away."""

from dataclasses import dataclass
from typing import Final

from callboard.orchestrator.core.queue import WHOLE_POOL
from callboard.orchestrator.core.views import agent_counts
from callboard.orchestrator.owner import PoolOwner
from callboard.schemas.status import Health, Owner, SystemStatus
from callboard.schemas.tasks import TaskCounts
from callboard.schemas.times import to_instant, to_instant_or_none
from callboard.schemas.vocabulary import DatabaseHealth

SHOWN_TYPES: Final = 100
"""Paused types that an answer names: it has to fit into a message however many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """What `status` says of the process; `started_ms` is milliseconds since the epoch."""

    mode: str
    version: str
    started_ms: int


def system_status(owner: PoolOwner, facts: ProcessFacts) -> SystemStatus:
    """The pool's state: tasks as committed, agents as they were heard."""
    pool, lease = owner.machine.pool, owner.lease
    now_ms = owner.clock.now_ms()
    oldest_ms = pool.queue.oldest_ms()
    return SystemStatus(
        pool=lease.pool,
        mode=facts.mode,
        version=facts.version,
        started_at=to_instant(facts.started_ms),
        uptime_ms=max(now_ms - facts.started_ms, 0),
        owner=Owner(replica=lease.replica, epoch=lease.epoch, since=to_instant(lease.since_ms)),
        durability=owner.store.durability,
        health=Health(
            database=DatabaseHealth.DOWN if owner.is_database_down else DatabaseHealth.OK,
            bus="ok",
            degraded=owner.is_database_down or not owner.is_active,
            since=to_instant_or_none(owner.passive_since_ms),
        ),
        agents=agent_counts(pool),
        tasks=TaskCounts(
            by_state=owner.counts,
            oldest_queued_ms=None if oldest_ms is None else max(now_ms - oldest_ms, 0),
        ),
        performance=owner.telemetry.performance(now_ms - lease.since_ms),
        strategy=pool.settings.strategy,
        paused=WHOLE_POOL in pool.queue.paused,
        paused_types=sorted(pool.queue.paused - {WHOLE_POOL})[:SHOWN_TYPES] or None,
    )
