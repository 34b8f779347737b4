"""Some agents in a process of their own, who write down what they hear, do and say.

Usage: python -m tests.chaos.agent_process HISTORY NATS_URL SLOTS NAME...

Handlers: `work` takes `ms`, reports progress half-way when that is long, and returns who did it; `fails` raises until
attempt `times` is over; `asks` wants an answer; `poison` kills the process. SIGTERM: finish, and go.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final

from tests.chaos import history as h
from tests.chaos.clients import SECOND

from callboard.agents import Agent, TaskContext
from callboard.agents import agent as agent_module
from callboard.agents.runtime import Runtime
from callboard.agents.session import effects as do
from callboard.agents.session import events as ev
from callboard.schemas.tasks import AttemptRef

CAPABILITY: Final = "chaos"
LONG_MS: Final = 200
HISTORY: Final = h.History(Path(sys.argv[1]))


class Witness(Runtime):
    """The shell of an agent's session, with a pen: events are written before they are taken in, effects before they
    are done."""

    def start(self) -> None:
        self._verbs: dict[AttemptRef, str] = {}
        self._offered: AttemptRef | None = None
        # An offer is answered while it is taken in, if at all.
        who = self._identity
        HISTORY.write(
            h.AgentBegan(
                agent_id=who.agent_id, incarnation=who.incarnation, slots=who.slots, capabilities=who.capabilities
            )
        )
        super().start()

    def _apply(self, event: ev.Event) -> None:
        match event:
            case ev.OfferArrived(offer=offer):
                ref = AttemptRef(task_id=offer.task_id, attempt=offer.attempt)
                self._offered = ref
                HISTORY.write(h.Offered(**self._of(ref), epoch=offer.epoch))
            case ev.HandlerSucceeded(ref=ref) | ev.HandlerFailed(ref=ref) | ev.HandlerStopped(ref=ref):
                HISTORY.write(h.Finished(**self._of(ref)))
            case ev.ReportRecorded(ref=ref):
                HISTORY.write(h.Recorded(**self._of(ref), verb=self._verbs[ref]))
            case ev.ReportRefused(ref=ref, error=error):
                HISTORY.write(h.Refused(**self._of(ref), verb=self._verbs[ref], code=error.code))
            case ev.CancelArrived(ref=ref):
                HISTORY.write(h.CancelHeard(**self._of(ref)))
            case _:
                pass
        super()._apply(event)

    def _perform(self, effect: do.Effect) -> None:
        match effect:
            case do.AnswerOffer(answer=answer) if self._offered is not None:
                HISTORY.write(h.OfferAnswered(**self._of(self._offered), accepted=answer.accepted))
            case do.StartHandler(ref=ref):
                HISTORY.write(h.Started(**self._of(ref)))
            case do.SendComplete(ref=ref):
                self._note(ref, "complete")
            case do.SendFail(ref=ref):
                self._note(ref, "fail")
            case _:
                pass
        super()._perform(effect)

    def _note(self, ref: AttemptRef, verb: str) -> None:
        self._verbs[ref] = verb
        HISTORY.write(h.Reporting(**self._of(ref), verb=verb))

    def _of(self, ref: AttemptRef) -> h.Ref:
        return {
            "agent_id": self._identity.agent_id, "incarnation": self._identity.incarnation,
            "task_id": ref.task_id, "attempt": ref.attempt,
        }  # fmt: skip


def make(agent_id: str, slots: int) -> Agent:
    """An agent with all handlers."""
    is_second = agent_id.endswith("-1")
    agent = Agent(agent_id, slots=slots, capabilities=[CAPABILITY, SECOND] if is_second else [CAPABILITY])

    def who(ctx: TaskContext) -> list[str | int]:
        return [ctx.task_id, ctx.attempt, agent.agent_id, agent.incarnation]

    @agent.task("work")
    async def work(ctx: TaskContext) -> list[str | int]:
        half_s = ctx.payload["ms"] / 2000
        await asyncio.sleep(half_s)
        if ctx.payload["ms"] >= LONG_MS:
            await ctx.progress(50, data=who(ctx))
        await asyncio.sleep(half_s)
        return who(ctx)

    @agent.task("fails")
    async def fails(ctx: TaskContext) -> list[str | int]:
        if ctx.attempt <= ctx.payload["times"]:
            raise RuntimeError("as asked")
        return await work(ctx)

    @agent.task("asks")
    async def asks(ctx: TaskContext) -> list[str | int]:
        answer = await ctx.ask("go on?")
        task_id, attempt, agent_id, incarnation = ctx.task_id, ctx.attempt, agent.agent_id, agent.incarnation
        ref = h.Ref(agent_id=agent_id, incarnation=incarnation, task_id=task_id, attempt=attempt)
        HISTORY.write(h.Heard(**ref, answer=answer))
        return who(ctx)

    @agent.task("poison")
    async def poison(_ctx: TaskContext) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    return agent


async def main(nats_url: str, slots: int, names: list[str]) -> None:
    """Serve until killed, or told to finish."""
    agents = [make(name, slots) for name in names]

    def finish() -> None:
        for agent in agents:
            agent.request_drain()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, finish)
    await asyncio.gather(*(agent.start(nats_url) for agent in agents))
    await asyncio.gather(*(agent.wait() for agent in agents))


if __name__ == "__main__":
    setattr(agent_module, "Runtime", Witness)  # noqa: B010 - the module imports it, and does not offer it
    asyncio.run(main(sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
