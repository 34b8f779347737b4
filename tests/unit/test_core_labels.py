"""Labels: all comparisons, what requires them filters, what prefers them scores, and affinity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.core_rig import Rig

from callboard.orchestrator.core.filters import mismatch
from callboard.orchestrator.core.labels import label_test
from callboard.orchestrator.core.specs import needs_of
from callboard.schemas.labels import LabelMatch, LabelOp, LabelValue, Preference
from callboard.schemas.tasks import Backoff, Requirements, TaskError, TaskSpec
from callboard.schemas.vocabulary import TaskAssignmentStrategy, TaskState

LABELS: dict[str, LabelValue] = {"region": "eu", "cores": 8, "load": 0.5, "gpu": True}


def holds(key: str, op: str, value: object = None) -> bool:
    return label_test(LabelMatch(key=key, op=LabelOp(op), value=value)).holds(LABELS)  # type: ignore[arg-type] # any value


@pytest.mark.parametrize(
    ("key", "op", "value", "expected"),
    [
        ("region", "=", "eu", True), ("region", "=", "us", False),
        ("region", "!=", "us", True), ("region", "!=", "eu", False),
        ("region", "in", ["us", "eu"], True), ("region", "in", ["us"], False), ("region", "not_in", ["us"], True),
        ("region", "not_in", ["us", "eu"], False), ("region", "exists", None, True),
        ("cores", "=", 8.0, True), ("cores", "=", "8", False), ("cores", ">", 7, True), ("cores", ">", 8, False),
        ("cores", ">=", 8, True), ("cores", "<", 8.5, True), ("cores", "<", 8, False), ("cores", "<=", 8, True),
        ("load", "<", 1, True), ("gpu", "=", True, True), ("gpu", "=", 1, False), ("gpu", ">", 0, False),
        ("region", ">", 0, False),
        ("absent", "=", "x", False), ("absent", "!=", "x", True), ("absent", "in", ["x"], False),
        ("absent", "not_in", ["x"], True), ("absent", ">", 0, False), ("absent", "<=", 0, False),
        ("absent", "exists", None, False),
    ],
)  # fmt: skip
def test_comparisons(key: str, op: str, value: object, *, expected: bool) -> None:
    assert holds(key, op, value) is expected


@pytest.mark.parametrize(
    ("op", "value"),
    [("exists", 1), ("in", "eu"), ("not_in", None), (">", "8"), (">", True), ("<=", None), ("=", None), ("!=", ["eu"])],
)
def test_a_comparison_that_means_nothing_is_refused(op: str, value: object) -> None:
    with pytest.raises(ValueError, match="value: "):
        LabelMatch(key="k", op=LabelOp(op), value=value)  # type: ignore[arg-type] # any value


def test_true_and_one_are_different_classes() -> None:
    needs = [
        needs_of(
            TaskSpec(type="t", requires=Requirements(labels=[LabelMatch(key="k", op=LabelOp.EQUALS, value=value)]))
        )
        for value in (True, 1, "1")
    ]
    assert len(set(needs)) == 3


VALUES = st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from(["a", "b"]))


@given(
    labels=st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3),
    tests=st.lists(
        st.one_of(
            st.tuples(st.sampled_from("xyz"), st.sampled_from([LabelOp.EQUALS, LabelOp.DIFFERS]), VALUES),
            st.tuples(st.sampled_from("xyz"), st.sampled_from([LabelOp.GREATER, LabelOp.AT_MOST]), st.integers(-3, 3)),
            st.tuples(st.sampled_from("xyz"), st.just(LabelOp.NOT_IN), st.lists(VALUES, min_size=1, max_size=3)),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_an_agent_is_eligible_if_every_comparison_holds(
    labels: dict[str, LabelValue], tests: list[tuple[str, LabelOp, LabelValue | list[LabelValue]]]
) -> None:
    rig = Rig()
    rig.registered("a", labels=labels)
    matches = [LabelMatch(key=key, op=op, value=value) for key, op, value in tests]
    task = rig.task(rig.submit(requires=Requirements(labels=matches)))
    fits = all(label_test(match).holds(labels) for match in matches)
    assert (task.state is TaskState.ASSIGNED) is fits
    assert (mismatch(task.needs, rig.machine.pool.agents["a"]) is None) is fits


@pytest.mark.parametrize("strategy", list(TaskAssignmentStrategy))
def test_preferences_weigh_more_than_the_strategy_and_exclude_nobody(strategy: TaskAssignmentStrategy) -> None:
    rig = Rig()
    rig.registered("near", labels={"zone": "a"}, slots=2)
    rig.registered("far", labels={"zone": "b"}, slots=100)
    prefers = [Preference(key="zone", op=LabelOp.EQUALS, value="a", weight=1)]
    placed = [rig.task(rig.submit(strategy=strategy, prefers=prefers)).agent_id for _ in range(3)]
    assert placed == ["near", "near", "far"]


def test_the_share_of_the_weights_decides_among_preferences() -> None:
    rig = Rig()
    rig.registered("one", labels={"gpu": True})
    rig.registered("other", labels={"zone": "a"})
    prefers = [
        Preference(key="gpu", op=LabelOp.EXISTS, weight=1),
        Preference(key="zone", op=LabelOp.EQUALS, value="a", weight=3),
    ]
    assert rig.task(rig.submit(prefers=prefers)).agent_id == "other"


class TestAffinity:
    def test_the_agent_that_ran_the_key_last_gets_it_again_even_among_very_many(self) -> None:
        rig = Rig()
        for number in range(300):
            rig.registered(f"a{number:03}", slots=2)
        first = rig.submit(affinity_key="k")
        home = rig.task(first).agent_id
        rig.accept(first)
        assert {rig.task(rig.submit(affinity_key="k")).agent_id} == {home}

    def test_it_overrides_no_requirement_and_no_lack_of_room(self) -> None:
        rig = Rig()
        rig.registered("home", capabilities=["x"])
        first = rig.submit(affinity_key="k")
        rig.accept(first)
        rig.registered("full-up-else", capabilities=["y"])
        elsewhere = rig.submit(affinity_key="k", requires=Requirements(capabilities=["y"]))
        assert rig.task(elsewhere).agent_id == "full-up-else"

    def test_a_retry_avoids_even_it(self) -> None:
        rig = Rig()
        rig.registered("home")
        task_id = rig.submit(affinity_key="k", backoff=Backoff(initial_ms=10))
        rig.accept(task_id)
        rig.registered("other")
        rig.fail(task_id, TaskError(message="no", retryable=True))
        rig.wait(20)
        assert rig.task(task_id).agent_id == "other"
