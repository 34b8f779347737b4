"""Agents and clients of whatever version `PYTHONPATH` says, at work until SIGTERM; they write a history of it.

Usage: python -m tests.upgrade.load HISTORY NATS_URL NAME

Any error that reaches a user of the SDK ends the process with a traceback. So everything here must be in all versions.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Final

from tests.chaos import history as h

from callboard.agents import Agent, TaskContext
from callboard.bus.client import Client
from callboard.schemas.vocabulary import TaskPriority, TaskState

CLIENTS: Final = 4
SLOTS: Final = 4


class Load:
    """One agent and some clients, each of which submits its next task when the one before is done."""

    def __init__(self, history: h.History, name: str) -> None:
        self._history = history
        self._name = name
        self._is_over = asyncio.Event()

    async def run(self, nats_url: str) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._is_over.set)
        agent = self._agent()
        self._history.write(h.AgentBegan(agent_id=agent.agent_id, incarnation=agent.incarnation, slots=SLOTS))
        await agent.start(nats_url)
        sys.stdout.write('"ready"\n')
        sys.stdout.flush()
        async with Client.connect(nats_url) as client, asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._submit_on(client, f"{self._name}-{number}"))
        await agent.drain()

    def _agent(self) -> Agent:
        agent = Agent(self._name, slots=SLOTS)

        async def work(ctx: TaskContext) -> list[str | int]:
            ref: h.Ref = {
                "agent_id": agent.agent_id, "incarnation": agent.incarnation,
                "task_id": ctx.task_id, "attempt": ctx.attempt,
            }  # fmt: skip
            self._history.write(h.Started(**ref))
            await asyncio.sleep(0.01)
            self._history.write(h.Finished(**ref))
            self._history.write(h.Reporting(**ref, verb="complete"))
            return [ctx.task_id, ctx.attempt, agent.agent_id, agent.incarnation]

        agent.task("work")(work)
        return agent

    async def _submit_on(self, client: Client, name: str) -> None:
        number = 0
        while not self._is_over.is_set():
            key = f"{name}-{number}"
            self._history.write(h.Submitting(key=key))
            priority = list(TaskPriority)[number % len(TaskPriority)]
            answer = await client.submit("work", number, key=key, priority=priority)
            self._history.write(h.Submitted(key=key, task_id=answer.task_id))
            task = await client.wait(answer.task_id)
            assert task.state is TaskState.SUCCEEDED, task
            self._history.write(h.Seen(task_id=task.task_id, state=task.state.value))
            number += 1


if __name__ == "__main__":
    asyncio.run(Load(h.History(Path(sys.argv[1])), sys.argv[3]).run(sys.argv[2]))
