"""Late success: which attempt, though it was given up, may still bring its task's result.

Where the pool wants it (`late_results = "adopt"`): the latest attempt, from its own agent and incarnation, while the
task waits for another one. It was given up by the orchestrator alone; what its agent ended stays ended.
"""

from typing import Final

from callboard.orchestrator.core.model import Agent, Task
from callboard.orchestrator.core.pool import Pool
from callboard.schemas.vocabulary import WAITING_TASK_STATES, Outcome

GIVEN_UP: Final = frozenset({Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.UNDELIVERED, Outcome.RELEASED})
"""The ends of an attempt that its agent had no part in."""


def may_succeed_late(pool: Pool, agent: Agent, task: Task, attempt: int) -> bool:
    """Whether the result of this ended attempt of `agent` would be taken."""
    end = task.last_end
    return (
        pool.settings.adopt_late_results
        and task.state in WAITING_TASK_STATES
        and end is not None
        and end.attempt == attempt == task.attempt
        and (end.agent_id, end.incarnation) == (agent.agent_id, agent.incarnation)
        and end.outcome in GIVEN_UP
    )
