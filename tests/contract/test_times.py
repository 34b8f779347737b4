"""`delay_ms`, `not_before`, `ttl_ms`, `deadline`: exact to 100 ms on an idle machine, and never early.

The instants are the orchestrator's own, read from the task; what is measured is when the event arrives here, by this
machine's one clock. `LATE_MS` leaves room for a machine that is not idle; the median has to keep the promise.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.contract.hand_agent import online
from tests.contract.support import fail_after, unique

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from tests.contract.support import Json, Wire

pytestmark = pytest.mark.anyio

TASKS: Final = 15
EXACT_MS: Final = 100
LATE_MS: Final = 3_000


def ms_of(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp() * 1000


class Arrivals:
    """When the event of each task's state arrived, ms since the epoch."""

    def __init__(self, wire: Wire, state: str) -> None:
        self._wire, self._state = wire, state
        self._at: dict[str, float] = {}
        self._news = asyncio.Condition()

    async def start(self) -> None:
        await self._wire.nats.subscribe(f"{self._wire.root}.event.task.{self._state}.*", cb=self._take)
        await self._wire.nats.flush()

    async def _take(self, message: Msg) -> None:
        at = time.time() * 1000
        async with self._news:
            self._at[json.loads(message.data)["data"]["task_id"]] = at
            self._news.notify_all()

    async def of(self, task_ids: list[str]) -> list[float]:
        async with fail_after(lambda: f"no {self._state} event of {set(task_ids) - set(self._at)}"), self._news:
            await self._news.wait_for(lambda: set(task_ids) <= set(self._at))
        return [self._at[task_id] for task_id in task_ids]


def check(late_ms: list[float]) -> None:
    assert min(late_ms) >= 0, "never early"
    assert max(late_ms) < LATE_MS
    assert median(late_ms) < EXACT_MS


@pytest.mark.parametrize("how", ["delay_ms", "not_before"])
async def test_a_delayed_task_starts_on_time(wire: Wire, how: str) -> None:
    skill = unique("skill")
    assigned = Arrivals(wire, "assigned")
    await assigned.start()
    async with online(wire, capabilities=[skill], slots=TASKS) as agent:
        tasks: list[Json] = []
        for n in range(TASKS):
            pause_ms = 300 + 37 * n
            at = datetime.now(UTC) + timedelta(milliseconds=pause_ms)
            when: Any = pause_ms if how == "delay_ms" else at.isoformat().replace("+00:00", "Z")
            tasks.append(
                await wire.get(await wire.submit(requires={"capabilities": [skill]}, kind=None, **{how: when}))
            )
        assert {task["state"] for task in tasks} == {"deferred"}
        arrived = await assigned.of([task["task_id"] for task in tasks])
        check([at - ms_of(task["until"]) for at, task in zip(arrived, tasks, strict=True)])
        for task in tasks:
            await agent.complete(await agent.offered(task["task_id"]))


@pytest.mark.parametrize("how", ["ttl_ms", "deadline"])
async def test_a_task_that_nobody_takes_expires_on_time(wire: Wire, how: str) -> None:
    expired = Arrivals(wire, "expired")
    await expired.start()
    due: dict[str, float] = {}
    for n in range(TASKS):
        limit_ms = 300 + 37 * n
        at = datetime.now(UTC) + timedelta(milliseconds=limit_ms)
        when: Any = limit_ms if how == "ttl_ms" else at.isoformat().replace("+00:00", "Z")
        task_id = await wire.submit(kind=None, **{how: when})
        created_ms = ms_of((await wire.get(task_id))["created_at"])
        # The wire's instants are whole milliseconds, cut off.
        due[task_id] = created_ms + limit_ms if how == "ttl_ms" else int(at.timestamp() * 1000)
    arrived = await expired.of(list(due))
    check([at - due_ms for at, due_ms in zip(arrived, due.values(), strict=True)])
    for task_id in due:
        assert (await wire.get(task_id))["state"] == "expired"
