"""What an owner does not do: nothing without trust, no renewal when it is deaf, no judgement before it can hear."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from tests.integration.test_take_over import keeping

from callboard.bus.ask import ask
from callboard.bus.client import Client
from callboard.bus.connection import Bus
from callboard.bus.embedded import EmbeddedNats
from callboard.bus.options import BusOptions
from callboard.orchestrator.clock import steady_s
from callboard.orchestrator.core.effects import SendDrain
from callboard.orchestrator.core.events import ObservationResumed, TimeAdvanced
from callboard.orchestrator.store.memory import MemoryStore
from callboard.orchestrator.store.port import NOTHING_PUBLISHED, StoreUnavailableError
from callboard.schemas.agents import AgentVerb, Register, RegisterAnswer
from callboard.schemas.base import Nothing
from callboard.schemas.errors import AgentNotFoundError, OutcomeUnknownError, UnavailableError
from callboard.schemas.limits import WAIT_MS
from callboard.schemas.subjects import Subjects
from callboard.schemas.tasks import CancelTask, SubmitAnswer, TaskChange, TaskDocument, TaskSpec, WaitTask
from callboard.schemas.vocabulary import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from callboard.bus.connection import BusMessage
    from callboard.orchestrator.core.changes import Changes
    from callboard.orchestrator.core.effects import Effect
    from callboard.orchestrator.core.events import Event
    from callboard.orchestrator.store.port import Committed, Lease, Published

pytestmark = pytest.mark.anyio

WITHIN_S = 20.0
LEASE_MS = 1_000


class Watched(MemoryStore):
    """A store that can be away, and says when something was committed, or refused because it is away."""

    def __init__(self) -> None:
        super().__init__(key_retention_ms=60_000)
        self.is_away = False
        self.refused = asyncio.Event()
        self.on_committed: Callable[[], None] = lambda: None

    async def commit(self, lease: Lease, number: int, changes: Changes, *, lease_ms: int, **more: Any) -> Committed:  # noqa: ANN401 - what else is written is none of this test
        self._require()
        committed = await super().commit(lease, number, changes, lease_ms=lease_ms, **more)
        self.on_committed()
        return committed

    async def renew(self, lease: Lease, *, lease_ms: int, **more: Any) -> Lease:  # noqa: ANN401 - what else is written is none of this test
        self._require()
        return await super().renew(lease, lease_ms=lease_ms, **more)

    def _require(self) -> None:
        if self.is_away:
            self.refused.set()
            raise StoreUnavailableError("away", handed_over=True)


async def test_what_was_committed_has_no_effect_when_trust_ended_meanwhile(nats_server: EmbeddedNats) -> None:
    store, options = Watched(), BusOptions(servers=(nats_server.url,))
    async with (
        asyncio.timeout(WITHIN_S),
        await Bus.connect(options) as bus,
        await Bus.connect(options) as side,
        keeping(bus, store) as keeper,
    ):
        await keeper.owned.wait()
        owner, client = keeper.owner, Client(side)
        heard: list[str] = []
        assert owner is not None

        def hear(message: BusMessage) -> None:
            heard.append(message.subject.split(".")[-2])

        subscription = await side.subscribe("callboard.v1.default.event.task.>", hear)
        task_id = (await client.submit("work")).task_id

        def wake_after_the_lease() -> None:
            owner._trust._steady = lambda: steady_s() + 60

        store.on_committed = wake_after_the_lease
        with pytest.raises(OutcomeUnknownError):
            await ask(side, Subjects().tasks("cancel"), CancelTask(task_id=task_id), TaskChange)
        document = await store.get("default", task_id=task_id)
        assert document is not None
        assert document.state is TaskState.CANCELLED
        await client.status()  # whatever it published has come before this answer
        assert heard == ["queued"]
        await subscription.unsubscribe()


async def test_an_effect_that_fails_behind_a_commit_ends_the_owner(nats_server: EmbeddedNats) -> None:
    """Else it would go on without what that callback had taken; its successor begins from what is committed."""
    async with (
        asyncio.timeout(WITHIN_S),
        await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus,
        keeping(bus, Watched()) as keeper,
    ):
        await keeper.owned.wait()
        owner = keeper.owner
        assert owner is not None
        owner._effects.add([SendDrain(agent_id="a")])
        owner.direct._verbs[SendDrain] = _fail
        owner._do_effects_behind()
        assert owner.lost == "an effect could not be done"


def _fail(_effect: SendDrain) -> None:
    raise LookupError("a bug")


async def test_what_was_committed_is_offered_to_nobody_when_trust_ended_meanwhile(nats_server: EmbeddedNats) -> None:
    store, options = Watched(), BusOptions(servers=(nats_server.url,))
    async with (
        asyncio.timeout(WITHIN_S),
        await Bus.connect(options) as bus,
        await Bus.connect(options) as side,
        keeping(bus, store) as keeper,
    ):
        await keeper.owned.wait()
        owner, client = keeper.owner, Client(side)
        heard: list[str] = []
        assert owner is not None
        subscription = await side.subscribe(
            "callboard.v1.default.to.a.>", lambda message: heard.append(message.subject)
        )
        await ask(side, Subjects().from_agent("a", "register"), Register(incarnation=str(uuid4())), RegisterAnswer)

        def wake_after_the_lease() -> None:
            owner._trust._steady = lambda: steady_s() + 60

        store.on_committed = wake_after_the_lease
        with pytest.raises(OutcomeUnknownError):
            await ask(side, Subjects().tasks("submit"), TaskSpec(type="work", key="k"), SubmitAnswer)
        document = await store.get("default", key="k")
        assert document is not None
        assert document.state is TaskState.ASSIGNED
        await client.status()  # whatever it sent has come before this answer
        assert heard == []
        await subscription.unsubscribe()


async def test_requests_that_write_nothing_do_not_keep_the_lease_from_being_renewed(nats_server: EmbeddedNats) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus,
        keeping(bus, Watched(), lease_ms=LEASE_MS) as keeper,
    ):
        await keeper.owned.wait()
        until_s = steady_s() + 3 * LEASE_MS / 1000
        subject = Subjects("default").agents("resume")
        while steady_s() < until_s:
            with pytest.raises(AgentNotFoundError):
                await ask(bus, subject, AgentVerb(agent_id="nobody"), Nothing)


async def test_an_owner_that_becomes_deaf_leaves_its_pool_to_another(nats_server: EmbeddedNats, tmp_path: Path) -> None:
    store = Watched()
    async with (
        EmbeddedNats(tmp_path, token=None, jetstream=False) as other_side,
        asyncio.timeout(WITHIN_S),
        await Bus.connect(BusOptions(servers=(other_side.url,))) as deaf,
        await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus,
        keeping(deaf, store, holder="deaf", lease_ms=LEASE_MS) as first,
    ):
        await first.owned.wait()
        await other_side.stop()
        async with keeping(bus, store, holder="hears", lease_ms=LEASE_MS) as second:
            await second.owned.wait()
            assert second.owner is not None
            assert second.owner.lease.epoch == 2


async def test_once_the_database_is_back_nobody_is_judged_before_observation_begins_anew(
    nats_server: EmbeddedNats,
) -> None:
    store = Watched()
    async with (
        asyncio.timeout(WITHIN_S),
        await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus,
        keeping(bus, store) as keeper,
    ):
        await keeper.owned.wait()
        owner = keeper.owner
        assert owner is not None
        handle = owner.machine.handle
        events: asyncio.Queue[type[Event]] = asyncio.Queue()

        def watched(event: Event, now_ms: int) -> list[Effect]:
            events.put_nowait(type(event))
            return handle(event, now_ms)

        owner.machine.handle = watched  # type: ignore[method-assign] # it is only watched
        store.is_away = True
        await store.refused.wait()
        store.is_away = False
        while (event := await events.get()) is not ObservationResumed:
            assert event is not TimeAdvanced


async def test_reads_that_hang_do_not_keep_a_leaving_owner_from_letting_go(nats_server: EmbeddedNats) -> None:
    class Hanging(Watched):
        hangs = False

        async def documents(self, pool: str, task_ids: list[str]) -> dict[str, TaskDocument]:
            if self.hangs:
                await asyncio.Event().wait()
            return await super().documents(pool, task_ids)

        async def release(self, lease: Lease, *, published: Published = NOTHING_PUBLISHED) -> None:
            await super().release(lease, published=published)
            released.set()

    store, options, released = Hanging(), BusOptions(servers=(nats_server.url,)), asyncio.Event()
    async with (
        asyncio.timeout(WITHIN_S),
        await Bus.connect(options) as bus,
        await Bus.connect(options) as side,
        keeping(bus, store) as keeper,
    ):
        await keeper.owned.wait()
        owner = keeper.owner
        assert owner is not None
        task_id = (await Client(side).submit("work")).task_id
        store.hangs = True
        wait = WaitTask(task_id=task_id, timeout_ms=WAIT_MS)
        subject = Subjects("default").tasks("wait")
        waiting = asyncio.create_task(ask(side, subject, wait, TaskDocument, timeout_s=WITHIN_S))
        await asyncio.sleep(0)  # now it is on its way
        await Client(side).status()
        assert owner.waiters
        owner.stop()
        await released.wait()
        with pytest.raises(UnavailableError, match="stopping"):
            await waiting
