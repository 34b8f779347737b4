"""Drain, resume, shutdown: what operators ask of agents (protocol, sections 3 and 5)."""

from tests.support.core_rig import Rig

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.settings import CoreSettings
from callboard.schemas.agents import AgentChange
from callboard.schemas.tasks import AttemptRef
from callboard.schemas.vocabulary import AgentState, Outcome


def changed(answer: object) -> bool:
    assert isinstance(answer, AgentChange), answer
    return answer.changed


def running(rig: Rig) -> str:
    task_id = rig.submit()
    rig.accept(task_id)
    return task_id


def test_a_drained_agent_finishes_and_takes_nothing() -> None:
    rig = Rig()
    rig.registered(slots=2)
    task_id = running(rig)
    answer = rig.drain()
    assert (changed(answer), changed(rig.drain())) == (True, False)
    assert len(rig.take(do.SendDrain)) == 1
    waiting = rig.submit()
    assert rig.beat("a", (task_id, 1)).drain
    rig.complete(task_id)
    assert (rig.state(task_id), rig.state(waiting)) == ("succeeded", "queued")
    assert rig.pool_agent("a").state is AgentState.DRAINING
    assert (changed(rig.resume()), changed(rig.resume())) == (True, False)
    assert rig.state(waiting) == "assigned"
    assert not rig.beat("a").drain


def test_the_operators_drain_survives_incarnations_and_owners() -> None:
    rig = Rig()
    rig.registered()
    rig.drain()
    assert rig.registered(incarnation="a-2").drain
    rig.restart()
    assert rig.registered(incarnation="a-3").drain
    task_id = rig.submit()
    assert rig.state(task_id) == "queued"
    rig.resume()
    assert rig.state(task_id) == "assigned"


def test_resume_does_not_end_the_agents_own_drain() -> None:
    rig = Rig()
    rig.registered(draining=True)
    rig.drain()
    rig.resume()
    assert rig.state(rig.submit()) == "queued"


def test_when_the_grace_of_a_drain_is_over_its_tasks_are_released() -> None:
    rig = Rig()
    rig.registered()
    task_id = running(rig)
    rig.drain(grace_ms=3_000)
    rig.wait(2_999)
    assert rig.state(task_id) == "running"
    rig.take(do.SendCancel)
    rig.wait(1)
    assert rig.outcomes(task_id) == [Outcome.RELEASED]
    assert [(cancel.task_id, cancel.attempt) for cancel in rig.take(do.SendCancel)] == [(task_id, 1)]
    assert rig.task(task_id).spent == 0


def test_resumed_in_time_nothing_is_released() -> None:
    rig = Rig()
    rig.registered()
    task_id = running(rig)
    rig.drain(grace_ms=3_000)
    rig.resume()
    rig.wait(3_000)
    assert rig.state(task_id) == "running"


def test_shutdown_tells_the_agent_and_gives_it_up_after_its_grace() -> None:
    rig = Rig()
    rig.registered()
    task_id = running(rig)
    answer = rig.shut_down(grace_ms=2_000)
    assert (changed(answer), changed(rig.shut_down())) == (True, False)
    assert [order.grace_ms for order in rig.take(do.SendShutdown)] == [2_000]
    rig.wait(2_000)
    assert rig.outcomes(task_id) == [Outcome.RELEASED]
    assert rig.pool_agent("a").state is AgentState.STOPPED
    assert rig.error_code(rig.beat_of("a", "a-1")) == "incarnation_replaced", "so that it stops"
    assert changed(rig.shut_down()) is False


def test_shutdown_of_a_spawned_agent_stops_its_process() -> None:
    rig = Rig(CoreSettings(shutdown_grace_ms=4_000))
    rig.tell(ev.AgentSpawned(agent_id="a"))
    rig.registered()
    rig.shut_down()
    assert [stop.grace_ms for stop in rig.take(do.StopProcess)] == [4_000]


def test_an_agent_that_leaves_in_time_is_stopped_once() -> None:
    rig = Rig()
    rig.registered()
    rig.shut_down(grace_ms=2_000)
    rig.leave("a")
    rig.take(do.PublishAgent)
    rig.wait(3_000)
    assert rig.take(do.PublishAgent) == []


def test_registering_again_is_no_way_out_of_a_shutdown() -> None:
    rig = Rig()
    rig.registered()
    task_id = running(rig)
    rig.shut_down(grace_ms=2_000)
    rig.registered(running=[AttemptRef(task_id=task_id, attempt=1)])
    assert rig.state(rig.submit()) == "queued"
    rig.wait(2_000)
    assert rig.pool_agent("a").state is AgentState.STOPPED


def test_who_signs_in_again_while_being_shut_down_is_told_to_take_nothing() -> None:
    rig = Rig()
    rig.registered()
    rig.shut_down(grace_ms=2_000)
    assert rig.registered().drain
    assert rig.beat("a").drain
    assert not rig.registered(incarnation="a-2").drain, "the shutdown was not meant for this process"


def test_neither_drain_nor_resume_puts_a_shutdown_off() -> None:
    rig = Rig()
    rig.registered()
    rig.drain()
    rig.shut_down(grace_ms=2_000)
    rig.resume()
    rig.drain(grace_ms=60_000)
    rig.wait(2_000)
    assert rig.pool_agent("a").state is AgentState.STOPPED


def test_a_new_process_is_not_shut_down_with_the_old_one() -> None:
    rig = Rig()
    rig.registered()
    rig.drain()
    rig.shut_down(grace_ms=2_000)
    rig.registered(incarnation="a-2")
    rig.resume()
    task_id = running(rig)
    rig.drain()
    rig.wait(2_500)
    assert rig.pool_agent("a").state is AgentState.DRAINING
    assert rig.task(task_id).state == "running", "the old grace is not this one's"


def test_unknown_agents_are_not_found() -> None:
    rig = Rig()
    for answer in (rig.drain("x"), rig.resume("x"), rig.shut_down("x")):
        assert rig.error_code(answer) == "agent_not_found"
