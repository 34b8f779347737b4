"""What occupies an agent's slots, and the concurrency keys with them: the only place that gives either back.

Rules:
- An attempt takes a slot, and its task's key, when it is assigned. Both are free again when the agent declines, has its
  report answered, leaves, or no longer lists the attempt (protocol, section 3). What was reported is listed in vain.
- An attempt that is over and not yet given back is written down with its key, so that a new owner counts it too.
- When an agent's lease is over, its keys are free though it may still run: else a dead agent would keep them.
"""

from collections.abc import Iterable

from callboard.orchestrator.core.changes import KeyHold
from callboard.orchestrator.core.model import Agent, Held, Task
from callboard.orchestrator.core.pool import Pool


def take(pool: Pool, agent: Agent, task: Task, *, accepted: bool) -> None:
    """The current attempt of `task` occupies a slot of `agent`."""
    agent.holds[task.held] = accepted
    # A report that was ahead of a database that forgot: the number is given out again.
    agent.reported.pop(task.held, None)
    if task.concurrency_key is not None:
        pool.keyed[agent.agent_id, *task.held] = task.concurrency_key
        pool.queue.hold_key(task.concurrency_key)
    pool.queue.update_room(agent)


def restore_lingering(pool: Pool, agent: Agent, hold: KeyHold) -> None:
    """An attempt that was over when its owner ended: it counts until the agent lists it no more."""
    agent.holds[hold.task_id, hold.attempt] = True
    pool.keyed[hold[:3]] = hold.key
    pool.written_holds[hold[:3]] = hold
    pool.queue.hold_key(hold.key)
    pool.queue.update_room(agent)


def give_back(pool: Pool, agent: Agent | None, held: Held) -> None:
    """Free the slot that `held` occupies, if it does."""
    if agent is not None and agent.holds.pop(held, None) is not None:
        _release_key(pool, agent, held)
        pool.queue.update_room(agent)


def give_back_reported(pool: Pool, agent: Agent | None, held: Held) -> None:
    """Free the slot of an attempt whose agent has reported how it ended, for good.

    A heartbeat that was on its way lists it still: the agent does, until it has the answer. Who took that at its word
    would keep an idle agent for a busy one until the heartbeat after.
    """
    if agent is None:
        return
    agent.reported[held] = None
    # What is listed and reported is no more than the agent could run, and among the last of what it reported.
    while len(agent.reported) > 2 * agent.slots:
        agent.reported.popitem(last=False)
    give_back(pool, agent, held)


def keep_only(pool: Pool, agent: Agent, listed: Iterable[Held]) -> None:
    """Exactly `listed`, all of it accepted, occupies the agent's slots."""
    kept = dict.fromkeys(listed, True)
    before, agent.holds = agent.holds, kept
    for held in before:
        if held not in kept:
            _release_key(pool, agent, held)
    pool.queue.update_room(agent)


def release_keys(pool: Pool, agent: Agent) -> None:
    """What the agent holds counts for no key any more."""
    for held in agent.holds:
        _release_key(pool, agent, held)


def _release_key(pool: Pool, agent: Agent, held: Held) -> None:
    place = (agent.agent_id, *held)
    key = pool.keyed.pop(place, None)
    if key is None:
        return
    pool.queue.release_key(key)
    written = pool.written_holds.pop(place, None)
    if written is not None:
        pool.dropped_holds.append(written)
        pool.is_urgent = True


def lingering(pool: Pool) -> tuple[KeyHold, ...]:
    """The attempts that ended in this batch and still count for their keys: to be written with it."""
    found: list[KeyHold] = []
    for place in pool.ended_keyed:
        key = pool.keyed.get(place)
        if key is not None and place not in pool.written_holds:
            hold = KeyHold(*place, key)
            pool.written_holds[place] = hold
            found.append(hold)
    pool.ended_keyed.clear()
    return tuple(found)
