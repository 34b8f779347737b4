"""The queue's order, and that nothing waits which could be placed (protocol, section 4, `Order`)."""

import pytest
from tests.support.core_rig import START_MS, Rig

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import queue as core_queue
from callboard.orchestrator.core.classes import PlacementClass
from callboard.orchestrator.core.settings import CoreSettings
from callboard.schemas.tasks import Requirements, TaskSpec
from callboard.schemas.times import to_instant
from callboard.schemas.vocabulary import TaskPriority


def offered(rig: Rig) -> list[str]:
    return [offer.task_id for offer in rig.take(do.SendOffer)]


def needing(capability: str) -> Requirements:
    return Requirements(capabilities=[capability])


def test_the_highest_priority_goes_first_then_the_oldest() -> None:
    rig = Rig()
    low, early = rig.submit(priority=TaskPriority.LOW), rig.submit()
    rig.wait(10)
    late, critical = rig.submit(), rig.submit(priority=TaskPriority.CRITICAL)
    rig.registered(slots=4)
    assert offered(rig) == [critical, early, late, low]


def test_at_the_same_time_the_smaller_id_goes_first() -> None:
    rig = Rig()
    ids = [rig.submit() for _ in range(5)]
    rig.registered(slots=5)
    assert offered(rig) == sorted(ids)


def test_a_task_counts_as_created_when_it_may_start() -> None:
    rig = Rig()
    delayed = rig.submit(delay_ms=100)
    rig.wait(50)
    early = rig.submit()
    rig.wait(100)
    late = rig.submit()
    rig.registered(slots=3)
    assert offered(rig) == [early, delayed, late]


def test_not_before_may_lie_in_the_past() -> None:
    rig = Rig()
    task_id = rig.submit(not_before=to_instant(START_MS - 5_000))
    assert rig.state(task_id) == "queued"
    assert rig.task(task_id).order_ms == START_MS


def test_one_order_over_all_types() -> None:
    rig = Rig()
    first = rig.submit(type="b", requires=needing("x"))
    rig.wait(1)
    second = rig.submit(type="a")
    rig.wait(1)
    third = rig.submit(type="b")
    rig.registered(slots=1, capabilities=["x"])
    assert offered(rig) == [first]
    rig.complete(first)
    assert offered(rig) == [second]
    rig.complete(second)
    assert offered(rig) == [third]


def test_a_retry_keeps_its_place_and_back_off_only_hides_it() -> None:
    rig = Rig()
    rig.registered()
    first = rig.submit()
    rig.wait(10)
    second, third = rig.submit(), rig.submit()
    rig.fail(first)
    assert rig.state(first) == "deferred"
    assert rig.state(second) == "assigned", "what waits for a time blocks nobody"
    rig.keep_alive(2_000, "a")
    assert rig.state(first) == "queued"
    rig.complete(second)
    assert rig.state(first) == "assigned", "before the third, which is younger"
    assert rig.state(third) == "queued"


def test_a_task_that_cannot_be_placed_blocks_nobody() -> None:
    rig = Rig()
    rig.submit(priority=TaskPriority.CRITICAL, requires=needing("rare"))
    common = rig.submit()
    rig.registered(capabilities=["usual"])
    assert offered(rig) == [common]


def test_more_than_one_batch_can_place_is_placed_by_the_next_ones() -> None:
    rig = Rig(CoreSettings(batch_tasks=2))
    rig.registered(slots=5)
    for _ in range(5):
        rig.tell(rig.submitted(TaskSpec(type="work")))
    rig.settle()
    assert len(offered(rig)) == 5


def test_classes_beyond_those_that_wait_are_dropped_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_queue, "IDLE_CLASSES", 3)
    rig = Rig()
    kept = rig.submit(type="kept", requires=needing("rare"))
    for number in range(20):
        rig.registered(f"agent-{number}")
        rig.complete(rig.submit(type=f"t{number}"))
    assert len(rig.machine.pool.queue.classes) <= 3 + 1
    rig.complete(rig.submit(type="t0"))
    rig.registered("late", capabilities=["rare"])
    assert rig.task(kept).agent_id == "late"


def test_a_class_that_waits_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropping idle classes must not look at those that wait, however many they are."""
    monkeypatch.setattr(core_queue, "IDLE_CLASSES", 2)
    rig = Rig()
    for number in range(50):
        rig.submit(type=f"t{number}")
    looked_at: list[PlacementClass] = []

    def counted(placement: PlacementClass) -> bool:
        looked_at.append(placement)
        return not any(placement.lanes)

    monkeypatch.setattr(PlacementClass, "is_idle", property(counted))
    rig.machine.handle(rig.submitted(TaskSpec(type="one-more")), rig.now_ms)
    assert len(looked_at) < 10


def test_the_oldest_wait_is_known() -> None:
    rig = Rig()
    assert rig.machine.pool.queue.oldest_ms() is None
    rig.submit(priority=TaskPriority.LOW)
    rig.wait(10)
    rig.submit()
    assert rig.machine.pool.queue.oldest_ms() == START_MS
