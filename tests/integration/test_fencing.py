"""An owner that is paused between its decision and its write changes nothing: another has the pool meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.test_take_over import keeping
from tests.support.witness import Witness

from callboard.bus.ask import ask
from callboard.bus.client import Client
from callboard.bus.connection import Bus
from callboard.bus.options import BusOptions
from callboard.orchestrator.store.migrate import migrate
from callboard.orchestrator.store.postgres import PostgresStore
from callboard.schemas.errors import OutcomeUnknownError
from callboard.schemas.subjects import Subjects
from callboard.schemas.tasks import CancelTask, TaskChange
from callboard.schemas.vocabulary import TaskState

if TYPE_CHECKING:
    from callboard.bus.embedded import EmbeddedNats
    from callboard.orchestrator.core.changes import Changes
    from callboard.orchestrator.store.port import Committed, Lease

pytestmark = pytest.mark.anyio

WITHIN_S = 30.0


class Paused(PostgresStore):
    """A store whose commits wait, when they are told to, between what was decided and what is written."""

    def __init__(self, database_url: str) -> None:
        super().__init__(database_url, key_retention_ms=60_000, allow_relaxed_durability=True)
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.reached = asyncio.Event()
        self.outcome: BaseException | Committed | None = None

    async def commit(self, lease: Lease, number: int, changes: Changes, *, lease_ms: int, **more: Any) -> Committed:  # noqa: ANN401 - what else is written is none of this test
        is_held = not self.go_on.is_set()
        self.reached.set()
        await self.go_on.wait()
        try:
            committed = await super().commit(lease, number, changes, lease_ms=lease_ms, **more)
        except BaseException as error:
            self.outcome = error if is_held else self.outcome
            raise
        self.outcome = committed if is_held else self.outcome
        return committed


async def test_an_owner_paused_between_decision_and_write_changes_nothing(
    nats_server: EmbeddedNats, database_url: str
) -> None:
    await migrate(database_url)
    async with asyncio.timeout(WITHIN_S), AsyncExitStack() as stack:
        witness = await stack.enter_async_context(Witness.of(database_url))
        options = BusOptions(servers=(nats_server.url,))
        buses = [await stack.enter_async_context(await Bus.connect(options)) for _ in range(3)]
        client = Client(buses[2])
        paused = Paused(database_url)
        other = PostgresStore(database_url, key_retention_ms=60_000, allow_relaxed_durability=True)
        for store in (paused, other):
            await store.open()
            stack.push_async_callback(store.close)

        first = await stack.enter_async_context(keeping(buses[0], paused, holder="first", lease_ms=1000))
        await first.owned.wait()
        task_id = (await client.submit("work", 1)).task_id
        paused.reached.clear()
        paused.go_on.clear()
        stack.callback(paused.go_on.set)
        cancelling = asyncio.create_task(
            ask(buses[2], Subjects().tasks("cancel"), CancelTask(task_id=task_id), TaskChange, timeout_s=WITHIN_S)
        )
        await paused.reached.wait()

        second = await stack.enter_async_context(keeping(buses[1], other, holder="second"))
        await second.owned.wait()
        with pytest.raises(OutcomeUnknownError):
            await cancelling
        # The paused owner hangs in its write all the while; it must not speak for the pool any more.
        assert (await client.status()).owner.replica == "second"
        assert (await client.complete(task_id, "done")).changed
        before = await witness.tasks()
        assert paused.outcome is None

        paused.go_on.set()
        await client.submit("work", 2, key="later")
        while paused.outcome is None:
            await client.status()  # the requests themselves are the pace
        assert "FencedError" in repr(paused.outcome)
        task = await client.get(task_id)
        assert (task.state, task.result_value()) == (TaskState.SUCCEEDED, "done")
        after = await witness.tasks()
        assert [row for row in after if row in before] == before
        assert len(after) == len(before) + 1
        assert await witness.stale_writes() == []
