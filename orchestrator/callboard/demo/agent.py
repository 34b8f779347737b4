"""An agent of the demonstration, whole: `python -m callboard.demo.agent`.

Who it is and where NATS is stand in its environment (`CALLBOARD_…`, `NATS_URL`). Its capabilities decide which of the
two it is asked for. The handlers are synchronous, so that they run in threads beside the heartbeats.
"""

import asyncio
from pathlib import Path

from callboard.agents import Agent, TaskContext
from callboard.demo.jobs import Kind
from callboard.demo.work import Syntax, Text, measure_syntax, measure_text


def text(ctx: TaskContext) -> Text:
    """Lines of the file that the payload names, and how long they get."""
    return measure_text(Path(ctx.payload).read_bytes())


def syntax(ctx: TaskContext) -> Syntax:
    """Functions, classes and nesting of the file that the payload names."""
    return measure_syntax(Path(ctx.payload).read_bytes())


def main() -> None:
    """Run until told to end."""
    agent = Agent()
    agent.task(Kind.TEXT)(text)
    agent.task(Kind.SYNTAX)(syntax)
    asyncio.run(agent.run())


if __name__ == "__main__":
    main()
