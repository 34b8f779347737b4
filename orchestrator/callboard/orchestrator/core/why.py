"""Explaining: who could take a task, and what keeps each agent from it. By the filters that decide, and no others.

An agent that stopped has left: it is not among those that are compared, however long it is remembered.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Final

from msgspec.structs import replace

from callboard.orchestrator.core.filters import mismatch
from callboard.orchestrator.core.model import Needs, Task
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.queue import WHOLE_POOL
from callboard.orchestrator.core.specs import needs_of
from callboard.schemas.tasks import TaskSpec
from callboard.schemas.times import to_instant
from callboard.schemas.vocabulary import WAITING_TASK_STATES, AgentState, TaskState
from callboard.schemas.why import AgentReason, Why

SHOWN_AGENTS: Final = 20

_REMEDIES: Final = {
    "no_slot": "a slot of one of {count} busy agents becomes free",
    "suspect": "{count} silent agents are heard again",
    "offline": "{count} agents that are offline come back",
    "draining": "{count} draining agents are resumed",
    "quarantined": "{count} quarantined agents are probed and succeed, or are resumed",
    "declined": "{count} agents that declined may be asked again",
}
"""What ends each reason that passes."""


def explain_task(pool: Pool, task: Task) -> Why:
    """A live task: waiting, or placed. Without a `position`, the database knows it."""
    if task.state not in WAITING_TASK_STATES:
        asked = task.dialogue
        remedies = None if asked is None or not asked.is_open else [f"question {asked.query} is answered"]
        return Why(state=task.state, scores=list(task.scores), unblocked_by=remedies)
    seen = explain_needs(pool, task.needs)
    if task.state is TaskState.DEFERRED:
        reason = task.reason or "not_before"
        until = "" if task.until_ms is None else f": {to_instant(task.until_ms).isoformat().replace('+00:00', 'Z')}"
        seen = _held_back(seen, reason, f"its time comes ({reason}{until})")
        return replace(seen, state=task.state)
    if pool.queue.is_paused(task.needs.type):
        paused = "the pool" if WHOLE_POOL in pool.queue.paused else f"type {task.needs.type}"
        seen = _held_back(seen, "paused", f"{paused} is resumed")
    elif task.concurrency_key is not None:
        seen = _with_key(pool, seen, task.concurrency_key, task.concurrency_limit)
    return replace(seen, state=task.state, position=pool.queue.position(task))


def explain_spec(pool: Pool, spec: TaskSpec) -> Why:
    """A task that is not submitted: a dry run."""
    seen = explain_needs(pool, needs_of(spec))
    limit = spec.limit_of_key
    return seen if limit is None else _with_key(pool, seen, spec.concurrency_key or "", limit)


def _with_key(pool: Pool, seen: Why, key: str, own_limit: int) -> Why:
    """The same, if the key has room for one more; else that it has none."""
    use = pool.queue.keys.find(key)
    held = 0 if use is None else use.held
    lowest = None if use is None else use.limits.lowest()
    limit = own_limit if lowest is None else min(own_limit, lowest)
    if held < limit:
        return seen
    remedy = f"one of the {held} attempts that hold concurrency key {key!r} ends (limit {limit})"
    return _held_back(seen, "concurrency_key", remedy)


def _held_back(seen: Why, reason: str, remedy: str) -> Why:
    """A reason of the task's own, which no agent can help."""
    return replace(seen, excluded={reason: 1}, agents=[], unblocked_by=[remedy])


def explain_needs(pool: Pool, needs: Needs) -> Why:
    """What stands between a task with `needs` and each agent, now."""
    known = [agent for agent in pool.agents.values() if agent.liveness is not AgentState.STOPPED]
    candidates = 0
    reasons: list[AgentReason] = []
    for agent in known:
        unfit = mismatch(needs, agent)
        candidates += unfit is None
        reason = unfit or agent.obstacle
        if reason is not None:
            reasons.append(AgentReason(agent_id=agent.agent_id, reason=reason))
    excluded = Counter(reason.reason for reason in reasons)
    return Why(
        candidates=candidates,
        excluded=dict(excluded),
        agents=list(islice(reasons, SHOWN_AGENTS)),
        unblocked_by=list(_remedies(needs, excluded, known=len(known), excluded_all=len(reasons))),
    )


def _remedies(needs: Needs, excluded: Counter[str], *, known: int, excluded_all: int) -> Iterable[str]:
    if excluded_all < known:
        return  # somebody has room: it is about to be placed
    for reason, count in excluded.most_common():
        if reason in _REMEDIES:
            yield _REMEDIES[reason].format(count=count)
    if not any(reason in _REMEDIES for reason in excluded):
        yield f"an agent signs in with {_wanted(needs)}"


def _wanted(needs: Needs) -> str:
    wanted = [f"role {needs.role}"] if needs.role else []
    wanted += [f"the id {needs.agent_id}"] if needs.agent_id else []
    wanted += [f"capability {capability}" for capability in sorted(needs.capabilities)]
    wanted += [f"a label {test.key} that fits" for test in sorted(needs.labels, key=lambda test: test.text)]
    return " and ".join(wanted) or f"room for type {needs.type}"
