"""The window: memory holds the first tasks of each lane, and everything happens as if it held them all."""

import random
from dataclasses import replace

import pytest
from tests.support.core_rig import POOL, Rig, done

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.absent import KEPT_DEPARTURES, Departures
from callboard.orchestrator.core.settings import CoreSettings
from callboard.schemas.tasks import Requirements, TaskChange, TaskSpec
from callboard.schemas.vocabulary import TaskPriority, TaskState

SMALL = CoreSettings(window=1, least_lane=2, far_ms=100)
"""Two tasks of each lane, and up to four before it is cut."""


def in_memory(rig: Rig) -> int:
    return sum(task.state in {TaskState.QUEUED, TaskState.DEFERRED} for task in rig.machine.pool.tasks.values())


def run_down(rig: Rig) -> list[str]:
    """Complete whatever is assigned until nothing is; the order of the offers."""
    order: list[str] = []
    while offers := rig.take(do.SendOffer):
        for offer in offers:
            order.append(offer.task_id)
            rig.complete(offer.task_id)
    return order


@pytest.mark.parametrize("slots", [1, 3])
def test_a_deep_queue_is_served_in_order_from_a_small_window(slots: int) -> None:
    rig = Rig(SMALL)
    dice = random.Random(slots)  # noqa: S311 - a replayable queue
    tasks: list[str] = []
    for _ in range(60):
        tasks.append(rig.submit(priority=dice.choice(list(TaskPriority))))
        rig.wait(dice.randrange(3))
    assert in_memory(rig) <= 4 * 4
    wanted = {task_id: rig.document(task_id) for task_id in tasks}
    rig.registered(slots=slots)
    assert run_down(rig) == sorted(
        tasks, key=lambda task_id: (-wanted[task_id].priority.rank, wanted[task_id].created_at, task_id)
    )
    assert rig.machine.pool.absent.counts.total() == 0


def test_a_new_owner_takes_in_the_first_of_each_lane_and_goes_on() -> None:
    rig = Rig(SMALL)
    tasks = [rig.submit() for _ in range(30)]
    rig.restart()
    assert in_memory(rig) == 1
    assert rig.machine.pool.counts[TaskState.QUEUED] == 30
    rig.registered(slots=2)
    assert run_down(rig) == tasks


def test_what_comes_first_in_the_database_is_waited_for() -> None:
    rig = Rig(SMALL)
    high = [rig.submit(priority=TaskPriority.HIGH) for _ in range(6)]
    low = rig.submit(priority=TaskPriority.LOW)
    other = rig.submit(type="other")
    rig.restart()
    rig.holds_reads = True
    rig.registered(slots=3)
    assert [offer.task_id for offer in rig.take(do.SendOffer)] == high[:1]
    assert not rig.machine.has_decisions, "and nothing is tried again before the read is there"
    assert (rig.state(low), rig.state(other)) == ("queued", "queued")
    for read in rig.held_reads:
        rig.tell(read)
    rig.settle()
    assert [offer.task_id for offer in rig.take(do.SendOffer)] == high[1:3]


def test_a_submit_that_comes_first_is_placed_first() -> None:
    rig = Rig(SMALL)
    tasks = [rig.submit() for _ in range(10)]
    urgent = rig.submit(priority=TaskPriority.CRITICAL)
    rig.registered()
    assert run_down(rig) == [urgent, *tasks]


class TestAskedFor:
    """What is not in memory is found when somebody asks."""

    def deep(self) -> tuple[Rig, str]:
        rig = Rig(SMALL)
        tasks = [rig.submit() for _ in range(12)]
        assert tasks[-1] not in rig.machine.pool.tasks
        return rig, tasks[-1]

    def test_cancelled(self) -> None:
        rig, task_id = self.deep()
        answer = rig.cancel(task_id)
        assert answer == TaskChange(task_id=task_id, state=TaskState.CANCELLED, changed=True)
        assert rig.state(task_id) == "cancelled"
        assert rig.cancel(task_id) == TaskChange(task_id=task_id, state=TaskState.CANCELLED, changed=False)

    def test_finished_by_hand(self) -> None:
        rig, task_id = self.deep()
        assert rig.finish(task_id) == TaskChange(task_id=task_id, state=TaskState.SUCCEEDED, changed=True)

    def test_a_read_from_before_its_end_does_not_bring_it_back(self) -> None:
        rig, task_id = self.deep()
        first, second = rig.ticket(), rig.ticket()
        looked = done(rig.store.look_up(POOL, task_id))
        stamp = rig.machine.pool.absent.departures.count
        rig.ask(ev.CancelRequested(ticket=first, task_id=task_id), first)
        late = ev.CancelRequested(ticket=second, task_id=task_id, looked=looked, stamp=stamp)
        assert rig.ask(late, second) == TaskChange(task_id=task_id, state=TaskState.CANCELLED, changed=False)
        assert task_id not in rig.machine.pool.tasks


def test_a_read_of_the_window_from_before_an_end_does_not_bring_it_back() -> None:
    rig = Rig(SMALL)
    tasks = [rig.submit() for _ in range(12)]
    rig.holds_reads = True
    rig.registered()
    assert run_down(rig) == tasks[:2]
    [read] = rig.held_reads
    in_read = read.lanes[0][0].columns.task_id
    rig.cancel(in_read)
    rig.holds_reads = False
    rig.tell(read)
    rig.settle()
    assert in_read not in rig.machine.pool.tasks
    assert run_down(rig) == [task_id for task_id in tasks[2:] if task_id != in_read]


class TestTime:
    """Time changes what is not in memory as it changes what is."""

    @pytest.mark.parametrize("restarted", [False, True])
    def test_deferred_tasks_are_due_on_time(self, *, restarted: bool) -> None:
        rig = Rig(SMALL)
        delays = [random.Random(seed).randrange(5_000, 60_000) for seed in range(40)]  # noqa: S311 - replayable
        tasks = {rig.submit(delay_ms=delay_ms): rig.now_ms + delay_ms for delay_ms in delays}
        if restarted:
            rig.restart()
        assert in_memory(rig) < len(tasks)
        for task_id, due_ms in sorted(tasks.items(), key=lambda item: item[1]):
            rig.wait(due_ms - 1 - rig.now_ms)
            assert rig.state(task_id) == "deferred"
            rig.wait(1)
            assert rig.state(task_id) == "queued"

    @pytest.mark.parametrize("restarted", [False, True])
    def test_queued_tasks_expire_on_time(self, *, restarted: bool) -> None:
        rig = Rig(SMALL)
        limits = [random.Random(seed).randrange(5_000, 60_000) for seed in range(40)]  # noqa: S311 - replayable
        tasks = {rig.submit(ttl_ms=ttl_ms): rig.now_ms + ttl_ms for ttl_ms in limits}
        if restarted:
            rig.restart()
        for task_id, due_ms in sorted(tasks.items(), key=lambda item: item[1]):
            rig.wait(due_ms - 1 - rig.now_ms)
            assert rig.state(task_id) == "queued"
            rig.wait(1)
            assert rig.state(task_id) == "expired"
        assert rig.machine.pool.absent.counts.total() == 0

    def test_all_at_one_instant(self) -> None:
        rig = Rig(SMALL)
        tasks = [rig.submit(delay_ms=30_000) for _ in range(30)]
        rig.wait(30_000)
        assert {rig.state(task_id) for task_id in tasks} == {"queued"}
        rig.registered()
        assert run_down(rig) == tasks


def test_a_position_is_known_while_memory_has_the_whole_strand() -> None:
    rig = Rig(SMALL)
    tasks = [rig.submit() for _ in range(4)]
    pool = rig.machine.pool
    assert [pool.queue.position(rig.task(task_id)) for task_id in tasks] == [1, 2, 3, 4]
    rig.submit()
    assert pool.queue.position(rig.task(tasks[0])) is None


class Story:
    """One random story, told to a pool with a small window and to one without: they must decide the same."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - a replayable story
        ageing_ms = self.dice.choice([0, 0, 500])
        wide = CoreSettings(ageing_ms=ageing_ms, window=1_000_000)
        self.rigs = [Rig(wide, seed=seed), Rig(replace(wide, window=1, least_lane=2, far_ms=100), seed=seed)]
        self.tasks: list[str] = []

    def offers(self) -> list[str]:
        """What both placed since the last look."""
        oracle, small = (
            [(offer.task_id, offer.attempt, offer.agent_id) for offer in rig.take(do.SendOffer)] for rig in self.rigs
        )
        assert small == oracle
        return [task_id for task_id, _, _ in oracle]

    def step(self) -> None:
        """Something happens to both."""
        dice = self.dice
        running = [task_id for task_id in self.tasks if self.is_held(task_id)]
        kind = dice.randrange(10)
        if kind < 4 or not running:
            self.submit()
        elif kind < 7:
            task_id = dice.choice(running)
            for rig in self.rigs:
                rig.complete(task_id)
        elif kind == 7:
            task_id = dice.choice(self.tasks)
            answers = [rig.cancel(task_id) for rig in self.rigs]
            assert type(answers[0]) is type(answers[1])
        elif kind == 8:
            paused_ms = dice.randrange(400)
            for rig in self.rigs:
                rig.wait(paused_ms)
        elif dice.random() < 0.2:
            for rig in self.rigs:
                rig.restart()
        self.offers()

    def submit(self) -> None:
        """A few tasks of few kinds, so that lanes are long."""
        dice = self.dice
        for _ in range(dice.randrange(1, 6)):
            key = dice.choice([None, None, "k"])
            fields: dict[str, object] = {
                "type": dice.choice(["t", "u"]),
                "priority": dice.choice([TaskPriority.NORMAL, TaskPriority.HIGH]),
                "requires": dice.choice([None, Requirements(capabilities=["x"])]),
                "delay_ms": dice.choice([None, None, 700]),
                "ttl_ms": dice.choice([None, None, 3_000]),
                "concurrency_key": key,
                "concurrency_limit": dice.randrange(1, 3) if key else None,
            }
            [task_id] = {rig.submit(**fields) for rig in self.rigs}
            self.tasks.append(task_id)

    def is_held(self, task_id: str) -> bool:
        """Whether an agent has it, which both know."""
        oracle, small = (
            task is not None and task.agent_id is not None
            for task in (rig.machine.pool.tasks.get(task_id) for rig in self.rigs)
        )
        assert small == oracle
        return oracle


@pytest.mark.parametrize("seed", range(40))
def test_decisions_are_those_of_a_pool_that_holds_everything(seed: int) -> None:
    story = Story(seed)
    for rig in story.rigs:
        rig.registered("a", slots=2)
        rig.registered("b", slots=1, capabilities=["x"])
    most = 0
    for _ in range(80):
        story.step()
        most = max(most, story.rigs[1].machine.pool.absent.counts.total())
    assert most > 0, "the window was never too small"
    for rig in story.rigs:
        rig.wait(1_000)
        rig.registered("fresh", slots=5, capabilities=["x"])
        for agent_id in ("a", "b"):
            # What was cancelled in its hands holds a slot, and perhaps the key, until it is listed no more.
            rig.beat(agent_id)
    story.offers()
    while held := [task_id for task_id in story.tasks if story.is_held(task_id)]:
        for task_id in held:
            for rig in story.rigs:
                rig.complete(task_id)
        story.offers()
    assert [rig.machine.pool.live_tasks for rig in story.rigs] == [0, 0]


def test_departures_are_remembered_as_long_as_a_read_needs_them() -> None:
    departures = Departures()
    departures.note("early")
    stamp = departures.count
    assert not departures.since("early", stamp)
    departures.note("late")
    assert departures.since("late", stamp)
    departures.is_pinned = True
    for n in range(KEPT_DEPARTURES):
        departures.note(f"{n}")
    assert departures.since("late", stamp), "pinned, all are kept"
    assert not departures.since("never", stamp)
    departures.is_pinned = False
    departures.note("last")
    assert departures.since("never", stamp), "so many came since that nothing is certain"
    assert not departures.since("never", departures.count)


def test_the_spec_of_an_absent_task_is_read_back_whole() -> None:
    rig = Rig(SMALL)
    for _ in range(6):
        rig.submit()
    spec = TaskSpec(type="work", concurrency_key="k", max_attempts=7, affinity_key="z")
    event = rig.submitted(spec)
    rig.tell(event)
    rig.settle()
    before = rig.task(event.task_id)
    for _ in range(6):
        rig.submit(concurrency_key="k")
    rig.restart()
    rig.read_all()
    after = rig.task(event.task_id)
    before.changed_in = after.changed_in
    assert after == before
