"""Agents as their silence shows them: suspicion, lease, grace (protocol, section 3, agent states)."""

import pytest
from tests.support.core_rig import Rig

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.settings import CoreSettings
from callboard.schemas.vocabulary import AgentState, Outcome

INTERVAL_MS = 5_000
SUSPECT_MS = INTERVAL_MS * 3 // 2
LEASE_MS = INTERVAL_MS * 3


def published(rig: Rig) -> list[AgentState]:
    return [effect.event.state for effect in rig.take(do.PublishAgent)]


def test_silence_makes_suspect_then_offline() -> None:
    rig = Rig()
    rig.registered()
    rig.take(do.PublishAgent)
    rig.wait(SUSPECT_MS - 1)
    assert rig.pool_agent("a").state is AgentState.ONLINE
    rig.wait(1)
    assert rig.pool_agent("a").state is AgentState.SUSPECT
    rig.wait(LEASE_MS - SUSPECT_MS - 1)
    assert rig.pool_agent("a").state is AgentState.SUSPECT
    rig.wait(1)
    assert rig.pool_agent("a").state is AgentState.OFFLINE
    assert published(rig) == [AgentState.SUSPECT, AgentState.OFFLINE]


def test_a_heartbeat_begins_the_lease_anew() -> None:
    rig = Rig()
    rig.registered()
    rig.keep_alive(10 * LEASE_MS, "a")
    rig.wait(SUSPECT_MS - 1)
    assert rig.pool_agent("a").state is AgentState.ONLINE


def test_a_suspect_gets_nothing_new_and_loses_nothing() -> None:
    rig = Rig()
    rig.registered(slots=2)
    running = rig.submit()
    rig.accept(running)
    rig.wait(SUSPECT_MS)
    waiting = rig.submit()
    assert rig.state(waiting) == "queued"
    assert rig.state(running) == "running"
    rig.beat("a", (running, 1))
    assert rig.state(waiting) == "assigned"


def test_when_the_lease_is_over_what_ran_is_crashed_and_what_was_only_offered_is_free() -> None:
    rig = Rig(CoreSettings(offer_repeats_ms=(LEASE_MS, LEASE_MS)))
    rig.registered(slots=2)
    ran, offered = rig.submit(), rig.submit()
    rig.accept(ran)
    rig.wait(LEASE_MS)
    assert rig.outcomes(ran) == [Outcome.CRASHED]
    assert rig.outcomes(offered) == [Outcome.UNDELIVERED]
    assert (rig.task(ran).spent, rig.task(offered).spent) == (1, 0)
    assert (rig.state(ran), rig.state(offered)) == ("queued", "queued")


def test_an_agent_back_from_offline_is_told_to_stop_what_it_lost() -> None:
    rig = Rig()
    rig.registered()
    task_id = rig.submit()
    rig.accept(task_id)
    rig.wait(LEASE_MS)
    answer = rig.beat("a", (task_id, 1))
    assert [(ref.task_id, ref.attempt) for ref in answer.cancel] == [(task_id, 1)]
    assert rig.pool_agent("a").state is AgentState.ONLINE
    assert rig.state(task_id) == "queued", "the slot is in use until the attempt is listed no more"
    rig.beat("a")
    assert (rig.state(task_id), rig.task(task_id).attempt) == ("assigned", 2)


def test_offline_agents_are_forgotten_after_a_day_and_not_before() -> None:
    rig = Rig(CoreSettings(forget_agents_ms=60_000))
    rig.registered()
    rig.wait(LEASE_MS + 59_999)
    assert "a" in rig.machine.pool.agents
    rig.wait(1)
    assert rig.machine.pool.agents == {}
    rig.restart()
    assert rig.machine.pool.agents == {}


def test_an_agent_that_comes_back_is_not_forgotten() -> None:
    rig = Rig(CoreSettings(forget_agents_ms=60_000))
    rig.registered()
    rig.wait(LEASE_MS + 30_000)
    rig.beat("a")
    rig.keep_alive(60_000, "a")
    assert rig.pool_agent("a").state is AgentState.ONLINE


def test_an_agent_forgotten_and_registered_in_one_batch_is_known() -> None:
    rig = Rig(CoreSettings(forget_agents_ms=60_000))
    rig.registered()
    rig.wait(LEASE_MS)
    due_ms = rig.machine.next_due_ms()
    assert due_ms is not None
    rig.tell(ev.TimeAdvanced(), after_ms=due_ms - rig.now_ms)
    assert rig.machine.pool.agents == {}
    rig.registered(incarnation="a-2")
    changes = rig.last_changes()
    assert [row.incarnation for row in changes.agents] == ["a-2"]
    assert changes.forgotten_agents == (), "one batch does not write a row and delete it"


def test_the_interval_grows_with_the_fleet_up_to_twenty_seconds() -> None:
    settings = CoreSettings(heartbeat_interval_ms=1_000, agents_per_heartbeat_second=2)
    assert [settings.heartbeat_interval_for(count) for count in (0, 2, 4, 10, 1_000)] == [
        1_000,
        1_000,
        2_000,
        5_000,
        20_000,
    ]


def test_the_answers_dictate_the_interval_and_the_lease() -> None:
    rig = Rig(CoreSettings(heartbeat_interval_ms=1_000, agents_per_heartbeat_second=2))
    for number in range(7):
        rig.registered(f"agent-{number}")
    answer = rig.registered("last")
    assert (answer.heartbeat_interval_ms, answer.lease_ms) == (4_000, 12_000)
    beat = rig.beat("agent-0")
    assert (beat.heartbeat_interval_ms, beat.lease_ms) == (4_000, 12_000)


class TestNoExpiryWithoutObservation:
    """After a take-over, or the return of database or bus, held attempts wait one lease (design, three clocks)."""

    @pytest.mark.parametrize("how", ["take-over", "return"])
    def test_every_lease_begins_anew(self, how: str) -> None:
        rig = Rig()
        rig.registered()
        task_id = rig.submit()
        rig.accept(task_id)
        rig.wait(1_000)
        self.interrupt(rig, how, 600_000)
        rig.wait(LEASE_MS - 1)
        assert rig.state(task_id) == "running"
        rig.wait(1)
        assert rig.outcomes(task_id) == [Outcome.CRASHED]

    @pytest.mark.parametrize("how", ["take-over", "return"])
    def test_held_results_come_before_the_limits(self, how: str) -> None:
        rig = Rig()
        rig.registered(slots=3)
        limited = rig.submit(run_timeout_ms=2_000)
        silent = rig.submit(progress_timeout_ms=2_000)
        mortal = rig.submit(ttl_ms=2_000)
        for task_id in (limited, silent, mortal):
            rig.accept(task_id)
        rig.wait(1_000)
        self.interrupt(rig, how, 600_000)
        rig.wait(LEASE_MS - 1)
        assert {rig.state(task_id) for task_id in (limited, silent, mortal)} == {"running"}
        rig.complete(limited)
        assert rig.state(limited) == "succeeded"
        rig.wait(1)
        assert rig.state(mortal) == "expired"
        assert rig.outcomes(silent)[0] in {Outcome.TIMED_OUT, Outcome.CRASHED}

    @pytest.mark.parametrize("how", ["take-over", "return"])
    def test_waiting_tasks_expire_on_time(self, how: str) -> None:
        rig = Rig()
        waiting = rig.submit(ttl_ms=2_000)
        delayed = rig.submit(ttl_ms=2_000, delay_ms=1_500)
        rig.wait(1_000)
        self.interrupt(rig, how, 600_000)
        rig.wait(0)
        assert (rig.state(waiting), rig.state(delayed)) == ("expired", "expired")

    def test_what_comes_back_to_the_queue_past_its_deadline_expires_there(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = rig.submit(ttl_ms=2_000)
        rig.accept(task_id)
        rig.wait(1_000)
        self.interrupt(rig, "return", 10_000)
        rig.wait(0)
        assert rig.state(task_id) == "running"
        rig.crash("a")
        assert rig.state(task_id) == "expired", "it is not begun again after its deadline"

    def interrupt(self, rig: Rig, how: str, duration_ms: int) -> None:
        rig.now_ms += duration_ms
        if how == "take-over":
            rig.restart()
        else:
            rig.tell(ev.ObservationResumed())
            rig.settle()

    def test_offers_are_made_again(self) -> None:
        rig = Rig()
        rig.registered()
        task_id = rig.submit()
        rig.take(do.SendOffer)
        rig.now_ms += 3_000
        rig.tell(ev.ObservationResumed())
        rig.settle()
        assert [offer.task_id for offer in rig.take(do.SendOffer)] == [task_id]
