"""Publishing: what was committed arrives at least once and in order, whatever fails, and is forgotten only then."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.support.store_rows import POOL, Owner, own

from callboard.orchestrator.announcements import changes_in, told_by
from callboard.orchestrator.core.changes import Changes
from callboard.orchestrator.core.effects import Announcement, Batch, PublishAgent, PublishTask
from callboard.orchestrator.outgoing import Outgoing
from callboard.orchestrator.publisher import Publisher
from callboard.orchestrator.store.memory import MemoryStore
from callboard.orchestrator.store.port import NOTHING_PUBLISHED, NOWHERE, Place, Published
from callboard.orchestrator.telemetry import Telemetry
from callboard.schemas.agents import AgentEvent
from callboard.schemas.errors import UnavailableError
from callboard.schemas.events import AgentChanged, Change, Envelopes, TaskChanged
from callboard.schemas.subjects import Subjects
from callboard.schemas.tasks import TaskEvent
from callboard.schemas.times import to_instant
from callboard.schemas.vocabulary import AgentState, TaskPriority, TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from callboard.schemas.base import Message
    from callboard.schemas.events import EventMessage

pytestmark = pytest.mark.anyio

WITHIN_S = 10.0
AT = to_instant(1_700_000_000_123)
TASK_ID = "01993b5e-7c1a-7bd2-8f0e-3a1f5c2d9e10"

ONLINE = AgentEvent(agent_id="a", pool=POOL, state=AgentState.ONLINE, revision="1-2-3", at=AT)


def task_said(version: int, **fields: Any) -> PublishTask:  # noqa: ANN401 - fields of any type
    event = TaskEvent(
        task_id=TASK_ID, pool=POOL, type="t", state=TaskState.QUEUED, version=version, attempt=0, at=AT, **fields
    )
    return PublishTask(event, TASK_ID, TaskPriority.NORMAL)


def batch(number: int, *said: Announcement) -> Batch:
    return Batch(number=number, changes=Changes(), announcements=said, effects=(), counts={})


class Recorder:
    """Carries events to a list; or fails, before or after they have arrived."""

    def __init__(self) -> None:
        self.heard: list[EventMessage] = []
        self.fails = 0
        self.is_deaf = False
        self.calls = 0
        self.changed = asyncio.Event()

    async def publish(self, messages: Sequence[EventMessage]) -> None:
        self.calls += 1
        if not self.is_deaf:
            self.heard += messages
        self.changed.set()
        if self.fails:
            self.fails -= 1
            raise UnavailableError("NATS is away")

    async def until(self, *ids: str) -> None:
        async with asyncio.timeout(WITHIN_S):
            while [message.id for message in self.heard] != list(ids):
                self.changed.clear()
                await self.changed.wait()

    async def until_called(self, times: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while self.calls < times:
                self.changed.clear()
                await self.changed.wait()


class Rig:
    """A pool's owner that commits what it is told, and a publisher."""

    def __init__(self, store: MemoryStore, owner: Owner) -> None:
        self.owner = owner
        self.carrier = Recorder()
        self.is_trusted = True
        self.idle = asyncio.Event()
        self.publisher = Publisher(
            self.carrier,
            store,
            owner.lease,
            Subjects(POOL),
            telemetry=Telemetry(),
            now_ms=lambda: owner.lease.now_ms,
            may_publish=lambda: self.is_trusted,
            on_idle=self.idle.set,
        )

    async def commit(self, *versions: int, is_taken: bool = True) -> None:
        told, events = told_by(batch(self.owner.number + 1, *map(task_said, versions)))
        published = self.publisher.to_forget
        # The store knows of no task here: what is written is what is told.
        lines = b"\n".join(events.tasks.values()) or None
        await self.owner.commit(events=type(events)(agents=lines), published=published)
        self.publisher.forgot(published)
        if is_taken:
            self.publisher.take(self.owner.number, told)

    async def kept(self) -> list[int]:
        rows = await self.owner.store.outbox(POOL, NOWHERE, limit=99)
        return [json.loads(change.data)["version"] for row in rows for change in changes_in(row.lines)]

    async def until_idle(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not self.publisher.is_done:
                self.idle.clear()
                await self.idle.wait()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.publisher.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def rig(store: MemoryStore | None = None) -> Rig:
    store = store or MemoryStore(key_retention_ms=1_000)
    return Rig(store, await own(store))


def ids(*versions: int) -> list[str]:
    return [f"{TASK_ID}-{version}" for version in versions]


async def test_what_was_committed_is_published_and_forgotten_once_it_has_arrived() -> None:
    it = await rig()
    async with it.running():
        await it.commit(1, 2)
        await it.carrier.until(*ids(1, 2))
        await it.until_idle()
        assert await it.kept() == [1, 2]
        assert it.publisher.to_forget == Published(NOWHERE, Place(1, 1))
        await it.commit(3)
        assert await it.kept() == [3]
        await it.carrier.until(*ids(1, 2, 3))


async def test_what_has_not_arrived_is_not_forgotten() -> None:
    it = await rig()
    it.carrier.is_deaf, it.carrier.fails = True, 1_000_000
    async with it.running():
        await it.commit(1)
        await it.carrier.until_called(2)
        await it.commit(2)
        assert await it.kept() == [1, 2]
        assert it.publisher.is_done, "what cannot be published keeps nobody from stopping"
        it.carrier.is_deaf, it.carrier.fails = False, 0
        await it.carrier.until(*ids(1, 2))


async def test_what_may_have_arrived_is_published_again() -> None:
    it = await rig()
    async with it.running():
        await it.until_idle()
        it.carrier.fails = 1
        await it.commit(1)
        await it.carrier.until(*ids(1, 1))
        await it.commit(2)
        await it.carrier.until(*ids(1, 1, 2))


async def test_what_a_former_owner_left_comes_first() -> None:
    former = await rig()
    for version in range(1, 40):
        await former.commit(version, is_taken=False)
    store = former.owner.store
    assert isinstance(store, MemoryStore)
    it = await rig(store)
    await it.commit(40)
    async with it.running():
        await it.carrier.until(*ids(*range(1, 41)))
        await it.until_idle()
        await it.commit(41)
        assert await it.kept() == [41]


async def test_nothing_is_published_without_trust() -> None:
    it = await rig()
    it.is_trusted = False
    async with it.running():
        await it.commit(1)
        async with asyncio.timeout(WITHIN_S):
            await it.idle.wait()
        assert it.publisher.is_done
        assert it.carrier.heard == []
        it.is_trusted = True
        await it.carrier.until(*ids(1))


def test_memory_holds_little_however_long_it_takes() -> None:
    outgoing = Outgoing(3, held_bytes=1_000)
    outgoing.arrived(Place(3, 0))
    for number in range(1, 100):
        outgoing.take(number, [Change("id", "task.queued", "x", b"x" * 400)])
        assert sum(told.size for told in outgoing.group()) <= 1_000
    assert outgoing.must_read
    assert outgoing.to_forget == Published(NOWHERE, Place(3, 0))
    outgoing.arrived(Place(3, 99))
    assert outgoing.is_empty
    outgoing.forgot(outgoing.to_forget)
    assert outgoing.to_forget == NOTHING_PUBLISHED


@pytest.mark.parametrize(
    ("said", "form"),
    [
        (task_said(7, reason='"at":"quoted"\n', agent_id="a"), TaskChanged),
        (
            PublishAgent(AgentEvent(agent_id="a", pool=POOL, state=AgentState.ONLINE, revision="1-2-3", at=AT)),
            AgentChanged,
        ),
    ],
)
def test_an_event_is_the_same_from_memory_and_from_the_table(said: Announcement, form: type[Message]) -> None:
    [change], events = told_by(batch(1, said))
    lines = events.agents or events.tasks[TASK_ID]
    assert changes_in(lines) == [change]
    message = Envelopes(Subjects("crew", "cb")).wrap(change)
    event: Any = json.loads(message.body)
    kind, about = message.subject.removeprefix("cb.v1.crew.event.").rsplit(".", 1)
    assert event == {
        "specversion": "1.0",
        "id": message.id,
        "source": "/cb/crew",
        "type": f"callboard.{kind}",
        "subject": about,
        "time": "2023-11-14T22:13:20.123000Z",
        "datacontenttype": "application/json",
        "data": json.loads(change.data),
    }
    assert isinstance(msgspec.json.decode(message.body, type=form), form)


def test_a_batch_that_tells_of_nothing_that_was_written_is_forgotten_with_the_next() -> None:
    outgoing = Outgoing(3)
    outgoing.arrived(outgoing.last)
    outgoing.take(1, [])
    assert outgoing.to_forget == Published(NOWHERE, Place(3, 1))
    outgoing.forgot(outgoing.to_forget)
    assert outgoing.is_empty


def test_such_a_batch_is_not_forgotten_before_what_came_before_it() -> None:
    outgoing = Outgoing(3)
    outgoing.arrived(outgoing.last)
    outgoing.forgot(outgoing.to_forget)
    outgoing.take(1, [Change.read(b'{"task_id":"t","version":1,"pool":"p","state":"queued"}')])
    outgoing.take(2, [])
    assert outgoing.to_forget == NOTHING_PUBLISHED
    outgoing.arrived(Place(3, 1))
    assert outgoing.to_forget == Published(Place(3, 0), Place(3, 1))
