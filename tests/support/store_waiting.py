"""What every store must do for a window of waiting tasks and for concurrency keys; a part of `store_battery`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Raw
from msgspec.structs import replace
from tests.support.store_rows import POOL, T0, Draft, S, as_json, dialogue, draft, ended_attempt, ids_of, own

from callboard.orchestrator.core.changes import AgendaRead, KeyHold, KeyLimit, LaneRead, StoredTask, TaskDialogue
from callboard.orchestrator.core.events import Looked
from callboard.orchestrator.store.port import FIRST_ID
from callboard.schemas.tasks import ListTasks
from callboard.schemas.times import to_instant
from callboard.schemas.vocabulary import TaskPriority
from callboard.schemas.why import AgentScore

if TYPE_CHECKING:
    from callboard.orchestrator.store.port import Store

NORMAL = TaskPriority.NORMAL.rank
SCORES = (
    AgentScore(agent_id="a", total=1.1, parts={"round_robin": 0.1, "prefers": 1.0}),
    AgentScore(agent_id="ü", total=-9.7, parts={"retry": -10.0, "round_robin": 0.3}),
)


def lane(
    *, placement: str = "lint|||", priority: int = NORMAL, from_ms: int = 0, from_id: str = FIRST_ID, limit: int = 99
) -> LaneRead:
    return LaneRead(placement=placement, priority=priority, from_ms=from_ms, from_id=from_id, limit=limit)


def stored(task: Draft) -> StoredTask:
    """How a task that never had an attempt is read."""
    new = task.new
    return StoredTask(
        columns=task.columns,
        spec=new.spec,
        created_ms=new.created_ms,
        order_ms=new.order_ms,
        deadline_ms=new.deadline_ms,
        last_end=None,
    )


class WaitingBattery:
    async def test_a_new_owner_gets_what_is_held_and_the_head_of_each_lane(self, store: Store) -> None:
        owner, theirs = await own(store), await own(store, "other")
        held = [draft().move(state, attempt=1)[0] for state in (S.RUNNING, S.ASSIGNED, S.RUNNING)]
        deferred, over = draft().move(S.DEFERRED)[0], draft()
        late, early = draft(created_ms=T0 + 2), draft(created_ms=T0 + 1)
        first, second = draft(created_ms=T0 + 1, placement="b"), draft(created_ms=T0 + 1, placement="b")
        low = draft(priority=TaskPriority.LOW, created_ms=T0 - 9)
        critical = draft(priority=TaskPriority.CRITICAL, created_ms=T0 + 9)
        await owner.commit(
            *(task.insert() for task in (*reversed(held), second, late, low, deferred, critical, first, early)),
            over.insert_final(),
        )
        await theirs.commit(draft(priority=TaskPriority.HIGH).insert(), draft().move(S.ASSIGNED)[0].insert())
        snapshot = await store.load(owner.lease)
        assert snapshot.held == [stored(task) for task in held]
        assert snapshot.heads == [stored(task) for task in (critical, early, first, low)]
        assert snapshot.counts == {S.QUEUED: 6, S.DEFERRED: 1, S.ASSIGNED: 1, S.RUNNING: 2, S.WAITING_INPUT: 0}

    async def test_an_empty_pool_has_no_task_in_any_state(self, store: Store) -> None:
        snapshot = await store.load((await own(store)).lease)
        assert (snapshot.held, snapshot.heads, snapshot.limits, snapshot.key_holds) == ([], [], [], [])
        assert snapshot.dialogues == {}
        assert snapshot.counts == {S.QUEUED: 0, S.DEFERRED: 0, S.ASSIGNED: 0, S.RUNNING: 0, S.WAITING_INPUT: 0}

    async def test_a_lane_is_read_in_its_order_from_a_place_on(self, store: Store) -> None:
        owner, theirs = await own(store), await own(store, "other")
        tasks = [draft(created_ms=T0, order_ms=T0 + order) for order in (5, 3, 3, 3, 9)]
        by_order = [tasks[place] for place in (1, 2, 3, 0, 4)]
        high, other = draft(priority=TaskPriority.HIGH), draft(placement="other")
        elsewhere = draft()
        away = [draft().move(state)[0] for state in (S.DEFERRED, S.ASSIGNED)]
        await owner.commit(*(task.insert() for task in (*tasks, *away, high, other)), draft().insert_final())
        await theirs.commit(elsewhere.insert())
        reads = {
            lane(): by_order,
            lane(limit=2): by_order[:2],
            lane(limit=0): [],
            lane(from_ms=T0 + 3): by_order,
            lane(from_ms=T0 + 3, from_id=tasks[2].task_id): by_order[1:],
            lane(from_ms=T0 + 3, from_id=tasks[2].task_id, limit=2): by_order[1:3],
            lane(from_ms=T0 + 4): by_order[3:],
            lane(from_ms=T0 + 10): [],
            lane(priority=TaskPriority.HIGH.rank): [high],
            lane(priority=TaskPriority.LOW.rank): [],
            lane(placement="other"): [other],
            lane(placement="unknown"): [],
        }
        expected = [[stored(task) for task in found] for found in reads.values()]
        assert await store.lanes(POOL, list(reads)) == expected
        assert await store.lanes(POOL, [lane(), lane()]) == [expected[0]] * 2
        assert await store.lanes("other", [lane()]) == [[stored(elsewhere)]]
        assert await store.lanes("never-seen", [lane()]) == [[]]
        assert await store.lanes(POOL, []) == []

    async def test_a_task_leaves_its_lane_and_comes_back(self, store: Store) -> None:
        owner = await own(store)
        task = draft()
        await owner.commit(task.insert())
        for state, is_there in ((S.ASSIGNED, False), (S.QUEUED, True), (S.DEFERRED, False), (S.QUEUED, True)):
            task, change = task.move(state)
            await owner.commit(change)
            assert await store.lanes(POOL, [lane()]) == [
                [replace(stored(task), last_end=ended_attempt(1))] if is_there else []
            ]
        await owner.commit(task.finish(S.CANCELLED)[1])
        assert await store.lanes(POOL, [lane()]) == [[]]
        assert (await store.load(owner.lease)).heads == []

    async def test_the_agenda_is_of_waiting_tasks_by_what_time_does_to_them_next(self, store: Store) -> None:
        owner, theirs = await own(store), await own(store, "other")
        queued, twin = draft(deadline_ms=T0 + 30), draft(deadline_ms=T0 + 30)
        until, _ = draft().move(S.DEFERRED, until_ms=T0 + 20)
        sooner, _ = draft(deadline_ms=T0 + 10).move(S.DEFERRED, until_ms=T0 + 40)
        later, _ = draft(deadline_ms=T0 + 50).move(S.DEFERRED, until_ms=T0 + 40)
        never, held = draft(), draft(deadline_ms=T0 + 1).move(S.ASSIGNED)[0]
        tasks = (later, never, held, twin, queued, sooner, until)
        await owner.commit(*(task.insert() for task in tasks), draft(deadline_ms=T0).insert_final())
        await theirs.commit(draft(deadline_ms=T0).insert())
        by_instant = [sooner, until, queued, twin, later]

        async def read(from_ms: int, from_id: str, limit: int) -> list[str]:
            return ids_of(await store.agenda(POOL, AgendaRead(from_ms=from_ms, from_id=from_id, limit=limit)))

        everything = AgendaRead(from_ms=0, from_id=FIRST_ID, limit=99)
        assert await store.agenda(POOL, everything) == [stored(task) for task in by_instant]
        assert await read(0, FIRST_ID, 2) == [sooner.task_id, until.task_id]
        assert await read(T0 + 30, FIRST_ID, 2) == [queued.task_id, twin.task_id]
        assert await read(T0 + 30, twin.task_id, 9) == [twin.task_id, later.task_id]
        assert await read(T0 + 41, FIRST_ID, 9) == []
        assert await store.agenda("never-seen", everything) == []
        await owner.commit(queued.move(S.ASSIGNED)[1], twin.finish(S.EXPIRED)[1], until.move(S.QUEUED)[1])
        assert await read(0, FIRST_ID, 9) == [sooner.task_id, later.task_id]

    async def test_how_many_come_before_is_counted_within_the_class(self, store: Store) -> None:
        owner = await own(store)
        tasks = [draft(created_ms=T0 + number // 2) for number in range(6)]
        high = [draft(priority=TaskPriority.HIGH, created_ms=T0 + 99) for _ in range(2)]
        others = [draft(priority=TaskPriority.LOW), draft(placement="b"), draft().move(S.ASSIGNED)[0]]
        await owner.commit(*(task.insert() for task in (*tasks, *high, *others)))

        async def before(task: Draft, placement: str = "lint|||") -> int:
            return await store.queued_before(POOL, placement, task.new.priority, task.new.order_ms, task.task_id)

        assert [await before(task) for task in tasks] == [2, 3, 4, 5, 6, 7]
        assert [await before(task) for task in (*high, others[0])] == [0, 1, 8]
        assert await before(tasks[5], "b") == 1
        assert await before(tasks[5], "unknown") == 0
        assert await store.queued_before("never-seen", "lint|||", NORMAL, T0 + 9, FIRST_ID) == 0

    async def test_a_live_task_is_looked_up_whole(self, store: Store) -> None:
        owner = await own(store)
        task = draft(deadline_ms=T0 + 9)
        await owner.commit(task.insert())
        assert await store.look_up(POOL, task.task_id) == Looked(state=S.QUEUED, stored=stored(task))
        await owner.commit(task.finish(S.CANCELLED)[1])
        assert await store.look_up(POOL, task.task_id) == Looked(state=S.CANCELLED)

    async def test_scores_are_kept_while_the_attempt_is_in_hand(self, store: Store) -> None:
        owner = await own(store)
        task, placed = draft(), draft().move(S.ASSIGNED, scores=SCORES)[0]
        await owner.commit(task.insert(), placed.insert())
        task, change = task.move(S.ASSIGNED, scores=SCORES[:1])
        await owner.commit(change)
        assert [each.columns for each in (await store.load(owner.lease)).held] == [task.columns, placed.columns]
        placed, change = placed.move(S.QUEUED, scores=())
        await owner.commit(change)
        looked = (await store.look_up(POOL, placed.task_id)).stored
        assert looked is not None
        assert looked.columns == placed.columns
        assert looked.columns.scores == ()

    async def test_limits_are_those_of_live_tasks_in_any_state(self, store: Store) -> None:
        owner, theirs = await own(store), await own(store, "other")
        queued, deferred, held = (draft(concurrency=("k", 3)) for _ in range(3))
        tasks = (queued, deferred.move(S.DEFERRED)[0], held.move(S.ASSIGNED)[0])
        await owner.commit(
            *(task.insert() for task in tasks),
            *(draft(concurrency=concurrency).insert() for concurrency in (("ü", 1), ("k", 12), ("K", 2), None)),
            draft(concurrency=("over", 1)).insert_final(),
        )
        await theirs.commit(draft(concurrency=("k", 3)).insert())
        limits = [("K", 2, 1), ("k", 3, 3), ("k", 12, 1), ("ü", 1, 1)]
        assert (await store.load(owner.lease)).limits == [KeyLimit(*limit) for limit in limits]
        await owner.commit(queued.finish()[1])
        assert (await store.load(owner.lease)).limits[1] == KeyLimit("k", 3, 2)

    async def test_a_question_is_kept_and_shown_until_its_attempt_ends(self, store: Store) -> None:
        owner, theirs = await own(store), await own(store, "other")
        task, other = draft(), draft()
        elsewhere = draft().move(S.WAITING_INPUT)[0]
        await owner.commit(task.insert(), other.insert())
        await theirs.commit(elsewhere.insert(), asked=(TaskDialogue(elsewhere.task_id, dialogue()),))
        waiting, change = task.move(S.WAITING_INPUT)
        asked = dialogue(data=Raw(b'["\\u0000"]'), waited_ms=7)
        for send in (owner.commit, owner.again):
            await send(change, asked=(TaskDialogue(task.task_id, asked),))
            snapshot = await store.load(owner.lease)
            assert snapshot.dialogues == {task.task_id: asked}
            assert [held.columns.task_id for held in snapshot.held] == [task.task_id]
        found = await store.get(POOL, task_id=task.task_id)
        assert found is not None
        assert as_json(found.question) == {
            "query": 1,
            "prompt": "ünï?",
            "data": ["\0"],
            "asked_at": as_json(to_instant(T0)),
        }
        assert (await store.page(POOL, ListTasks(state=S.WAITING_INPUT))).tasks[0].question is None, "a summary"
        answered = dialogue(is_open=False, answer=Raw(b"null"))
        running, change = waiting.move(S.RUNNING)
        await owner.commit(change, asked=(TaskDialogue(task.task_id, answered),))
        assert (await store.load(owner.lease)).dialogues == {task.task_id: answered}
        found = await store.get(POOL, task_id=task.task_id)
        assert found is not None
        assert (found.state, found.question) == (S.RUNNING, None)
        ended = (TaskDialogue(task.task_id, None), TaskDialogue(other.task_id, None))
        for send in (owner.commit, owner.again):
            await send(running.finish()[1], asked=ended)
            assert (await store.load(owner.lease)).dialogues == {}
        assert (await store.load(theirs.lease)).dialogues == {elsewhere.task_id: dialogue()}

    async def test_holds_are_kept_until_they_are_dropped(self, store: Store) -> None:
        owner, theirs = await own(store), await own(store, "other")
        task, other = draft().task_id, draft().task_id
        first, second, third = KeyHold("a", task, 1, "k"), KeyHold("a", task, 2, "k"), KeyHold("b", task, 1, "ü")
        alike = KeyHold("a", other, 1, "k")
        await owner.commit(keep=(third, alike, first, second, first))
        await theirs.commit(keep=(first,))
        assert (await store.load(owner.lease)).key_holds == [first, second, alike, third]
        fourth = KeyHold("c", task, 3, "k")
        for send in (owner.commit, owner.again):
            await send(keep=(third, fourth), drop=(first, KeyHold("a", task, 9, "k")))
            assert (await store.load(owner.lease)).key_holds == [second, alike, third, fourth]
        assert (await store.load(theirs.lease)).key_holds == [first]
