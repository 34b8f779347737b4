"""What every store must do. Subclasses give the fixture `store`; the names of the tests are the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from tests.support.store_outbox import OutboxBattery
from tests.support.store_rows import (
    POOL,
    RETENTION_MS,
    T0,
    Draft,
    S,
    agent_row,
    as_json,
    draft,
    ended_attempt,
    own,
)
from tests.support.store_waiting import WaitingBattery

from callboard.orchestrator.core.events import Looked
from callboard.orchestrator.store.port import Committed, FencedError
from callboard.schemas.errors import InvalidRequestError
from callboard.schemas.tasks import ListTasks, TaskError
from callboard.schemas.times import to_instant
from callboard.schemas.vocabulary import AgentState, Outcome, TaskState

if TYPE_CHECKING:
    from callboard.orchestrator.core.changes import TaskChange
    from callboard.orchestrator.store.port import Store

LATER = T0 + RETENTION_MS


def outcome(committed: Committed) -> tuple[set[str], set[str]]:
    return set(committed.refused), set(committed.stale)


NOTHING: tuple[set[str], set[str]] = (set(), set())


class LeaseBattery:
    async def test_a_free_pool_is_taken_and_held_against_others(self, store: Store) -> None:
        lease = await store.acquire(POOL, holder="one", replica="r1", lease_ms=60_000)
        assert lease is not None
        assert (lease.pool, lease.holder, lease.replica, lease.epoch, lease.batch) == (POOL, "one", "r1", 1, 0)
        assert lease.now_ms == lease.since_ms > T0
        assert await store.acquire(POOL, holder="two", replica="r2", lease_ms=60_000) is None
        other = await store.acquire("other", holder="two", replica="r2", lease_ms=60_000)
        assert other is not None
        assert other.epoch == 1

    async def test_its_holder_takes_it_anew_with_a_higher_epoch_and_batches_from_one(self, store: Store) -> None:
        first = await own(store)
        await first.commit(draft().insert())
        second = await own(store)
        assert (second.lease.epoch, second.lease.batch) == (2, 0)
        assert outcome(await second.commit(draft().insert())) == NOTHING
        with pytest.raises(FencedError):
            await first.commit(draft().insert())

    async def test_an_expired_lease_passes_on_and_fences_its_holder(self, store: Store) -> None:
        late = await own(store, lease_ms=0)
        heir = await own(store, holder="holder-2")
        assert heir.lease.epoch == 2
        lost = draft()
        with pytest.raises(FencedError):
            await late.commit(lost.insert(), agents=(agent_row(),))
        with pytest.raises(FencedError):
            await store.renew(late.lease, lease_ms=60_000)
        assert await heir.state_of(lost.task_id) is None
        assert (await store.load(heir.lease)).agents == []

    async def test_an_expired_lease_that_nobody_took_is_still_its_holders(self, store: Store) -> None:
        late = await own(store, lease_ms=0)
        assert outcome(await late.commit(draft().insert())) == NOTHING
        assert await store.acquire(POOL, holder="two", replica="r2", lease_ms=60_000) is None

    async def test_renewal_extends_and_tells_the_last_batch(self, store: Store) -> None:
        owner = await own(store)
        await owner.commit(draft().insert())
        owner.lease = await store.renew(owner.lease, lease_ms=0)
        assert owner.lease.batch == 1
        renewed = await store.renew(owner.lease, lease_ms=60_000)
        assert await store.acquire(POOL, holder="two", replica="r2", lease_ms=60_000) is None
        assert renewed.now_ms >= owner.lease.now_ms

    async def test_a_lease_given_up_is_free_at_once_and_cannot_write(self, store: Store) -> None:
        owner = await own(store)
        await store.release(owner.lease)
        with pytest.raises(FencedError):
            await owner.commit(draft().insert())
        heir = await own(store, holder="holder-2")
        await store.release(owner.lease)  # not ours any more: nothing happens
        assert outcome(await heir.commit(draft().insert())) == NOTHING

    @pytest.mark.parametrize("number", [0, 2, -1])
    async def test_a_number_that_does_not_follow_is_fenced(self, store: Store, number: int) -> None:
        owner = await own(store)
        if number == 0:
            await owner.commit(draft().insert())
        owner.number = number
        lost = draft()
        with pytest.raises(FencedError):
            await owner.again(lost.insert())
        assert await owner.state_of(lost.task_id) is None

    async def test_an_epoch_that_is_not_the_pools_is_fenced(self, store: Store) -> None:
        owner = await own(store)
        owner.lease = replace(owner.lease, epoch=2)
        with pytest.raises(FencedError):
            await owner.commit(draft().insert())


class WritingBattery:
    async def test_a_task_lives_and_ends(self, store: Store) -> None:
        owner = await own(store)
        task = draft()
        assert outcome(await owner.commit(task.insert())) == NOTHING
        for state in (S.ASSIGNED, S.RUNNING, S.DEFERRED, S.QUEUED, S.ASSIGNED):
            task, change = task.move(state)
            assert outcome(await owner.commit(change)) == NOTHING
            assert await owner.state_of(task.task_id) is state
            stored = (await store.look_up(POOL, task.task_id)).stored
            assert stored is not None
            assert stored.columns == task.columns
        task, change = task.finish()
        assert outcome(await owner.commit(change)) == NOTHING
        assert await store.look_up(POOL, task.task_id) == Looked(
            state=S.SUCCEEDED,
            ended=(ended_attempt(1, state=S.DEFERRED), ended_attempt(2, state=S.SUCCEEDED)),
        )

    @pytest.mark.parametrize("guard", [(S.RUNNING, 1), (S.QUEUED, 1), (S.ASSIGNED, 2), (S.ASSIGNED, 0), None])
    @pytest.mark.parametrize("final", [False, True])
    async def test_a_row_that_is_not_as_expected_is_not_written(
        self, store: Store, guard: tuple[TaskState, int] | None, final: bool
    ) -> None:
        owner = await own(store)
        good, other = draft(), draft()
        task, assign = draft_assigned()
        await owner.commit(good.insert(), other.insert(), task.insert())
        await owner.commit(assign)
        before = await store.get(POOL, task_id=task.task_id)
        _, change = assigned(task).finish() if final else assigned(task).move(S.RUNNING)
        _, good_change = good.move(S.ASSIGNED)
        committed = await owner.commit(good_change, replace(change, guard=guard))
        assert outcome(committed) == (set(), {task.task_id})
        assert as_json(await store.get(POOL, task_id=task.task_id)) == as_json(before)
        assert await owner.state_of(good.task_id) is S.ASSIGNED

    async def test_a_final_task_never_changes(self, store: Store) -> None:
        owner = await own(store)
        task = draft()
        _, change = task.finish(S.CANCELLED)
        await owner.commit(task.insert())
        await owner.commit(change)
        for again in (task.move(S.ASSIGNED)[1], task.finish()[1]):
            assert outcome(await owner.commit(again)) == (set(), {task.task_id})
        assert await owner.state_of(task.task_id) is S.CANCELLED

    async def test_a_task_of_another_pool_is_out_of_reach(self, store: Store) -> None:
        mine, theirs = await own(store), await own(store, "other")
        task = draft()
        await theirs.commit(task.insert())
        assert outcome(await mine.commit(task.move(S.ASSIGNED)[1])) == (set(), {task.task_id})
        assert outcome(await mine.commit(task.finish()[1])) == (set(), {task.task_id})
        assert await store.look_up(POOL, task.task_id) == Looked(state=None)
        assert await theirs.state_of(task.task_id) is S.QUEUED

    async def test_a_task_may_be_new_and_final_at_once(self, store: Store) -> None:
        owner = await own(store)
        task = draft(key="k")
        assert outcome(await owner.commit(task.insert_final(S.EXPIRED, finished_ms=T0 + 5))) == NOTHING
        document = await store.get(POOL, key="k")
        assert document is not None
        assert (document.state, document.finished_at) == (S.EXPIRED, to_instant(T0 + 5))
        heir = draft(key="k", created_ms=T0 + 5 + RETENTION_MS)
        assert outcome(await owner.commit(heir.insert())) == NOTHING

    async def test_only_the_last_twenty_attempts_are_kept(self, store: Store) -> None:
        owner = await own(store)
        task = draft()
        await owner.commit(task.insert(ended=(ended_attempt(1),)))
        _, change = task.move(S.DEFERRED)
        await owner.commit(replace(change, ended=tuple(ended_attempt(n) for n in range(2, 5))))
        task, change = replace(task, columns=change.columns).move(S.QUEUED)
        await owner.commit(replace(change, ended=tuple(ended_attempt(n) for n in range(5, 24))))
        looked = await store.look_up(POOL, task.task_id)
        assert [end.attempt for end in looked.ended] == list(range(4, 24))
        [stored] = (await store.load(owner.lease)).heads
        assert stored.last_end == ended_attempt(23)
        _, change = task.finish()
        await owner.commit(replace(change, ended=(ended_attempt(24),)))
        looked = await store.look_up(POOL, task.task_id)
        assert [end.attempt for end in looked.ended] == list(range(5, 25))

    async def test_agents_are_written_whole_and_forgotten(self, store: Store) -> None:
        owner, theirs = await own(store), await own(store, "other")
        first, second = agent_row("a-1"), agent_row("a-2", role=None, incarnation=None, version=None, labels={})
        await owner.commit(agents=(second, first))
        await theirs.commit(agents=(first,))
        assert (await store.load(owner.lease)).agents == [first, second]
        changed = replace(first, state=AgentState.OFFLINE, replaced=(), slots=1, labels={"zone": "b"})
        await owner.commit(agents=(changed,), forget=("a-2", "a-9"))
        assert (await store.load(owner.lease)).agents == [changed]
        assert (await store.load(theirs.lease)).agents == [first]
        await owner.commit(agents=(second, first), forget=("a-1", "a-2"))  # forgotten, and back in the same batch
        assert (await store.load(owner.lease)).agents == [first, second]


class KeyBattery:
    async def test_a_key_belongs_to_the_first_task_that_has_it(self, store: Store) -> None:
        owner, theirs = await own(store), await own(store, "other")
        task, rival, free = draft(key="k"), draft(key="k"), draft(key="free")
        await owner.commit(task.insert())
        assert outcome(await owner.commit(rival.insert(), free.insert())) == ({rival.task_id}, set())
        assert await owner.state_of(rival.task_id) is None
        assert await owner.state_of(free.task_id) is S.QUEUED
        elsewhere, scoped = draft(key="k"), draft(key="k", scope="retry", retry_of=task.task_id)
        assert outcome(await theirs.commit(elsewhere.insert())) == NOTHING
        assert outcome(await owner.commit(scoped.insert())) == NOTHING
        holders = await store.key_holders(POOL, "client", ["k", "free", "unknown"])
        assert {key: holder.task_id for key, holder in holders.items()} == {"k": task.task_id, "free": free.task_id}
        assert holders["k"].digest == b"d" * 32
        [retry] = (await store.key_holders(POOL, "retry", ["k"])).values()
        assert retry.document.retry_of == task.task_id

    async def test_within_a_batch_the_first_one_gets_it(self, store: Store) -> None:
        owner = await own(store)
        first, second, third = draft(key="k"), draft(key="k"), draft(key="k")
        committed = await owner.commit(first.insert(), second.insert(), third.insert_final())
        assert outcome(committed) == ({second.task_id, third.task_id}, set())
        assert await owner.state_of(first.task_id) is S.QUEUED

    async def test_it_is_kept_while_the_task_lives_and_through_the_retention(self, store: Store) -> None:
        owner = await own(store)
        task = draft(key="k")
        await owner.commit(task.insert())
        rival = draft(key="k", created_ms=LATER * 2)
        assert outcome(await owner.commit(rival.insert())) == ({rival.task_id}, set())
        await owner.commit(task.finish(finished_ms=T0)[1])
        rival = draft(key="k", created_ms=LATER - 1)
        assert outcome(await owner.commit(rival.insert())) == ({rival.task_id}, set())
        heir = draft(key="k", created_ms=LATER)
        assert outcome(await owner.commit(heir.insert())) == NOTHING
        found = await store.get(POOL, key="k")
        assert found is not None
        assert found.task_id == heir.task_id
        # The heir's key lives on although its former owner is long over.
        rival = draft(key="k", created_ms=LATER * 2)
        assert outcome(await owner.commit(rival.insert())) == ({rival.task_id}, set())

    async def test_the_end_of_a_former_owner_does_not_touch_it(self, store: Store) -> None:
        owner = await own(store)
        refused = draft(key="k")
        await owner.commit(draft(key="k").insert())
        await owner.commit(refused.insert())
        _, change = refused.finish(finished_ms=T0)
        assert outcome(await owner.commit(change)) == (set(), {refused.task_id})
        rival = draft(key="k", created_ms=LATER)
        assert outcome(await owner.commit(rival.insert())) == ({rival.task_id}, set())

    async def test_maintenance_forgets_keys_past_their_retention_only(self, store: Store) -> None:
        owner = await own(store)
        old, live = draft(key="old"), draft(key="live")
        recent = draft(key="recent")
        await owner.commit(old.insert(), live.insert(), recent.insert())
        now_ms = owner.lease.now_ms
        await owner.commit(
            old.finish(finished_ms=now_ms - RETENTION_MS)[1],
            recent.finish(finished_ms=now_ms - RETENTION_MS + 60_000)[1],
        )
        await store.maintain(retention_days=30)
        assert set(await store.key_holders(POOL, "client", ["old", "live", "recent"])) == {"live", "recent"}
        assert await owner.state_of(old.task_id) is S.SUCCEEDED

    async def test_maintenance_forgets_history_past_its_retention_only(self, store: Store) -> None:
        owner = await own(store)
        old, recent, live = draft(), draft(), draft()
        await owner.commit(old.insert(), recent.insert(), live.insert())
        now_ms, day_ms = owner.lease.now_ms, 86_400_000
        await owner.commit(
            old.finish(finished_ms=now_ms - 4 * day_ms)[1], recent.finish(finished_ms=now_ms - day_ms)[1]
        )
        await store.maintain(retention_days=3)
        states = [await owner.state_of(task.task_id) for task in (old, recent, live)]
        assert states == [None, S.SUCCEEDED, S.QUEUED]


class RepetitionBattery:
    async def test_a_batch_committed_again_says_the_same_and_changes_nothing(self, store: Store) -> None:
        owner = await own(store)
        (task, assign), gone, taken = draft_assigned(), draft(), draft(key="taken")
        await owner.commit(task.insert(), taken.insert())
        await owner.commit(assign)
        final, fresh, rival, stale = assigned(task).finish()[1], draft(key="fresh"), draft(key="taken"), draft()
        second = draft(key="fresh")
        batch = (
            final,
            fresh.insert(),
            rival.insert(),
            second.insert(),
            stale.move(S.ASSIGNED)[1],
            gone.insert_final(),
        )
        agents = (agent_row(),)
        first = await owner.commit(*batch, agents=agents)
        assert outcome(first) == ({rival.task_id, second.task_id}, {stale.task_id})
        before = [await store.get(POOL, task_id=change.columns.task_id) for change in batch]
        for _ in range(2):
            again = await owner.again(*batch, agents=agents)
            assert outcome(again) == outcome(first)
            assert again.now_ms >= first.now_ms
        assert as_json([await store.get(POOL, task_id=change.columns.task_id) for change in batch]) == as_json(before)
        assert outcome(await owner.commit(fresh.move(S.ASSIGNED)[1])) == NOTHING

    async def test_an_empty_batch_counts(self, store: Store) -> None:
        owner = await own(store)
        assert outcome(await owner.commit()) == NOTHING
        assert outcome(await owner.again()) == NOTHING
        assert (await store.renew(owner.lease, lease_ms=60_000)).batch == 1


class ReadingBattery:
    async def test_a_document_has_everything(self, store: Store) -> None:
        owner = await own(store)
        payload = b'{"b": "\\u0000", "a": [1.50, "\xc3\xbc"]}'
        task = draft(
            key="k", payload=payload, description="Look", metadata={"team": "x"}, max_attempts=5, retry_of=None
        )
        await owner.commit(task.insert())
        for state in (S.ASSIGNED, S.RUNNING):
            task, change = task.move(state, progress=b'{"percent":50,"message":"half","data":{"x":[1]}}')
            await owner.commit(change)
        document = as_json(await store.get(POOL, task_id=task.task_id))
        assert document == as_json(await store.get(POOL, key="k"))
        assert document == {
            "task_id": task.task_id,
            "state": "running",
            "version": 3,
            "type": "lint",
            "priority": "normal",
            "attempt": 1,
            "created_at": "2023-11-14T22:13:20Z",
            "updated_at": "2023-11-14T22:13:20.002000Z",
            "started_at": "2023-11-14T22:13:20.002000Z",
            "description": "Look",
            "payload": {"b": "\0", "a": [1.5, "ü"]},
            "metadata": {"team": "x"},
            "key": "k",
            "max_attempts": 5,
            "agent_id": "agent-1",
            "incarnation": "i-1",
            "progress": {"percent": 50, "message": "half", "data": {"x": [1]}},
            "attempts": [{"attempt": 1, "agent_id": "agent-1", "started_at": "2023-11-14T22:13:20.002000Z"}],
        }
        error = TaskError(type="E", message="no \u2028 luck\nat all", retryable=False)
        task, change = task.finish(S.FAILED, finished_ms=T0 + 7, error=error)
        await owner.commit(change)
        document = as_json(await store.get(POOL, task_id=task.task_id))
        assert document["finished_at"] == document["updated_at"] == "2023-11-14T22:13:20.007000Z"
        assert document["error"] == as_json(error)
        assert document["attempts"] == [
            {
                "attempt": 1,
                "agent_id": "agent-1",
                "started_at": "2023-11-14T22:13:20.001000Z",
                "ended_at": "2023-11-14T22:13:20.011000Z",
                "outcome": Outcome.FAILED,
                "error": as_json(error),
            }
        ]
        assert "result" not in document

    async def test_payload_and_result_come_back_byte_by_byte(self, store: Store) -> None:
        owner = await own(store)
        payload, result = b'{"n": 1.0,"big": "' + b"\\u0000" * 40_000 + b'"}', b' [1e2,  "\xf0\x9f\x8e\xad"]'
        task = draft(payload=payload)
        await owner.commit(task.insert())
        offer = (await store.offers([task.task_id]))[task.task_id]
        assert (offer.payload, offer.spec, offer.progress) == (payload, task.new.spec, None)
        await owner.commit(task.finish(result=result)[1])
        document = await store.get(POOL, task_id=task.task_id)
        assert document is not None
        assert (bytes(document.payload), bytes(document.result)) == (payload, result)  # type: ignore[arg-type]  # both are there

    async def test_a_null_result_is_a_result(self, store: Store) -> None:
        owner = await own(store)
        task = draft(payload=b"null")
        await owner.commit(task.insert())
        await owner.commit(task.finish(result=b"null")[1])
        document = as_json(await store.get(POOL, task_id=task.task_id))
        assert document["result"] is None
        assert document["payload"] is None

    async def test_offers_are_of_live_tasks_only(self, store: Store) -> None:
        owner = await own(store)
        (live, _), over = draft().move(S.ASSIGNED, progress=b'{"percent":1}'), draft()
        await owner.commit(live.insert(), over.insert_final())
        offers = await store.offers([live.task_id, over.task_id, draft().task_id])
        assert set(offers) == {live.task_id}
        assert offers[live.task_id].progress == b'{"percent":1}'
        assert await store.offers([]) == {}

    async def test_what_is_not_there_is_none(self, store: Store) -> None:
        await own(store)
        unknown = draft().task_id
        assert await store.get(POOL, task_id=unknown) is None
        assert await store.get(POOL, key="unknown") is None
        assert await store.get(POOL) is None
        assert await store.look_up(POOL, unknown) == Looked(state=None)
        assert await store.original(POOL, unknown) is None
        assert await store.documents(POOL, [unknown]) == {}
        assert await store.key_holders(POOL, "client", []) == {}
        assert await store.page(POOL, ListTasks()) == await store.page("never-seen", ListTasks())

    async def test_documents_of_several_tasks_and_the_original_of_a_retry(self, store: Store) -> None:
        owner = await own(store)
        live, over = draft(), draft(payload=b"[7]")
        await owner.commit(live.insert(), over.insert_final(S.FAILED))
        documents = await store.documents(POOL, [over.task_id, live.task_id, draft().task_id])
        assert {task_id: document.state for task_id, document in documents.items()} == {
            live.task_id: S.QUEUED,
            over.task_id: S.FAILED,
        }
        original = await store.original(POOL, over.task_id)
        assert original is not None
        assert (original.task_id, original.spec, original.payload) == (over.task_id, over.new.spec, b"[7]")
        assert as_json(original.document) == as_json(documents[over.task_id])


class PageBattery:
    async def test_pages_go_over_live_and_final_tasks_alike(self, store: Store) -> None:
        owner = await own(store)
        tasks = [draft(created_ms=T0 + number // 3) for number in range(20)]
        await owner.commit(*(task.insert() if place % 2 else task.insert_final() for place, task in enumerate(tasks)))
        newest = [task.task_id for task in reversed(tasks)]
        for limit in (1, 7, 19, 20, 21):
            assert await self.walk(store, ListTasks(limit=limit)) == newest

    async def test_a_task_that_ends_between_two_pages_is_seen_once(self, store: Store) -> None:
        owner = await own(store)
        tasks = [draft(created_ms=T0 + number) for number in range(6)]
        await owner.commit(*(task.insert() for task in tasks))
        first = await store.page(POOL, ListTasks(limit=3))
        await owner.commit(*(task.finish(finished_ms=T0 + 99)[1] for task in tasks[1:5]))
        await owner.commit(draft(created_ms=T0 + 50).insert())
        second = await store.page(POOL, ListTasks(limit=3, cursor=first.cursor))
        ids = [document.task_id for document in (*first.tasks, *second.tasks)]
        assert ids == [task.task_id for task in reversed(tasks)]
        assert second.cursor is None

    async def test_filters(self, store: Store) -> None:
        owner, theirs = await own(store), await own(store, "other")
        queued, typed = draft(), draft(task_type="test")
        held, _ = draft().move(S.ASSIGNED, agent_id="agent-7")
        done = draft()
        await owner.commit(queued.insert(), typed.insert(), held.insert(), done.insert_final(S.FAILED))
        await theirs.commit(draft().insert())
        assert await self.walk(store, ListTasks(state=S.QUEUED)) == [typed.task_id, queued.task_id]
        assert await self.walk(store, ListTasks(state=S.FAILED)) == [done.task_id]
        assert await self.walk(store, ListTasks(type="test")) == [typed.task_id]
        assert await self.walk(store, ListTasks(agent_id="agent-7")) == [held.task_id]
        assert await self.walk(store, ListTasks(agent_id="agent-7", state=S.FAILED)) == []
        assert len(await self.walk(store, ListTasks())) == 4

    async def test_a_page_is_of_summaries(self, store: Store) -> None:
        owner = await own(store)
        task, _ = draft(description="Look").move(S.RUNNING, attempt=1, progress=b'{"percent":5,"data":[1]}')
        over = draft()
        await owner.commit(task.insert(), over.insert_final(S.SUCCEEDED))
        for document in as_json(await store.page(POOL, ListTasks()))["tasks"]:
            assert not {"payload", "result", "attempts"} & set(document)
            if document["task_id"] == task.task_id:
                assert document["progress"] == {"percent": 5}
                assert document["description"] == "Look"

    @pytest.mark.parametrize("cursor", ["", "x", "WzFd", "bm90IGpzb24=", "é", "WzEsICJub3QgYW4gaWQiXQ==", "A" * 511])
    async def test_a_cursor_that_is_not_ours_is_refused(self, store: Store, cursor: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            await store.page(POOL, ListTasks(cursor=cursor))
        assert caught.value.details == {"path": "cursor"}

    async def walk(self, store: Store, query: ListTasks) -> list[str]:
        ids: list[str] = []
        while True:
            page = await store.page(POOL, query)
            ids += [document.task_id for document in page.tasks]
            if page.cursor is None:
                return ids
            assert len(page.tasks) == (query.limit or 50)
            query = ListTasks(
                state=query.state, type=query.type, agent_id=query.agent_id, limit=query.limit, cursor=page.cursor
            )


class StoreBattery(
    LeaseBattery,
    WritingBattery,
    KeyBattery,
    RepetitionBattery,
    ReadingBattery,
    PageBattery,
    WaitingBattery,
    OutboxBattery,
):
    """All of it."""


def draft_assigned() -> tuple[Draft, TaskChange]:
    """A queued task, and the change that assigns it."""
    task = draft()
    return task, task.move(S.ASSIGNED)[1]


def assigned(task: Draft) -> Draft:
    """The same task after that change."""
    return task.move(S.ASSIGNED)[0]
