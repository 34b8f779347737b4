"""Whether it all went well: every task succeeded, and every result is what a plain sequential run gives.

The tables are made of these results and of the tasks' own records alone: what is checked here is what they show.
"""

from collections.abc import Iterable, Mapping

import anyio.to_thread

from callboard.demo.jobs import Job
from callboard.demo.work import Measured
from callboard.schemas.status import SystemStatus
from callboard.schemas.tasks import TaskDocument
from callboard.schemas.vocabulary import Outcome, TaskState

Finished = Mapping[Job, TaskDocument]
Expected = Mapping[Job, Measured]


async def measure_sequentially(jobs: Iterable[Job]) -> dict[Job, Measured]:
    """The results as one plain loop gives them: no bus, no agents; in a thread, so that it can be interrupted."""
    return {job: await anyio.to_thread.run_sync(job.measure) for job in jobs}


def find_faults(finished: Finished, expected: Expected) -> list[str]:
    """One line for each task that is not as it must be; none when all is well."""
    return [f"{job}: {fault}" for job, value in expected.items() if (fault := _fault_of(finished.get(job), value))]


def find_miscounts(finished: Finished, killed: str, status: SystemStatus) -> list[str]:
    """One line for each count that does not add up: successes, and what the killed agent lost."""
    attempts = [attempt for task in finished.values() for attempt in task.attempts or ()]
    recorded = sum(attempt.outcome is Outcome.SUCCEEDED for attempt in attempts)
    counted = status.tasks.by_state.get(TaskState.SUCCEEDED, 0)
    lost_by = {attempt.agent_id for attempt in attempts if attempt.outcome is Outcome.CRASHED}
    faults: list[str] = []
    if not len(finished) == recorded == counted:
        faults.append(f"{len(finished)} tasks, but {recorded} attempts that succeeded, and {counted} by the status")
    if killed not in lost_by:
        faults.append(f"{killed} was not killed amid its work: take more modules")
    return faults


def has_lost_attempt(task: TaskDocument) -> bool:
    """Whether an agent died with this task."""
    return any(attempt.outcome is Outcome.CRASHED for attempt in task.attempts or ())


def _fault_of(task: TaskDocument | None, expected: Measured) -> str | None:
    if task is None:
        return "there is no such task"
    if task.state is not TaskState.SUCCEEDED:
        return f"{task.state}: {task.error.message if task.error else task.reason}"
    if task.result_value() != expected:
        return f"{task.agent_id} gave {task.result_value()}, a sequential run gives {expected}"
    return None
