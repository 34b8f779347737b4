"""Sick agents: one that fails or crashes again and again is quarantined, and probed after a back-off.

Failures, time-outs and crashes in a row count; a failure that its agent calls final (`retryable: false`) is the task's
own, and declines, misses and releases say nothing. A quarantined agent gets nothing new. When its back-off (doubling)
is over it is *probed*: one task at a time, until one succeeds, which ends the quarantine, or fails, which begins the
next. A new incarnation is probed at once. `resume` ends it, whatever.
"""

from typing import Final

from callboard.orchestrator.core.model import Agent
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.presence import announce
from callboard.orchestrator.core.timers import Clock
from callboard.schemas.tasks import TaskError
from callboard.schemas.vocabulary import Outcome

_SIGNS: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED})


def note(pool: Pool, agent_id: str, outcome: Outcome, error: TaskError | None, now_ms: int) -> None:
    """Learn from an ended attempt of an agent."""
    agent = pool.agents.get(agent_id)
    if agent is None:
        return
    if outcome is Outcome.SUCCEEDED:
        recover(pool, agent, now_ms)
    elif outcome in _SIGNS and not (error is not None and error.retryable is False):
        agent.failures_in_row += 1
        limit = pool.settings.quarantine_failures
        if agent.is_probed or (limit and agent.failures_in_row >= limit and not agent.quarantines):
            _quarantine(pool, agent, now_ms)


def _quarantine(pool: Pool, agent: Agent, now_ms: int) -> None:
    agent.quarantines += 1
    agent.is_probed = False
    pause_ms = min(
        pool.settings.probe_after_ms * 2 ** min(agent.quarantines - 1, 16), pool.settings.probe_after_most_ms
    )
    pool.timers.set(Clock.PROBE, agent.agent_id, now_ms + pause_ms)
    _changed(pool, agent, now_ms, f"{agent.failures_in_row} failures in a row")


def recover(pool: Pool, agent: Agent, now_ms: int) -> bool:
    """The agent is well; whether it was quarantined until now."""
    agent.failures_in_row = 0
    if not agent.quarantines:
        return False
    agent.quarantines = 0
    agent.is_probed = False
    pool.timers.clear(Clock.PROBE, agent.agent_id)
    _changed(pool, agent, now_ms, "recovered")
    return True


def probe(pool: Pool, agent: Agent) -> None:
    """Let a quarantined agent have one task."""
    if agent.quarantines:
        agent.is_probed = True
        pool.timers.clear(Clock.PROBE, agent.agent_id)
        pool.queue.update_room(agent)


def _changed(pool: Pool, agent: Agent, now_ms: int, reason: str) -> None:
    pool.queue.update_room(agent)
    pool.touch_agent(agent)
    announce(pool, agent, now_ms, reason=reason)
