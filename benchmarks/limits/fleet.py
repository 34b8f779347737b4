"""Many agents in one process, in plain messages over nats-py: they register, send heartbeats, and complete at once.

Rules:
- Each agent keeps the interval that the orchestrator gave it; the fleet's heartbeats are spread evenly over it.
- A task is accepted and completed in the same turn, but for tasks of the type `hold`, which never end.
- A heartbeat lists what is accepted and not yet recorded (protocol, section 3).

`python -m benchmarks.limits.fleet` takes orders as the drivers do (`compare.drivers.seat`).
"""

import asyncio
import json
import os
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import nats
import uvloop
from benchmarks.bed import REPOSITORY
from benchmarks.compare.drivers.seat import RESULT, answer
from benchmarks.seats import Seat, seated
from nats.aio.msg import Msg

from callboard.schemas.subjects import Subjects

HOLD: Final = "hold"
TURN_S: Final = 0.05
AT_ONCE: Final = 64
WITHIN_S: Final = 30.0
AT: Final = Subjects("default")


class Fleet:
    """The agents of this process."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._incarnation = str(uuid.uuid4())
        self._running: dict[str, dict[str, int]] = defaultdict(dict)
        self._ids: list[str] = []
        self._interval_s = 1.0
        self._seq = 0
        self._beating: asyncio.Task[None] | None = None
        self.completed = self.sent = self.answered = 0

    async def open(self) -> None:
        """Connect, and listen for all agents by two subscriptions."""
        self._bus = await nats.connect(self._url)
        self._inbox = self._bus.new_inbox()
        await self._bus.subscribe(AT.to_agent("*", "assign"), cb=self._assigned)
        await self._bus.subscribe(f"{self._inbox}.>", cb=self._heard)

    async def register(self, count: int, slots: int, capabilities: list[str], at_once: int = AT_ONCE) -> dict[str, Any]:
        """Sign `count` more agents in; the time of each in milliseconds."""
        numbers = iter(range(len(self._ids), len(self._ids) + count))
        times: list[float] = []
        body = {"incarnation": self._incarnation, "slots": slots, "capabilities": capabilities}

        async def some() -> None:
            for number in numbers:
                agent_id = f"fleet-{number}"
                began = time.perf_counter()
                reply = await self._bus.request(
                    AT.from_agent(agent_id, "register"), json.dumps(body).encode(), timeout=WITHIN_S
                )
                times.append(1e3 * (time.perf_counter() - began))
                self._interval_s = json.loads(reply.data)["heartbeat_interval_ms"] / 1000
                self._ids.append(agent_id)

        await asyncio.gather(*(some() for _ in range(at_once)))
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())
        return {"ms": times, "interval_ms": round(1000 * self._interval_s)}

    async def tally(self) -> dict[str, Any]:
        """Counts since the start."""
        return {
            "completed": self.completed,
            "sent": self.sent,
            "answered": self.answered,
            "interval_ms": round(1000 * self._interval_s),
        }

    async def _beat(self) -> None:
        """A few heartbeats every turn, so that each agent has its own once an interval."""
        at = 0
        owed = 0.0
        while True:
            await asyncio.sleep(TURN_S)
            owed += len(self._ids) * TURN_S / self._interval_s
            while owed >= 1:
                owed -= 1
                agent_id = self._ids[at % len(self._ids)]
                at += 1
                self._seq += 1
                running = [{"task_id": task, "attempt": attempt} for task, attempt in self._running[agent_id].items()]
                body = {"incarnation": self._incarnation, "seq": self._seq, "running": running}
                subject = AT.from_agent(agent_id, "heartbeat")
                await self._bus.publish(subject, json.dumps(body).encode(), reply=f"{self._inbox}.beat")
                self.sent += 1

    async def _assigned(self, message: Msg) -> None:
        offer = json.loads(message.data)
        agent_id = message.subject.split(".")[-2]
        self._running[agent_id][offer["task_id"]] = offer["attempt"]
        await message.respond(b'{"accepted":true}')
        if offer["type"] == HOLD:
            return
        body = {
            "task_id": offer["task_id"],
            "attempt": offer["attempt"],
            "incarnation": self._incarnation,
            "result": RESULT,
        }
        subject = AT.from_agent(agent_id, "complete")
        await self._bus.publish(
            subject, json.dumps(body).encode(), reply=f"{self._inbox}.done.{agent_id}.{offer['task_id']}"
        )

    async def _heard(self, message: Msg) -> None:
        what = message.subject.removeprefix(f"{self._inbox}.").split(".")
        body = json.loads(message.data)
        if what[0] == "beat":
            self.answered += 1
            self._interval_s = body.get("heartbeat_interval_ms", 1000 * self._interval_s) / 1000
        elif body.get("recorded"):
            self.completed += 1
            self._running[what[1]].pop(what[2], None)


@asynccontextmanager
async def fleet(directory: Path, environment: Mapping[str, str]) -> AsyncIterator[Seat]:
    """A process with a fleet, of no agents yet. Its orders: `register`, `tally`."""
    env = {**environment, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "benchmarks.limits.fleet"]
    async with seated(command, env=env, cwd=directory, log=directory / "fleet.log") as seat:
        yield seat


async def main() -> None:
    """Take orders."""
    agents = Fleet(os.environ["NATS_URL"])
    await agents.open()
    await answer({"register": agents.register, "tally": agents.tally})


if __name__ == "__main__":
    uvloop.run(main())
