"""What an agent says it holds, against what it should hold.

An accepted attempt missing from two successive listings is `crashed`; what is listed and no longer wanted goes into
`cancel`, and occupies its slot until it is listed no more (protocol, section 3).
"""

from collections.abc import Iterable

from callboard.orchestrator.core import holds
from callboard.orchestrator.core.attempts import accept, current
from callboard.orchestrator.core.late import may_succeed_late
from callboard.orchestrator.core.model import Agent, Held
from callboard.orchestrator.core.moves import end_attempt
from callboard.orchestrator.core.pool import Pool
from callboard.schemas.tasks import AttemptRef
from callboard.schemas.vocabulary import ACCEPTED_TASK_STATES, Outcome, TaskState

LISTINGS_TO_CRASH = 2


def listed_by(agent: Agent, running: Iterable[AttemptRef]) -> list[Held]:
    """What a message of `agent` lists, each once, less what it has reported since it wrote that."""
    listed = dict.fromkeys((ref.task_id, ref.attempt) for ref in running)
    return [held for held in listed if held not in agent.reported]


def reconcile(pool: Pool, agent: Agent, listed: list[Held], now_ms: int) -> None:
    """Take in a new listing of `agent`."""
    for held in listed:
        task = current(pool, agent.agent_id, held)
        if task is not None and task.state is TaskState.ASSIGNED:
            accept(pool, task, now_ms)
        if task is not None:
            task.missed_listings = 0
        agent.holds[held] = True
    known = set(listed)
    for held in [held for held in agent.holds if held not in known]:
        task = current(pool, agent.agent_id, held)
        if task is None:
            holds.give_back(pool, agent, held)
        elif task.state in ACCEPTED_TASK_STATES:
            task.missed_listings += 1
            if task.missed_listings >= LISTINGS_TO_CRASH:
                end_attempt(pool, task, Outcome.CRASHED, now_ms, reason="unlisted")
                holds.give_back(pool, agent, held)
    pool.queue.update_room(agent)


def unwanted(pool: Pool, agent: Agent, listed: Iterable[Held]) -> list[AttemptRef]:
    """What of a listing the agent should stop: attempts that are over, durably so, and of no more use."""
    return [
        AttemptRef(task_id=held[0], attempt=held[1])
        for held in listed
        if current(pool, agent.agent_id, held) is None
        and _is_settled(pool, held[0])
        and not _is_hoped_for(pool, agent, held)
    ]


def _is_hoped_for(pool: Pool, agent: Agent, held: Held) -> bool:
    """Whether the result of this given-up attempt is waited for: it would be taken, and no limit says that it is late.

    What has limits is stopped: nothing watches an attempt that is over, and one that hangs would keep its slot. So is
    what waits for an answer: nobody can give it any more.
    """
    task = pool.tasks.get(held[0])
    if task is None or task.run_timeout_ms is not None or task.progress_timeout_ms is not None:
        return False
    if task.last_end is not None and task.last_end.awaits_answer:
        return False
    return may_succeed_late(pool, agent, task, held[1])


def _is_settled(pool: Pool, task_id: str) -> bool:
    task = pool.tasks.get(task_id)
    return task is None or pool.is_committed(task.changed_in)
