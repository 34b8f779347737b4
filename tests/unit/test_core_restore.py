"""A take-over: what the committed changes restore to is the machine that committed them."""

import random

import pytest
from tests.support.core_rig import Rig

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.machine import Machine
from callboard.orchestrator.core.sealing import agent_row, task_columns
from callboard.orchestrator.core.timers import TASK_CLOCKS
from callboard.schemas.tasks import AttemptRef, Backoff, Requirements, TaskError
from callboard.schemas.vocabulary import AgentState, TaskPriority, TaskState


def shape(machine: Machine) -> dict[str, object]:
    """All that two machines of one pool must agree on, whoever of them took over."""
    pool = machine.pool
    return {
        "tasks": {
            task.task_id: (task_columns(task), task.last_end, task.written, task.dialogue)
            for task in pool.tasks.values()
        },
        "agents": {agent_id: agent_row(agent) for agent_id, agent in pool.agents.items()},
        "counts": {state: count for state, count in pool.counts.items() if not state.is_final},
        "waiting": {
            (placement.needs, lane.strand.key, lane.rank): sorted(task.order for task in lane)
            for placement in pool.queue.classes
            for lane in placement.lanes
            if len(lane)
        },
        "keys": {
            key: (use.held, use.limits.lowest()) for key in ("k", "l") if (use := pool.queue.keys.find(key)) is not None
        },
        "timers": {key for key in pool.timers if key[0] in TASK_CLOCKS},
        "held": {
            agent_id: {held for held in agent.holds if held[0] in pool.tasks} for agent_id, agent in pool.agents.items()
        },
    }


def walk(rig: Rig, rng: random.Random, steps: int) -> None:
    """Anything, at random, settled after each step and with nothing waiting for a ride."""
    agents = ["a", "b", "c"]
    for agent_id in agents:
        rig.registered(agent_id, slots=2, capabilities=["x"] if agent_id != "c" else [])
    for _ in range(steps):
        held = [task for task in rig.machine.pool.tasks.values() if task.agent_id is not None]
        task_id = rng.choice(held).task_id if held else ""
        match rng.randrange(14 if held else 4):
            case 0 | 1:
                rig.submit(
                    priority=rng.choice(list(TaskPriority)),
                    delay_ms=rng.choice([0, 0, 5_000]),
                    ttl_ms=rng.choice([None, 20_000]),
                    run_timeout_ms=rng.choice([None, 9_000]),
                    requires=rng.choice([None, Requirements(capabilities=["x"])]),
                    backoff=Backoff(initial_ms=4_000),
                    concurrency_key=rng.choice([None, "k", "l"]),
                )
            case 2:
                rig.keep_alive(rng.randrange(4_000), *agents)
            case 3:
                rig.crash(rng.choice(agents))
            case 4 | 5 | 6:
                rig.accept(task_id)
            case 7 | 8:
                rig.complete(task_id)
            case 9:
                rig.fail(task_id, TaskError(message="no"))
            case 10:
                rig.cancel(task_id)
            case 11:
                known = rig.task(task_id).dialogue
                rig.question(task_id, 1 if known is None else known.query + 1)
            case 12:
                rig.answer(task_id)
                if rng.random() < 0.5:
                    rig.acknowledge(task_id)
            case _:
                rig.progress(task_id, rng.randrange(100))
    rig.keep_alive(2_000, *agents)
    for agent_id in agents:
        rig.beat(agent_id, *(held for held, accepted in rig.pool_agent(agent_id).holds.items() if accepted))


@pytest.mark.parametrize("seed", range(25))
def test_the_committed_changes_restore_to_an_equal_machine(seed: int) -> None:
    rig = Rig(seed=seed)
    walk(rig, random.Random(seed), 40)  # noqa: S311 - a replayable walk
    before = shape(rig.machine)
    # What was heard since an agent's row was written is not in it, and a restored one was heard just now.
    for agent in rig.machine.pool.agents.values():
        agent.seen_ms = rig.now_ms
    before["agents"] = {agent_id: agent_row(agent) for agent_id, agent in rig.machine.pool.agents.items()}
    rig._take_over()
    rig.read_all()
    assert shape(rig.machine) == before


def test_offers_are_made_again_and_what_runs_is_left_to_run() -> None:
    rig = Rig()
    rig.registered(slots=2)
    ran, offered = rig.submit(), rig.submit()
    rig.accept(ran)
    rig.wait(900)
    rig.cancel(rig.submit())
    rig.take(do.SendOffer)
    rig.restart()
    assert [(offer.task_id, offer.attempt) for offer in rig.take(do.SendOffer)] == [(offered, 1)]
    assert (rig.task(ran).state, rig.task(ran).attempt) == (TaskState.RUNNING, 1)
    rig.complete(ran)
    assert rig.state(ran) == "succeeded"


def test_an_accept_that_was_never_written_is_learnt_from_the_next_heartbeat() -> None:
    rig = Rig()
    rig.registered()
    task_id = rig.submit()
    rig.accept(task_id)
    rig.restart()
    assert rig.task(task_id).state is TaskState.ASSIGNED
    assert rig.beat("a", (task_id, 1)).cancel == []
    assert (rig.task(task_id).state, rig.task(task_id).attempt) == (TaskState.RUNNING, 1)


def test_the_epoch_rises_with_each_owner() -> None:
    rig = Rig()
    assert rig.registered().epoch == 1
    rig.restart()
    assert rig.registered(running=[]).epoch == 2


def test_what_was_not_committed_never_was() -> None:
    rig = Rig()
    rig.registered()
    task_id = rig.submit()
    rig.tell(rig.reported(task_id))
    rig.seal()
    rig.restart()
    assert rig.task(task_id).state is TaskState.ASSIGNED


def test_a_spawned_agent_that_never_came_up_gets_nothing_from_a_new_owner() -> None:
    rig = Rig()
    rig.tell(ev.AgentSpawned(agent_id="a"))
    rig.drain("a")
    rig.resume("a")
    rig.restart()
    task_id = rig.submit()
    assert rig.state(task_id) == "queued"
    assert rig.pool_agent("a").state is AgentState.STOPPED
    rig.registered("a")
    assert rig.state(task_id) == "assigned"


def test_agents_that_are_gone_stay_gone() -> None:
    rig = Rig()
    rig.registered("left")
    rig.leave("left")
    rig.registered("silent")
    rig.wait(60_000)
    rig.restart()
    assert rig.pool_agent("left").state is AgentState.STOPPED
    assert rig.pool_agent("silent").state is AgentState.OFFLINE
    rig.beat("silent")
    assert rig.pool_agent("silent").state is AgentState.ONLINE


def test_a_claim_after_a_take_over_by_a_new_process_is_kept() -> None:
    rig = Rig()
    rig.registered()
    task_id = rig.submit()
    rig.accept(task_id)
    rig.restart()
    rig.registered(incarnation="a-2", running=[AttemptRef(task_id=task_id, attempt=1)])
    assert rig.task(task_id).incarnation == "a-2"
    rig.complete(task_id)
    assert rig.state(task_id) == "succeeded"


def test_an_attempt_that_ends_in_the_first_batch_is_not_offered_again() -> None:
    rig = Rig()
    rig.registered()
    task_id = rig.submit()
    rig.take(do.SendOffer)
    rig._take_over()
    rig.tell(ev.CancelRequested(ticket=rig.ticket(), task_id=task_id))
    rig.settle()
    assert rig.take(do.SendOffer) == []
