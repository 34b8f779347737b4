"""Explaining a decision: by the same filters, for every reason, with what would end it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.core_rig import Rig

from callboard.orchestrator.core.why import SHOWN_AGENTS, explain_needs, explain_task
from callboard.schemas.labels import LabelMatch, LabelOp, Preference
from callboard.schemas.tasks import Requirements
from callboard.schemas.vocabulary import TaskPriority, TaskState
from callboard.schemas.why import Why


def why(rig: Rig, task_id: str) -> Why:
    return explain_task(rig.machine.pool, rig.task(task_id))


def test_every_reason_of_an_agent_is_counted_once_by_the_first_that_holds() -> None:
    rig = Rig()
    needs = Requirements(role="r", capabilities=["x"], labels=[LabelMatch(key="zone", op=LabelOp.EQUALS, value="a")])
    fit = {"role": "r", "capabilities": ["x"], "labels": {"zone": "a"}}
    rig.registered("other-role", **{**fit, "role": "s"})
    rig.registered("incapable", **{**fit, "capabilities": []})
    rig.registered("elsewhere", **{**fit, "labels": {"zone": "b"}})
    rig.registered("leaving", **fit, draining=True)
    rig.registered("full", **fit)
    rig.accept(rig.submit(requires=Requirements(agent_id="full")))
    seen = why(rig, rig.submit(requires=needs))
    assert seen.excluded == {"role": 1, "capability:x": 1, "label:zone": 1, "draining": 1, "no_slot": 1}
    assert seen.candidates == 2
    assert {(agent.agent_id, agent.reason) for agent in seen.agents or ()} == {
        ("other-role", "role"), ("incapable", "capability:x"), ("elsewhere", "label:zone"),
        ("leaving", "draining"), ("full", "no_slot"),
    }  # fmt: skip
    assert sorted(seen.unblocked_by or ()) == [
        "1 draining agents are resumed",
        "a slot of one of 1 busy agents becomes free",
    ]


def test_declined_silent_and_lost_agents_are_told_apart() -> None:
    rig = Rig()
    interval_ms = rig.registered("a").heartbeat_interval_ms
    task_id = rig.submit()
    rig.decline(task_id, retry_after_ms=interval_ms * 10)
    assert why(rig, task_id).excluded == {"declined": 1}
    rig.wait(interval_ms * 2)
    assert why(rig, task_id).excluded == {"suspect": 1}
    rig.wait(interval_ms * 2)
    assert why(rig, task_id).excluded == {"offline": 1}


def test_an_agent_that_left_is_compared_no_more() -> None:
    rig = Rig()
    rig.registered("left", capabilities=["x"])
    rig.registered("here")
    rig.leave("left")
    needs = Requirements(capabilities=["x"])
    seen = why(rig, rig.submit(requires=needs))
    assert (seen.candidates, seen.excluded) == (0, {"capability:x": 1})
    assert [agent.agent_id for agent in seen.agents or ()] == ["here"]
    assert seen.unblocked_by == ["an agent signs in with capability x"]
    rig.leave("here")
    seen = why(rig, rig.submit(requires=needs))
    assert (seen.candidates, seen.excluded, seen.agents) == (0, {}, [])
    assert seen.unblocked_by == ["an agent signs in with capability x"]


def test_what_nobody_could_ever_take_says_what_is_wanted() -> None:
    rig = Rig()
    rig.registered("a", capabilities=["y"])
    seen = why(rig, rig.submit(requires=Requirements(role="r", capabilities=["x"])))
    assert (seen.candidates, seen.unblocked_by) == (0, ["an agent signs in with role r and capability x"])


def test_a_deferred_task_waits_for_its_time() -> None:
    rig = Rig()
    seen = why(rig, rig.submit(delay_ms=1_000))
    assert (seen.state, seen.excluded) == (TaskState.DEFERRED, {"not_before": 1})
    assert seen.unblocked_by is not None
    assert seen.unblocked_by[0].startswith("its time comes (not_before: 20")


def test_the_position_is_that_of_the_protocols_order() -> None:
    rig = Rig()
    ids = [rig.submit(priority=priority) for priority in (TaskPriority.LOW, TaskPriority.NORMAL, TaskPriority.NORMAL)]
    ids.append(rig.submit(priority=TaskPriority.CRITICAL))
    rig.submit(requires=Requirements(capabilities=["another", "class"]))
    assert [why(rig, task_id).position for task_id in ids] == [4, 2, 3, 1]


def test_at_most_twenty_agents_are_named_and_all_are_counted() -> None:
    rig = Rig()
    for number in range(30):
        rig.registered(f"a{number:02}")
    seen = why(rig, rig.submit(requires=Requirements(capabilities=["x"])))
    assert seen.excluded == {"capability:x": 30}
    assert len(seen.agents or ()) == SHOWN_AGENTS


def test_a_placed_task_shows_the_scores_by_which_its_agent_was_chosen_and_a_finished_attempt_keeps_them() -> None:
    rig = Rig()
    for number in range(8):
        rig.registered(f"a{number}", labels={"n": number})
    prefers = [Preference(key="n", op=LabelOp.EQUALS, value=3, weight=1)]
    task_id = rig.submit(prefers=prefers)
    scores = why(rig, task_id).scores or []
    assert len(scores) == 5
    assert scores[0].agent_id == "a3" == rig.task(task_id).agent_id
    assert scores[0].parts == {"availability_based": 1.0, "prefers": 2.0}
    assert all(score.total == pytest.approx(sum(score.parts.values())) for score in scores)
    assert [score.total for score in scores] == sorted((score.total for score in scores), reverse=True)
    rig.accept(task_id)
    rig.complete(task_id)
    (change,) = [change for change in rig.batches[-1].changes.tasks if change.columns.task_id == task_id]
    assert list(change.ended[-1].scores) == scores


@given(
    st.lists(st.tuples(st.sets(st.sampled_from("xy")), st.integers(0, 2)), max_size=6), st.sets(st.sampled_from("xy"))
)
def test_an_agent_is_excluded_exactly_if_it_would_not_get_the_task(
    fleet: list[tuple[set[str], int]], wanted: set[str]
) -> None:
    rig = Rig()
    for number, (capabilities, held) in enumerate(fleet):
        agent_id = f"a{number}"
        rig.registered(agent_id, capabilities=sorted(capabilities), slots=2)
        for _ in range(held):
            rig.submit(requires=Requirements(agent_id=agent_id))
    pool = rig.machine.pool
    task_id = rig.submit(requires=Requirements(capabilities=sorted(wanted)))
    task = rig.task(task_id)
    if task.state is TaskState.QUEUED:
        assert sum((why(rig, task_id).excluded or {}).values()) == len(fleet)
    else:
        others = explain_needs(pool, task.needs).agents or []
        full = len(pool.agents[task.agent_id or ""].holds) == 2
        assert (task.agent_id in {agent.agent_id for agent in others}) is full
