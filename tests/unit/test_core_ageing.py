"""Ageing: off, the protocol's order; on, a waiting task rises one class after each so long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.core_rig import Rig

from callboard.orchestrator.core.settings import CoreSettings
from callboard.schemas.tasks import Requirements
from callboard.schemas.vocabulary import TaskPriority, TaskState

LOW, NORMAL, HIGH, CRITICAL = TaskPriority
AGEING_MS = 1_000
TYPES = ("a", "b")


def run_in_order(rig: Rig, ids: list[str]) -> list[int]:
    """The order in which one agent with one slot gets these tasks."""
    rig.registered("one", slots=1)
    order = []
    for _ in ids:
        (task_id,) = [task_id for task_id in ids if task_id in rig.machine.pool.tasks and is_held(rig, task_id)]
        order.append(ids.index(task_id))
        rig.accept(task_id)
        rig.complete(task_id)
    return order


def is_held(rig: Rig, task_id: str) -> bool:
    return rig.task(task_id).state is TaskState.ASSIGNED


@pytest.mark.parametrize(("ageing_ms", "expected"), [(0, [1, 0]), (AGEING_MS, [0, 1])])
def test_an_old_task_passes_a_young_one_of_a_higher_class_only_where_that_is_wanted(
    ageing_ms: int, expected: list[int]
) -> None:
    rig = Rig(CoreSettings(ageing_ms=ageing_ms))
    old = rig.submit(priority=LOW)
    rig.wait(AGEING_MS)
    young = rig.submit(priority=NORMAL)
    assert run_in_order(rig, [old, young]) == expected


def test_nothing_rises_above_critical_and_the_older_is_first_there() -> None:
    rig = Rig(CoreSettings(ageing_ms=AGEING_MS))
    critical = rig.submit(priority=CRITICAL)
    rig.wait(10)
    low = rig.submit(priority=LOW)
    rig.wait(AGEING_MS * 50)
    assert run_in_order(rig, [low, critical]) == [1, 0]


def test_it_counts_from_not_before() -> None:
    rig = Rig(CoreSettings(ageing_ms=AGEING_MS))
    delayed = rig.submit(priority=LOW, delay_ms=AGEING_MS * 5)
    rig.wait(AGEING_MS * 5)
    young = rig.submit(priority=NORMAL)
    assert run_in_order(rig, [delayed, young]) == [1, 0]


@given(
    tasks=st.lists(
        st.tuples(st.sampled_from(list(TaskPriority)), st.integers(0, 2_500), st.sampled_from(TYPES)),
        min_size=1,
        max_size=8,
    )
)
def test_the_order_is_that_of_a_plain_sort_over_all_classes(tasks: list[tuple[TaskPriority, int, str]]) -> None:
    rig = Rig(CoreSettings(ageing_ms=AGEING_MS))
    born: list[tuple[str, TaskPriority, int]] = []
    for priority, pause_ms, kind in tasks:
        rig.wait(pause_ms)
        task_id = rig.submit(type=kind, priority=priority, requires=Requirements(agent_id="one"))
        born.append((task_id, priority, rig.now_ms))
    now_ms = rig.now_ms

    def effective(entry: tuple[str, TaskPriority, int]) -> tuple[int, int, str]:
        task_id, priority, at_ms = entry
        return (-min(priority.rank + (now_ms - at_ms) // AGEING_MS, 3), at_ms, task_id)

    ids = [task_id for task_id, _, _ in born]
    assert run_in_order(rig, ids) == [ids.index(entry[0]) for entry in sorted(born, key=effective)]
