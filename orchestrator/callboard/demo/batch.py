"""All tasks, from submit to final state, and the SIGKILL in their midst.

Everything is submitted at once: the order of work, and who does it, is the orchestrator's business.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from callboard.bus.client import Client
from callboard.demo.check import has_lost_attempt
from callboard.demo.fleet import VICTIM, DemoError, Fleet
from callboard.demo.jobs import LARGE, Job
from callboard.demo.live import Live
from callboard.demo.report import history
from callboard.schemas.tasks import TaskDocument
from callboard.schemas.vocabulary import AgentState, TaskState

SIGN_IN_S: Final = 20.0
RUNNING_AT_DEATH: Final = 2
"""How many tasks the victim must be running."""
_LOOK_S: Final = 0.05
"""Between two looks at what has no event."""


class Batch:
    """The tasks of one demonstration.

    Attributes:
        finished: The final document of each job's task.
    """

    def __init__(self, jobs: Sequence[Job], client: Client, fleet: Fleet, live: Live) -> None:
        self.finished: dict[Job, TaskDocument] = {}
        self._jobs = jobs
        self._client = client
        self._fleet = fleet
        self._live = live
        self._large = self._large_left = sum(job.capability == LARGE for job in jobs)
        self._half_done = asyncio.Event()

    async def run(self) -> None:
        """Submit all, wait for all, and kill the victim when half of the large modules are parsed.

        Raises:
            OrchestratorError: A request was refused, or nobody answered for half a minute (in an `ExceptionGroup`).
        """
        async with asyncio.TaskGroup() as group:
            killing = group.create_task(self._kill_half_way())
            async with asyncio.TaskGroup() as tasks:
                for job in self._jobs:
                    tasks.create_task(self._finish(job))
            killing.cancel()

    async def _finish(self, job: Job) -> None:
        answer = await self._client.submit(job.kind, job.payload, priority=job.priority, capabilities=[job.capability])
        task = await self._client.wait(answer.task_id)
        self.finished[job] = task
        self._live.advance(job.kind)
        if has_lost_attempt(task):
            self._live.say(f"{job}: {history(task)}")
        if job.capability == LARGE:
            self._large_left -= 1
            if self._large_left <= self._large // 2:
                self._half_done.set()

    async def _kill_half_way(self) -> None:
        await self._half_done.wait()
        running: list[TaskDocument] = []
        # Asked again at once: the sooner the kill follows the answer, the truer it is.
        while len(running) < RUNNING_AT_DEATH:
            running = (await self._client.list(agent_id=VICTIM, state=TaskState.RUNNING)).tasks
        pid = self._fleet.kill(VICTIM)
        self._live.say(f"half of the large modules are parsed: SIGKILL to {VICTIM} (process {pid})")
        self._live.say(f"{len(running)} tasks ran on it; others get them when its lease is over")


async def until_online(client: Client, agent_ids: Iterable[str]) -> None:
    """Return once all of them have signed in.

    Raises:
        DemoError: One has not, in `SIGN_IN_S`.
    """
    missing = set(agent_ids)
    try:
        async with asyncio.timeout(SIGN_IN_S):
            while missing:
                online = await client.agents(state=AgentState.ONLINE)
                missing -= {agent.agent_id for agent in online.agents}
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        names = ", ".join(sorted(missing))
        raise DemoError(f"not signed in after {SIGN_IN_S:g} s: {names}") from None
