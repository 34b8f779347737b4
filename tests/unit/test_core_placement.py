"""The four strategies, and what holds for all of them: a retry looks elsewhere, nobody starves or is flooded."""

from collections import Counter

import pytest
from tests.support.core_rig import Rig

from callboard.orchestrator.core import performance as core_performance
from callboard.orchestrator.core.dice import Dice
from callboard.orchestrator.core.performance import PRIOR_SUCCESS, Performance
from callboard.orchestrator.core.sampling import SampleSet
from callboard.orchestrator.core.settings import CoreSettings
from callboard.schemas.tasks import Backoff, Requirements
from callboard.schemas.vocabulary import TaskAssignmentStrategy

S = TaskAssignmentStrategy


def fleet(strategy: TaskAssignmentStrategy, *, seed: int = 7, **slots: int) -> Rig:
    rig = Rig(CoreSettings(strategy=strategy), seed=seed)
    for agent_id, count in slots.items():
        rig.registered(agent_id, slots=count)
    return rig


def place(rig: Rig, **fields: object) -> str:
    """Where a new task goes."""
    return str(rig.task(rig.submit(**fields)).agent_id)


def work(rig: Rig, tasks: int, run_ms: dict[str, int], failing: frozenset[str] = frozenset()) -> Counter[str]:
    """Run so many tasks, one after the other; who ran them."""
    turns: Counter[str] = Counter()
    for _ in range(tasks):
        task_id = rig.submit(max_attempts=1)
        agent_id = str(rig.task(task_id).agent_id)
        rig.accept(task_id)
        rig.now_ms += run_ms.get(agent_id, 10)
        (rig.fail if agent_id in failing else rig.complete)(task_id)
        for each in rig.machine.pool.agents:
            rig.beat(each)
        turns[agent_id] += 1
    return turns


class TestRoundRobin:
    def test_equal_turns(self) -> None:
        rig = fleet(S.ROUND_ROBIN, a=1, b=5, c=2)
        assert set(work(rig, 30, {}).values()) == {10}

    def test_whatever_else_they_run(self) -> None:
        rig = fleet(S.ROUND_ROBIN, a=10, b=10)
        assert Counter(place(rig) for _ in range(20)) == {"a": 10, "b": 10}

    def test_a_newcomer_is_next_and_takes_no_more_than_its_turns(self) -> None:
        rig = fleet(S.ROUND_ROBIN, a=1, b=1)
        work(rig, 10, {})
        rig.registered("c")
        assert list(work(rig, 1, {})) == ["c"]
        assert set(work(rig, 30, {}).values()) == {10}


class TestAvailability:
    def test_the_lowest_share_of_used_slots(self) -> None:
        rig = fleet(S.AVAILABILITY_BASED, small=2, large=8)
        placed = Counter(place(rig) for _ in range(5))
        assert placed == {"small": 1, "large": 4}

    def test_offers_in_flight_count_as_load_at_once(self) -> None:
        rig = fleet(S.AVAILABILITY_BASED, a=4, b=4, c=4)
        assert Counter(place(rig) for _ in range(6)) == {"a": 2, "b": 2, "c": 2}

    def test_ties_are_broken_by_the_seed(self) -> None:
        first = [place(fleet(S.AVAILABILITY_BASED, seed=seed, a=1, b=1, c=1)) for seed in range(60)]
        assert min(Counter(first).values()) > 8
        again = [place(fleet(S.AVAILABILITY_BASED, seed=seed, a=1, b=1, c=1)) for seed in range(60)]
        assert first == again


class TestCapabilityMatch:
    def test_the_tightest_fit(self) -> None:
        rig = Rig(CoreSettings(strategy=S.CAPABILITY_MATCH))
        rig.registered("generalist", capabilities=["a", "b", "c"], slots=9)
        rig.registered("specialist", capabilities=["a"])
        needs = Requirements(capabilities=["a"])
        assert [place(rig, requires=needs) for _ in range(3)] == ["specialist", "generalist", "generalist"]
        assert place(rig, requires=Requirements(capabilities=["c"])) == "generalist"


class TestPerformance:
    def test_memory_is_bounded_by_types_and_by_agents(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(core_performance, "REMEMBERED", 3)
        performance = Performance()
        for number in range(10):
            performance.observe("a", f"t{number}", succeeded=True, run_ms=1)
        assert performance._by_agent["a"].types == {"t7", "t8", "t9"}
        for number in range(10):
            performance.observe(f"b{number}", "t", succeeded=True, run_ms=1)
        assert list(performance._by_agent) == ["b7", "b8", "b9"]
        assert list(performance._records) == [("b7", "t"), ("b8", "t"), ("b9", "t")]
        for agent_id in ("b7", "b8", "b9", "never"):
            performance.forget(agent_id)
        assert not performance._by_agent
        assert not performance._records

    def test_the_faster_gets_more_and_the_slower_does_not_starve(self) -> None:
        turns = work(fleet(S.PERFORMANCE_BASED, fast=1, slow=1), 200, {"fast": 10, "slow": 400})
        assert turns["fast"] > 3 * turns["slow"]
        assert turns["slow"] >= 3

    def test_the_more_reliable_gets_more(self) -> None:
        turns = work(fleet(S.PERFORMANCE_BASED, good=1, bad=1), 200, {}, failing=frozenset({"bad"}))
        assert turns["good"] > 3 * turns["bad"]
        assert turns["bad"] >= 3

    def test_nobody_is_flooded(self) -> None:
        rig = fleet(S.PERFORMANCE_BASED, fast=10, slow=10)
        work(rig, 60, {"fast": 10, "slow": 15})
        placed = Counter(place(rig) for _ in range(10))
        assert placed["slow"] >= 1, "a loaded favourite is less of one"

    def test_a_newcomer_gets_its_chance(self) -> None:
        rig = fleet(S.PERFORMANCE_BASED, old=1)
        work(rig, 50, {"old": 10})
        rig.registered("new")
        assert work(rig, 40, {"old": 10, "new": 10})["new"] >= 5

    def test_one_failure_does_not_condemn(self) -> None:
        performance = Performance()
        assert performance.quality("a", "t") == PRIOR_SUCCESS
        performance.observe("a", "t", succeeded=False, run_ms=1)
        assert performance.quality("a", "t") > PRIOR_SUCCESS / 2
        assert performance.quality("a", "other") == PRIOR_SUCCESS, "each type has its own record"

    def test_it_learns_anew(self) -> None:
        performance = Performance()
        for succeeded in [False] * 50 + [True] * 50:
            performance.observe("a", "t", succeeded=succeeded, run_ms=5)
        assert performance.quality("a", "t") > 0.9
        assert (performance.success_rate("a") or 0) > 0.99

    def test_what_it_remembers_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("callboard.orchestrator.core.performance.REMEMBERED", 10)
        performance = Performance()
        for number in range(100):
            performance.observe(f"a{number}", f"t{number}", succeeded=True, run_ms=5)
        assert len(performance._records) == len(performance._by_agent) == len(performance._best) == 10

    def test_who_is_forgotten_leaves_nothing_behind(self) -> None:
        rig = Rig()
        for agent_id in ("a", "b"):
            rig.registered(agent_id)
            for task_type in ("lint", "review"):
                task_id = rig.submit(type=task_type, requires=Requirements(agent_id=agent_id))
                rig.accept(task_id)
                rig.complete(task_id)
        rig.leave("a")
        rig.wait(24 * 3_600_000 + 5_000)  # the lease of the other one has begun to count later
        performance = rig.machine.pool.performance
        assert set(performance._by_agent) == {"b"}
        assert set(performance._records) == {("b", "lint"), ("b", "review")}


@pytest.mark.parametrize("strategy", list(TaskAssignmentStrategy))
class TestEveryStrategy:
    def test_a_retry_prefers_another_agent(self, strategy: TaskAssignmentStrategy) -> None:
        for seed in range(20):
            rig = fleet(strategy, seed=seed, a=5, b=5, c=5)
            task_id = rig.submit(backoff=Backoff(initial_ms=0))
            first = rig.task(task_id).agent_id
            rig.fail(task_id)
            rig.wait(0)
            assert rig.task(task_id).agent_id != first

    def test_and_takes_the_same_when_there_is_no_other(self, strategy: TaskAssignmentStrategy) -> None:
        rig = fleet(strategy, a=1)
        task_id = rig.submit(backoff=Backoff(initial_ms=0))
        rig.fail(task_id)
        rig.wait(0)
        assert rig.task(task_id).agent_id == "a"

    def test_it_is_the_tasks_own_before_the_pools(self, strategy: TaskAssignmentStrategy) -> None:
        other = S.CAPABILITY_MATCH if strategy is not S.CAPABILITY_MATCH else S.AVAILABILITY_BASED
        rig = Rig(CoreSettings(strategy=other))
        rig.registered("tight", slots=2)
        rig.registered("wide", slots=20, capabilities=["x", "y"])
        place(rig, strategy=S.ROUND_ROBIN)
        place(rig, strategy=S.ROUND_ROBIN)
        wanted = {S.CAPABILITY_MATCH: "tight", S.AVAILABILITY_BASED: "wide"}
        if strategy in wanted:
            assert place(rig, strategy=strategy) == wanted[strategy]
        else:
            assert place(rig, strategy=strategy) in {"tight", "wide"}

    def test_nobody_gets_more_than_its_slots(self, strategy: TaskAssignmentStrategy) -> None:
        rig = fleet(strategy, a=2, b=3)
        placed = Counter(place(rig) for _ in range(9))
        assert placed == {"a": 2, "b": 3, "None": 4}


class TestSampling:
    def test_all_are_drawn_when_they_are_few(self) -> None:
        drawn = SampleSet()
        for item in "abc":
            drawn.add(item)
        drawn.discard("b")
        drawn.add("a")
        assert sorted(drawn.sample(10, Dice(1))) == ["a", "c"]

    @pytest.mark.parametrize(("count", "most"), [(100, 7), (65, 64), (127, 64), (128, 64), (100, 1)])
    def test_a_sample_is_even_and_without_repeats(self, count: int, most: int) -> None:
        drawn = SampleSet()
        for number in range(count):
            drawn.add(str(number))
        dice, seen = Dice(1), Counter[str]()
        for _ in range(20_000 // most):
            sample = drawn.sample(most, dice)
            assert len(set(sample)) == most
            seen.update(sample)
        assert len(seen) == count
        assert max(seen.values()) < 2 * min(seen.values())

    def test_an_empty_one_gives_nothing(self) -> None:
        assert SampleSet().sample(5, Dice(1)) == []
