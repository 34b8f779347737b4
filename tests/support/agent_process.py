"""An agent in a process of its own; its handlers end when the test writes to the named pipe of their payload.

Usage: agent_process.py, or agent_process.py exec COMMAND...
"""

import asyncio
import sys
from pathlib import Path

from callboard.agents import Agent, ExecAgent, TaskContext


def read(path: str) -> str:
    return Path(path).read_text()


async def from_thread(ctx: TaskContext) -> str:
    return await asyncio.to_thread(read, ctx.payload)


async def blocking(ctx: TaskContext) -> str:
    return read(ctx.payload)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["exec"]:
        asyncio.run(ExecAgent(arguments[1:]).run())
        return
    agent = Agent()
    agent.task("patient")(from_thread)
    agent.task("blocking")(blocking)
    asyncio.run(agent.run())


if __name__ == "__main__":
    main(sys.argv[1:])
