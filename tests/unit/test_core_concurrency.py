"""Concurrency keys: never over the limit, as long as slots are held, and a full key holds up nobody else."""

import random

import pytest
from tests.support.core_rig import Rig

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core.keys import Limits
from callboard.orchestrator.core.model import Held
from callboard.orchestrator.core.why import explain_spec, explain_task
from callboard.schemas.tasks import TaskError, TaskSpec
from callboard.schemas.vocabulary import TaskPriority


def keyed(rig: Rig, limit: int | None = 1, key: str = "k", **fields: object) -> str:
    return rig.submit(concurrency_key=key, concurrency_limit=limit, **fields)


def states(rig: Rig, *task_ids: str) -> list[str]:
    return [rig.state(task_id) for task_id in task_ids]


@pytest.mark.parametrize(("limit", "held"), [(None, 1), (1, 1), (2, 2), (3, 3)])
def test_no_more_of_a_key_are_held_than_its_limit(limit: int | None, held: int) -> None:
    rig = Rig()
    rig.registered(slots=10)
    tasks = [keyed(rig, limit) for _ in range(4)]
    assert states(rig, *tasks) == ["assigned"] * held + ["queued"] * (4 - held)
    rig.complete(tasks[0])
    assert rig.state(tasks[held]) == "assigned"


def test_the_lowest_limit_of_those_alive_counts() -> None:
    rig = Rig()
    rig.registered(slots=10)
    two = [keyed(rig, 2), keyed(rig, 2)]
    strict, third = keyed(rig, 1), keyed(rig, 3)
    rig.complete(two[0])
    assert states(rig, strict, third) == ["queued", "queued"], "one is held, and one may be"
    rig.cancel(strict)
    assert rig.state(third) == "assigned", "of those that are left, two may be"


def test_a_full_key_holds_up_nobody_behind_it() -> None:
    rig = Rig()
    rig.registered(slots=3)
    keyed(rig)
    full = keyed(rig, priority=TaskPriority.CRITICAL)
    other, plain = keyed(rig, key="other"), rig.submit()
    assert states(rig, full, other, plain) == ["queued", "assigned", "assigned"]


def test_the_order_within_a_key_is_the_pools() -> None:
    rig = Rig()
    rig.registered(slots=5)
    running = keyed(rig)
    waiting = [keyed(rig, priority=rank) for rank in (TaskPriority.LOW, TaskPriority.HIGH, TaskPriority.NORMAL)]
    order = []
    for _ in waiting:
        rig.take(do.SendOffer)
        rig.complete(running)
        [offer] = rig.take(do.SendOffer)
        running = offer.task_id
        order.append(running)
    assert order == [waiting[1], waiting[2], waiting[0]]


class TestWhatFreesAKey:
    """It is held as long as the slot is (protocol, section 3)."""

    def rig(self) -> tuple[Rig, str, str]:
        rig = Rig()
        rig.registered("a", slots=2)
        rig.registered("b", slots=2)
        first, second = keyed(rig), keyed(rig)
        return rig, first, second

    def test_a_report(self) -> None:
        rig, first, second = self.rig()
        rig.fail(first, TaskError(message="no", retryable=False))
        assert rig.state(second) == "assigned"

    def test_a_declined_offer(self) -> None:
        rig, first, second = self.rig()
        rig.decline(first)
        assert sorted(states(rig, first, second)) == ["assigned", "queued"]

    def test_a_goodbye(self) -> None:
        rig, first, second = self.rig()
        agent_id = rig.task(first).agent_id or ""
        rig.leave(agent_id)
        assert sorted(states(rig, first, second)) == ["assigned", "queued"]

    def test_a_listing_without_it(self) -> None:
        rig, first, second = self.rig()
        agent_id, held = self.cancelled(rig, first)
        rig.beat(agent_id, held)
        assert rig.state(second) == "queued", "its agent still runs it"
        rig.beat(agent_id)
        assert rig.state(second) == "assigned"

    def test_a_lease_that_is_over(self) -> None:
        rig, first, second = self.rig()
        agent_id, _ = self.cancelled(rig, first)
        rig.keep_alive(60_000, "b" if agent_id == "a" else "a")
        assert rig.state(second) == "assigned"

    def test_what_is_over_counts_for_a_new_owner_too(self) -> None:
        rig, first, second = self.rig()
        agent_id, held = self.cancelled(rig, first)
        rig.restart()
        rig.beat(agent_id, held)
        assert rig.state(second) == "queued"
        rig.restart()
        rig.beat(agent_id)
        assert rig.state(second) == "assigned"
        rig.complete(second)
        rig.restart()
        assert not rig.machine.pool.written_holds
        assert len(rig.machine.pool.queue.keys) == 0

    def cancelled(self, rig: Rig, task_id: str) -> tuple[str, Held]:
        """The agent and the attempt of a running task that was cancelled."""
        rig.accept(task_id)
        agent_id, held = rig.task(task_id).agent_id or "", rig.task(task_id).held
        rig.cancel(task_id)
        return agent_id, held


def test_the_limits_are_restored_with_what_waits() -> None:
    rig = Rig()
    rig.registered(slots=10)
    tasks = [keyed(rig, limit) for limit in (2, 2, 2, 1)]
    assert states(rig, *tasks) == ["assigned", "assigned", "queued", "queued"]
    rig.restart()
    rig.complete(tasks[0])
    assert states(rig, *tasks[2:]) == ["queued", "queued"]
    rig.complete(tasks[1])
    assert states(rig, *tasks[2:]) == ["assigned", "queued"]


def test_a_key_that_nobody_uses_is_forgotten() -> None:
    rig = Rig()
    rig.registered()
    pool = rig.machine.pool
    for n in range(20):
        rig.complete(keyed(rig, key=f"k{n}"))
    assert (len(pool.queue.keys), len(pool.keyed)) == (0, 0)
    assert not any(placement.keyed for placement in pool.queue.classes)


def test_an_insert_that_is_refused_counts_for_nothing() -> None:
    rig = Rig()
    rig.registered(slots=3)
    spec = TaskSpec(type="work", key="same", concurrency_key="k")
    first, second = rig.submitted(spec), rig.submitted(TaskSpec(type="work", key="same", concurrency_key="k"))
    rig.tell(first)
    rig.settle()
    rig.complete(first.task_id)
    rig.tell(second)
    rig.settle()
    assert second.task_id not in rig.machine.pool.tasks
    assert len(rig.machine.pool.queue.keys) == 0


class TestWhy:
    """A full key is named, with what would help."""

    def test_a_waiting_task(self) -> None:
        rig = Rig()
        rig.registered(slots=10)
        keyed(rig, 2)
        keyed(rig, 2)
        waiting = explain_task(rig.machine.pool, rig.task(keyed(rig, 2)))
        assert waiting.excluded == {"concurrency_key": 1}
        assert waiting.unblocked_by == ["one of the 2 attempts that hold concurrency key 'k' ends (limit 2)"]
        assert waiting.position == 1

    def test_a_dry_run(self) -> None:
        rig = Rig()
        rig.registered(slots=10)
        spec = TaskSpec(type="work", concurrency_key="k")
        assert explain_spec(rig.machine.pool, spec).excluded == {}
        keyed(rig)
        assert explain_spec(rig.machine.pool, spec).excluded == {"concurrency_key": 1}


def test_the_lowest_limit_is_that_of_a_plain_list() -> None:
    dice = random.Random(3)  # noqa: S311 - a replayable walk
    limits, plain = Limits(), list[int]()
    for _ in range(2_000):
        if plain and dice.random() < 0.5:
            gone = dice.choice(plain)
            plain.remove(gone)
            limits.remove(gone)
        else:
            limit = dice.randrange(1, 40)
            plain.append(limit)
            limits.add(limit)
        assert limits.lowest() == min(plain, default=None)
        assert bool(limits) is bool(plain)
