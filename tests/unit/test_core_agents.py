"""Register, heartbeat, listings and leave (protocol, section 3)."""

import msgspec
from tests.support.core_rig import Rig

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.settings import CoreSettings
from callboard.schemas.agents import Heartbeat, HeartbeatAnswer, Register
from callboard.schemas.base import Nothing
from callboard.schemas.errors import StaleAttemptError
from callboard.schemas.tasks import AttemptRef, Requirements
from callboard.schemas.vocabulary import AgentState, Outcome


def running(rig: Rig, **fields: object) -> str:
    task_id = rig.submit(**fields)
    rig.accept(task_id)
    return task_id


def claim(task_id: str, attempt: int = 1) -> AttemptRef:
    return AttemptRef(task_id=task_id, attempt=attempt)


class TestRegister:
    def test_the_answer_says_all(self) -> None:
        rig = Rig()
        answer = rig.registered("a")
        assert (answer.agent_id, answer.pool, answer.epoch) == ("a", "default", 1)
        assert (answer.cancel, answer.drain) == ([], False)

    def test_it_is_answered_after_the_commit(self) -> None:
        rig = Rig()
        ticket = rig.ticket()
        rig.tell(ev.AgentRegistered(ticket=ticket, agent_id="a", message=Register(incarnation="a-1")))
        batch = rig.seal()
        assert ticket not in rig.answers
        rig.commit(batch)
        assert ticket in rig.answers

    def test_the_same_incarnation_updates_what_it_said(self) -> None:
        rig = Rig()
        rig.registered(capabilities=["x"], slots=1)
        task_id = rig.submit(requires=Requirements(role="reader", capabilities=["y"]))
        rig.registered(role="reader", capabilities=["y"], slots=3, labels={"zone": "b"}, version="2")
        agent = rig.pool_agent("a")
        assert (agent.role, agent.capabilities, agent.slots, agent.version) == ("reader", frozenset({"y"}), 3, "2")
        assert agent.labels == {"zone": "b"}
        assert rig.task(task_id).agent_id == "a"

    def test_the_same_incarnation_keeps_what_it_runs(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = running(rig)
        rig.registered(running=[claim(task_id)])
        rig.registered()
        rig.wait(200)
        assert (rig.state(task_id), rig.task(task_id).attempt) == ("running", 1)

    def test_fewer_slots_than_attempts_take_nothing_away(self) -> None:
        rig = Rig()
        rig.registered(slots=2)
        first, second = running(rig), running(rig)
        rig.shrunk.add("a")
        rig.registered(slots=1, running=[claim(first), claim(second)])
        third = rig.submit()
        rig.complete(first)
        assert rig.state(third) == "queued"
        rig.complete(second)
        assert rig.state(third) == "assigned"

    def test_what_a_new_incarnation_does_not_claim_is_lost(self) -> None:
        rig = Rig()
        rig.registered(slots=2)
        ran, offered = running(rig), rig.submit()
        rig.crash("a")
        assert rig.outcomes(ran) == [Outcome.CRASHED]
        assert rig.outcomes(offered) == [Outcome.UNDELIVERED]

    def test_what_a_new_incarnation_claims_is_its_own(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = running(rig)
        late = rig.reported(task_id)
        answer = rig.registered(incarnation="a-2", running=[claim(task_id)])
        assert answer.cancel == []
        assert (rig.task(task_id).incarnation, rig.document(task_id).incarnation) == ("a-2", "a-2")
        assert rig.error_code(rig.report(late)) == "stale_attempt", "the old process has no say"
        rig.complete(task_id)
        assert rig.state(task_id) == "succeeded"

    def test_an_offer_that_is_claimed_was_accepted(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = rig.submit()
        rig.registered(incarnation="a-2", running=[claim(task_id)])
        assert rig.task(task_id).state == "running"

    def test_a_claim_to_what_is_over_is_cancelled(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = running(rig)
        rig.cancel(task_id)
        answer = rig.registered(incarnation="a-2", running=[claim(task_id), claim("task-none")])
        assert answer.cancel == [claim(task_id), claim("task-none")]

    def test_nobody_claims_the_attempt_of_another(self) -> None:
        rig = Rig()
        rig.registered("a")
        task_id = running(rig)
        rig.wait(1_000)
        answer = rig.registered("b", running=[claim(task_id)])
        assert answer.cancel == [claim(task_id)]
        assert rig.task(task_id).agent_id == "a"

    def test_the_last_eight_replaced_incarnations_are_remembered(self) -> None:
        rig = Rig()
        for number in range(1, 11):
            rig.registered(incarnation=f"a-{number}")
        codes = {}
        for number in range(1, 10):
            codes[number] = rig.error_code(rig.beat_of("a", f"a-{number}"))
        assert codes == {1: "unknown_incarnation", **dict.fromkeys(range(2, 10), "incarnation_replaced")}
        assert rig.error_code(rig.agent(incarnation="a-5")) == "incarnation_replaced"
        assert rig.pool_agent("a").incarnation == "a-10"

    def test_the_limit_is_for_newcomers_only(self) -> None:
        rig = Rig(CoreSettings(max_agents=1))
        rig.registered("a")
        assert rig.error_code(rig.agent("b")) == "resource_limit"
        rig.registered("a", incarnation="a-2")

    def test_an_own_drain_is_said_and_unsaid(self) -> None:
        rig = Rig()
        rig.registered(draining=True)
        task_id = rig.submit()
        assert rig.pool_agent("a").state is AgentState.DRAINING
        rig.beat("a", draining=False)
        assert (rig.state(task_id), rig.pool_agent("a").state) == ("assigned", AgentState.ONLINE)


class TestHeartbeat:
    def test_strangers_must_register(self) -> None:
        rig = Rig()
        assert rig.error_code(rig.beat_of("a", "a-1")) == "unknown_incarnation"
        rig.registered("a")
        assert rig.error_code(rig.beat_of("a", "a-2")) == "unknown_incarnation"

    def test_it_is_answered_at_once(self) -> None:
        rig = Rig()
        rig.registered()
        message = Heartbeat(incarnation="a-1", seq=1, running=[])
        effects = rig.tell(ev.HeartbeatReceived(ticket=rig.ticket(), agent_id="a", message=message))
        assert [type(effect) for effect in effects] == [do.Answer]

    def test_a_seq_that_is_not_higher_changes_nothing(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = running(rig)
        rig.beat("a", (task_id, 1), seq=100)
        rig.wait(1_000)
        for _ in range(3):
            rig.beat("a", seq=100)
            rig.beat("a", seq=7, draining=True)
        assert rig.state(task_id) == "running"
        agent = rig.pool_agent("a")
        assert (agent.seen_ms, agent.own_drain) == (rig.now_ms - 1_000, False)

    def test_a_new_incarnation_counts_anew(self) -> None:
        rig = Rig()
        rig.registered()
        rig.beat("a", seq=1_000)
        rig.registered(incarnation="a-2")
        rig.wait(1_000)
        rig.beat("a", seq=0)
        assert rig.pool_agent("a").seen_ms == rig.now_ms

    def test_an_accepted_attempt_missing_twice_running_is_crashed(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = running(rig)
        rig.beat("a")
        rig.beat("a", (task_id, 1))
        rig.beat("a")
        assert rig.task(task_id).state == "running", "not two in a row"
        rig.beat("a")
        assert rig.outcomes(task_id) == [Outcome.CRASHED]

    def test_an_offer_that_is_not_listed_is_not_missing(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = rig.submit()
        for _ in range(5):
            rig.beat("a")
        assert (rig.state(task_id), rig.task(task_id).attempt) == ("assigned", 1)

    def test_an_offer_that_is_listed_was_accepted(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = rig.submit()
        rig.beat("a", (task_id, 1))
        assert rig.task(task_id).state == "running"

    def test_what_is_listed_and_over_comes_back_in_cancel_and_keeps_its_slot(self) -> None:
        rig = Rig()
        rig.registered()
        task_id, waiting = running(rig), rig.submit()
        rig.cancel(task_id)
        assert rig.state(waiting) == "queued"
        assert rig.beat("a", (task_id, 1)).cancel == [claim(task_id)]
        assert rig.state(waiting) == "queued"
        rig.beat("a")
        assert rig.state(waiting) == "assigned"

    def test_what_it_has_reported_keeps_no_slot_though_a_heartbeat_on_its_way_lists_it(self) -> None:
        rig = Rig()
        rig.registered(slots=2)
        done, failed = running(rig), running(rig)
        rig.complete(done)
        rig.fail(failed)
        waiting = [rig.submit(), rig.submit()]
        assert {rig.state(task_id) for task_id in waiting} == {"assigned"}
        for task_id in waiting:
            rig.accept(task_id)
            rig.complete(task_id)
        assert rig.beat("a", *((task_id, 1) for task_id in [done, failed, *waiting])).cancel == []
        rig.registered(slots=2, running=[claim(task_id) for task_id in waiting])
        assert [rig.state(rig.submit()) for _ in range(2)] == ["assigned", "assigned"]

    def test_what_the_process_before_reported_is_cancelled_when_its_successor_claims_it(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = running(rig)
        rig.complete(task_id)
        answer = rig.registered(incarnation="a-2", running=[claim(task_id)])
        assert answer.cancel == [claim(task_id)]

    def test_an_attempt_reported_before_it_was_known_counts_once_it_is(self) -> None:
        """A database that forgot a batch gives the number out again."""
        rig = Rig()
        rig.registered()
        other, task_id = running(rig), rig.submit()
        early = msgspec.structs.replace(rig.reported(other), task_id=task_id, attempt=1)
        assert isinstance(rig.report(early), StaleAttemptError)
        rig.complete(other)
        rig.accept(task_id)
        for _ in range(3):
            rig.wait(1_000)
            rig.beat("a", (task_id, 1))
        assert (rig.task(task_id).state, rig.task(task_id).attempt) == ("running", 1)

    def test_no_more_is_kept_of_what_it_reported_than_can_be_listed(self) -> None:
        rig = Rig()
        agent_id = rig.registered(slots=2).agent_id
        for _ in range(9):
            rig.complete(running(rig))
        assert len(rig.pool_agent(agent_id).reported) == 4

    def test_nothing_is_cancelled_because_of_an_uncommitted_change(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = running(rig)
        rig.wait(1_000)
        rig.tell(ev.CancelRequested(ticket=rig.ticket(), task_id=task_id))
        batch = rig.seal()
        ticket = rig.ticket()
        message = Heartbeat(incarnation="a-1", seq=900, running=[claim(task_id)])
        rig.tell(ev.HeartbeatReceived(ticket=ticket, agent_id="a", message=message))
        answer = rig.answers[ticket]
        assert isinstance(answer, HeartbeatAnswer)
        assert answer.cancel == []
        rig.commit(batch)
        assert rig.beat("a", (task_id, 1), seq=901).cancel == [claim(task_id)]


class TestLeave:
    def test_what_it_held_is_released_free_of_cost(self) -> None:
        rig = Rig()
        rig.registered(slots=2)
        ran, offered = running(rig), rig.submit()
        assert rig.leave("a") == Nothing()
        assert rig.outcomes(ran) == rig.outcomes(offered) == [Outcome.RELEASED]
        assert rig.task(ran).spent == 0
        assert (rig.pool_agent("a").state, rig.pool_agent("a").holds) == (AgentState.STOPPED, {})

    def test_said_twice_it_is_answered_twice(self) -> None:
        rig = Rig()
        rig.registered()
        ticket = rig.ticket()
        rig.leave("a")
        assert rig.ask(ev.AgentLeft(ticket=ticket, agent_id="a", incarnation="a-1"), ticket) == Nothing()

    def test_a_replaced_process_takes_nothing_with_it(self) -> None:
        rig = Rig()
        rig.registered()
        rig.registered(incarnation="a-2")
        task_id = running(rig)
        ticket = rig.ticket()
        assert rig.ask(ev.AgentLeft(ticket=ticket, agent_id="a", incarnation="a-1"), ticket) == Nothing()
        assert rig.state(task_id) == "assigned"
        assert rig.task(task_id).state == "running"

    def test_strangers_have_nothing_to_leave(self) -> None:
        rig = Rig()
        ticket = rig.ticket()
        answer = rig.ask(ev.AgentLeft(ticket=ticket, agent_id="a", incarnation="a-1"), ticket)
        assert rig.error_code(answer) == "unknown_incarnation"

    def test_it_may_come_again_with_a_new_incarnation(self) -> None:
        rig = Rig()
        rig.registered()
        rig.leave("a")
        task_id = rig.submit()
        assert rig.state(task_id) == "queued"
        assert rig.error_code(rig.agent("a")) == "incarnation_replaced"
        rig.registered("a", incarnation="a-2")
        assert rig.state(task_id) == "assigned"


class TestSpawned:
    def test_a_spawned_agent_is_starting_until_it_registers(self) -> None:
        rig = Rig()
        rig.tell(ev.AgentSpawned(agent_id="a"))
        assert (rig.pool_agent("a").state, rig.pool_agent("a").spawned) == (AgentState.STARTING, True)
        task_id = rig.submit()
        assert rig.state(task_id) == "queued"
        rig.registered()
        assert rig.state(task_id) == "assigned"

    def test_one_that_never_came_is_forgotten(self) -> None:
        rig = Rig()
        rig.tell(ev.AgentSpawned(agent_id="a"))
        rig.tell(ev.SpawnAbandoned(agent_id="a"))
        rig.settle()
        rig.restart()
        assert rig.machine.pool.agents == {}

    def test_one_that_was_known_before_keeps_its_drain(self) -> None:
        rig = Rig()
        rig.registered()
        rig.drain("a")
        rig.leave("a")
        rig.tell(ev.AgentSpawned(agent_id="a"))
        rig.tell(ev.SpawnAbandoned(agent_id="a"))
        rig.settle()
        assert rig.pool_agent("a").state is AgentState.STOPPED
        assert rig.registered(incarnation="a-2").drain

    def test_a_dead_process_loses_what_it_held(self) -> None:
        rig = Rig()
        rig.tell(ev.AgentSpawned(agent_id="a"))
        rig.registered()
        task_id = running(rig)
        rig.tell(ev.SpawnAbandoned(agent_id="a"))
        rig.settle()
        assert rig.outcomes(task_id) == [Outcome.CRASHED]
        assert rig.pool_agent("a").state is AgentState.STOPPED
