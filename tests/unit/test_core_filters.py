"""The index of placement against a plain recomputation, over random fleets and tasks (design: filters are complete)."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.core_rig import Rig

from callboard.orchestrator.core.filters import mismatch
from callboard.orchestrator.core.model import Agent, Needs
from callboard.orchestrator.core.settings import CoreSettings
from callboard.schemas.tasks import Requirements
from callboard.schemas.vocabulary import AgentState, TaskAssignmentStrategy, TaskState

CAPABILITIES = st.lists(st.sampled_from("xyz"), max_size=3)
ROLES = st.sampled_from([None, "reader", "writer"])
AGENTS = st.tuples(st.sampled_from("abcd"), ROLES, CAPABILITIES, st.integers(1, 3))
TASKS = st.tuples(
    st.sampled_from(["t", "u"]), ROLES, st.sampled_from([None, None, *"abcd"]), CAPABILITIES, st.integers(0, 3)
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("agent"), AGENTS),
        st.tuples(st.just("task"), TASKS),
        st.tuples(
            st.sampled_from(["drain", "resume", "leave", "unsupported", "decline", "fail", "done", "time"]), AGENTS
        ),
    ),
    max_size=40,
)


def may_run(task_needs: Needs, agent: Agent) -> bool:
    """The filters, said in another way than the core's."""
    return (
        task_needs.agent_id in {None, agent.agent_id}
        and task_needs.role in {None, agent.role}
        and all(capability in agent.capabilities for capability in task_needs.capabilities)
        and task_needs.type not in agent.unsupported
    )


@given(AGENTS, TASKS, st.booleans())
def test_the_filter_says_what_the_protocol_says(
    agent_facts: tuple[str, str | None, list[str], int],
    task_facts: tuple[str, str | None, str | None, list[str], int],
    unsupported: bool,
) -> None:
    agent_id, role, capabilities, slots = agent_facts
    agent = Agent(
        agent_id=agent_id,
        liveness=AgentState.ONLINE,
        role=role,
        capabilities=frozenset(capabilities),
        slots=slots,
        unsupported={"t"} if unsupported else set(),
    )
    task_type, wanted_role, wanted_id, wanted, _ = task_facts
    needs = Needs(type=task_type, role=wanted_role, agent_id=wanted_id, capabilities=frozenset(wanted))
    assert (mismatch(needs, agent) is None) == may_run(needs, agent)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TaskAssignmentStrategy), STEPS)
def test_no_strategy_weakens_a_filter_and_nobody_waits_for_a_free_agent(
    strategy: TaskAssignmentStrategy, steps: list[tuple[str, tuple[Any, ...]]]
) -> None:
    rig = Rig(CoreSettings(strategy=strategy))
    for what, facts in steps:
        apply(rig, what, facts)
        for task in rig.machine.pool.tasks.values():
            agents = rig.machine.pool.agents.values()
            if task.state is TaskState.QUEUED:
                free = [a.agent_id for a in agents if may_run(task.needs, a) and a.obstacle is None]
                assert free == [], f"{task.needs} waits, and these are free"
            elif task.state is TaskState.ASSIGNED and task.changed_in == rig.machine.pool.committed:
                assert may_run(task.needs, rig.pool_agent(str(task.agent_id)))


def apply(rig: Rig, what: str, facts: tuple[Any, ...]) -> None:
    agent_id = str(facts[0])
    agent = rig.machine.pool.agents.get(agent_id)
    held = [task.task_id for task in rig.machine.pool.tasks.values() if task.state is TaskState.ASSIGNED]
    match what:
        case "agent":
            register(rig, facts)
        case "task":
            submit(rig, facts)
        case "drain" if agent is not None:
            rig.drain(agent_id)
        case "resume" if agent is not None:
            rig.resume(agent_id)
        case "leave" if agent is not None and agent.incarnation is not None:
            rig.leave(agent_id)
        case "unsupported" if held:
            rig.decline(held[0], "unsupported")
        case "decline" if held:
            rig.decline(held[0], "busy")
        case "fail" if held:
            rig.fail(held[0])
        case "done" if held:
            rig.complete(held[0])
        case "time":
            rig.wait(700)
        case _:
            pass


def register(rig: Rig, facts: tuple[Any, ...]) -> None:
    agent_id, role, capabilities, slots = facts
    agent = rig.machine.pool.agents.get(str(agent_id))
    count = 1 + (0 if agent is None else len(agent.replaced) + (agent.incarnation is not None))
    rig.registered(
        str(agent_id), incarnation=f"{agent_id}-{rig.now_ms}-{count}", role=role, capabilities=capabilities, slots=slots
    )


def submit(rig: Rig, facts: tuple[Any, ...]) -> None:
    task_type, role, agent_id, capabilities, _ = facts
    rig.submit(type=task_type, requires=Requirements(role=role, agent_id=agent_id, capabilities=capabilities))
