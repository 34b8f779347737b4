"""The Python SDK with the three task types of the conformance suite."""

from __future__ import annotations

import asyncio
from typing import Any

from callboard.agents import Agent, TaskContext, TaskFailed

agent = Agent()


@agent.task("echo")
async def echo(ctx: TaskContext) -> dict[str, Any]:
    return {"echo": ctx.payload}


@agent.task("sleep")
async def sleep(ctx: TaskContext) -> dict[str, int]:
    await ctx.progress(50, "half-way")
    await asyncio.sleep(ctx.payload["ms"] / 1000)
    return {"slept_ms": ctx.payload["ms"]}


@agent.task("fail")
async def fail(ctx: TaskContext) -> None:
    raise TaskFailed(str(ctx.payload))


if __name__ == "__main__":
    asyncio.run(agent.run())
