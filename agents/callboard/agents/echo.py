"""The agent that a role without a command gets: completes any task with `{"echo": payload}`.

`python -m callboard.agents.echo`, configured by the environment alone.
"""

import asyncio
import sys

import msgspec

from callboard.agents.agent import Agent
from callboard.agents.context import TaskContext
from callboard.schemas.errors import OrchestratorError


async def echo(ctx: TaskContext) -> dict[str, msgspec.Raw]:
    """The payload, byte by byte."""
    return {"echo": msgspec.Raw(ctx.raw_payload)}


def main() -> int:
    """Run until told to end.

    Returns:
        The exit status: 1 when it could not serve, with the reason on standard error.
    """
    try:
        agent = Agent()
        agent.task("*")(echo)
        asyncio.run(agent.run())
    except OrchestratorError as error:
        sys.stderr.write(f"callboard echo agent: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
