"""Section 3 and 5: signing in, beating, falling silent, being replaced; and what operators ask of agents."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from tests.contract.hand_agent import HandAgent, held, online, run_one
from tests.contract.support import Json, Wire, fail_after, pause, unique

pytestmark = pytest.mark.anyio


async def agent_state(wire: Wire, agent: HandAgent) -> str:
    state: str = (await wire.ask("agents.get", agent_id=agent.agent_id))["state"]
    return state


# -- register and heartbeat --------------------------------------------------------------------------------------------


async def test_register_tells_the_agent_its_terms(wire: Wire) -> None:
    agent = HandAgent(wire)
    answer = await agent.register()
    server_time = datetime.fromisoformat(answer.pop("server_time"))
    assert abs(server_time - datetime.now(UTC)) < timedelta(seconds=10)
    owner = (await wire.round_trip())["owner"]
    assert answer == {
        "agent_id": agent.agent_id,
        "pool": "default",
        "epoch": owner["epoch"],
        "heartbeat_interval_ms": 500,
        "lease_ms": 1500,
        "cancel": [],
        "drain": False,
    }
    assert await agent.beat() == {
        "epoch": owner["epoch"],
        "heartbeat_interval_ms": 500,
        "lease_ms": 1500,
        "cancel": [],
        "drain": False,
        "database": "ok",
    }
    assert await agent.leave() == {}


async def test_an_agent_is_shown_as_it_described_itself(wire: Wire) -> None:
    description: Json = {
        "role": "reviewer",
        "capabilities": ["a", "b"],
        "labels": {"region": "eu", "cores": 8, "load": 0.5, "gpu": True},
        "slots": 3,
        "version": "1.2.3",
        "metadata": {"host": "here"},
    }
    async with online(wire, **description) as agent:
        shown = await wire.ask("agents.get", agent_id=agent.agent_id)
        assert {name: shown[name] for name in description} == description
        assert shown["state"] == "online"
        assert shown["incarnation"] == agent.incarnation
        assert (shown["slots_used"], shown["tasks"]) == (0, [])
        assert shown["last_seen_at"].endswith("Z")
        assert "success_rate" in shown
        # The same incarnation may register again: what it says now holds.
        await agent.register(role="writer", capabilities=["c"], labels={}, slots=1)
        shown = await wire.ask("agents.get", agent_id=agent.agent_id)
        assert (shown["role"], shown["capabilities"], shown["labels"], shown["slots"]) == ("writer", ["c"], {}, 1)


async def test_slots_bound_what_an_agent_is_offered(wire: Wire) -> None:
    async with online(wire, slots=2) as agent:
        tasks = [await wire.submit(requires={"agent_id": agent.agent_id}) for _ in range(3)]
        first, second = await agent.offered(tasks[0]), await agent.offered(tasks[1])
        shown = await wire.ask("agents.get", agent_id=agent.agent_id)
        assert (shown["slots_used"], shown["tasks"]) == (2, [held(first), held(second)])
        await agent.beat()
        assert not agent.has_offers
        await agent.complete(first)
        await agent.complete(await agent.offered(tasks[2]))
        await agent.complete(second)
        shown = await wire.ask("agents.get", agent_id=agent.agent_id)
        assert (shown["slots_used"], shown["success_rate"]) == (0, 1.0)


@pytest.mark.parametrize("verb", ["heartbeat", "leave"])
async def test_who_is_not_registered_is_told_so(wire: Wire, verb: str) -> None:
    fields = {"seq": 1, "running": []} if verb == "heartbeat" else {}
    assert (await HandAgent(wire).refusal(verb, **fields)).code == "unknown_incarnation"
    async with online(wire) as agent:
        assert (await agent.another().refusal(verb, **fields)).code == "unknown_incarnation"
        assert await agent_state(wire, agent) == "online"


async def test_a_heartbeat_that_is_not_newer_changes_nothing(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        await agent.stop_beating()
        for _ in range(4):
            await agent.ask("heartbeat", seq=agent.seq, running=[])
            await agent.ask("heartbeat", seq=0, running=[])
        await agent.complete(offer)
        assert (await wire.get(task_id))["state"] == "succeeded"


async def test_an_accepted_attempt_that_two_heartbeats_do_not_list_has_crashed(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, max_attempts=2)
        await agent.stop_beating()
        agent.running.clear()
        await agent.beat()
        assert (await wire.ask("agents.get", agent_id=agent.agent_id))["tasks"] == [held(offer)]
        await agent.beat()
        again = await agent.offered(task_id)
        task = await wire.get(task_id)
        assert [attempt.get("outcome") for attempt in task["attempts"]] == ["crashed", None]
        error = await agent.refusal("complete", **held(offer), result="late")
        assert error.code == "stale_attempt"
        await agent.complete(again)


async def test_an_attempt_listed_in_between_has_not_crashed(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        await agent.stop_beating()
        for listed in ([], [held(offer)], [], [held(offer)]):
            await agent.beat(running=listed)
        await agent.complete(offer)
        assert [attempt["outcome"] for attempt in (await wire.get(task_id))["attempts"]] == ["succeeded"]


async def test_what_is_listed_and_not_wanted_comes_back_in_cancel(wire: Wire) -> None:
    async with online(wire) as agent, online(wire) as other:
        _, offer = await run_one(wire, agent)
        _, of_another = await run_one(wire, other)
        unknown = {"task_id": "01993b5e-7c1a-7bd2-8f0e-3a1f5c2d9e10", "attempt": 1}
        future = {**held(offer), "attempt": 2}
        listed = [held(offer), unknown, future, held(of_another)]
        async with fail_after(lambda: f"cancel has {answer['cancel']}"):
            # Nothing is cancelled because of a change that is not committed, as that of the tasks that run now.
            while (answer := await agent.beat(running=listed))["cancel"] != listed[1:]:
                assert held(offer) not in answer["cancel"]
                await pause()
        answer = await agent.register(running=[held(offer), unknown])
        assert answer["cancel"] == [unknown]
        await agent.complete(offer)
        await other.complete(of_another)


# -- silence -----------------------------------------------------------------------------------------------------------


async def test_a_silent_agent_is_suspect_then_offline_and_its_tasks_run_elsewhere(wire: Wire) -> None:
    skill = unique("skill")
    async with online(wire, capabilities=[skill]) as dead:
        task_id = await wire.submit(requires={"capabilities": [skill]}, max_attempts=2)
        offer = await dead.offered(task_id)
        await wire.events.until(task_id, "running")
        await dead.vanish()
        await wire.events.until(dead.agent_id, "suspect")
        shown = await wire.ask("agents.get", agent_id=dead.agent_id)
        assert (shown["state"], shown["tasks"]) == ("suspect", [held(offer)])
        waiting = await wire.submit(requires={"agent_id": dead.agent_id})
        await wire.events.until(dead.agent_id, "offline")
        assert await agent_state(wire, dead) == "offline"
        async with online(wire, capabilities=[skill]) as alive:
            again = await alive.offered(task_id)
            assert again["attempt"] == 2
            task = await wire.get(task_id)
            assert [attempt.get("outcome") for attempt in task["attempts"]] == ["crashed", None]
            # The dead one comes back: what it held is not its own any more.
            await dead.listen()
            dead.start_beating()
            await dead.heard_cancel_of(offer)
            assert await agent_state(wire, dead) == "online"
            error = await dead.refusal("complete", **held(offer), result="late")
            assert error.code == "stale_attempt"
            await alive.complete(again, "elsewhere")
        dead.unlist(offer)
        await dead.complete(await dead.offered(waiting))
        assert (await wire.get(task_id))["result"] == "elsewhere"


async def test_an_offer_in_flight_to_a_dead_agent_costs_nothing(wire: Wire) -> None:
    async with online(wire) as agent:
        agent.answer = None
        task_id = await wire.submit(requires={"agent_id": agent.agent_id}, max_attempts=1)
        await agent.offered(task_id)
        await agent.vanish()
        await wire.events.until(agent.agent_id, "offline")
        task = await wire.get(task_id)
        assert (task["state"], task["attempts"][0]["outcome"]) == ("queued", "undelivered")


async def test_a_late_result_is_taken_while_the_attempt_is_current(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        await agent.stop_beating()
        await wire.events.until(agent.agent_id, "suspect")
        await agent.complete(offer, "in time")
        assert (await wire.get(task_id))["result"] == "in time"


# -- incarnations ------------------------------------------------------------------------------------------------------


async def test_a_new_incarnation_replaces_the_old_one_at_once(wire: Wire) -> None:
    async with online(wire) as old:
        task_id, offer = await run_one(wire, old, max_attempts=2)
        await old.vanish()
        new = old.another()
        await new.listen()
        await new.register()
        again = await new.offered(task_id)
        assert again["attempt"] == 2
        assert (await wire.get(task_id))["attempts"][0]["outcome"] == "crashed"
        assert (await old.refusal("heartbeat", seq=9, running=[])).code == "incarnation_replaced"
        assert (await old.refusal("register")).code == "incarnation_replaced"
        for report in ({"result": "old"}, {"error": {"message": "old"}}):
            verb = "complete" if "result" in report else "fail"
            for attempt in (offer, again):
                assert (await old.refusal(verb, **held(attempt), **report)).code == "stale_attempt"
        await new.complete(again, "new")
        assert (await wire.get(task_id))["result"] == "new"
        await new.vanish()
        await new.leave()


async def test_a_new_incarnation_keeps_what_it_claims(wire: Wire) -> None:
    async with online(wire, slots=2) as old:
        kept, offer = await run_one(wire, old)
        lost, other = await run_one(wire, old, max_attempts=1)
        await old.vanish()
        new = old.another()
        await new.listen()
        answer = await new.register(running=[held(offer)])
        assert answer["cancel"] == []
        new.running = [held(offer)]
        task = await wire.final(lost)
        assert (task["state"], task["attempts"][0]["outcome"]) == ("failed", "crashed")
        assert (await old.refusal("complete", **held(offer), result="old")).code == "stale_attempt"
        assert (await new.refusal("complete", **held(other), result="lost")).code == "stale_attempt"
        assert (await wire.get(kept))["incarnation"] == new.incarnation
        await new.complete(offer, "kept")
        task = await wire.get(kept)
        assert (task["attempt"], task["result"]) == (1, "kept")
        await new.vanish()
        await new.leave()


async def test_the_last_eight_replaced_incarnations_are_remembered(wire: Wire) -> None:
    processes = [HandAgent(wire)]
    await processes[0].register()
    for _ in range(9):
        processes.append(processes[-1].another())
        await processes[-1].register()
    codes = [(await process.refusal("heartbeat", seq=1, running=[])).code for process in processes[:-1]]
    assert codes == ["unknown_incarnation"] + ["incarnation_replaced"] * 8
    await processes[-1].leave()


async def test_leaving_releases_what_is_held(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, max_attempts=1)
        await agent.vanish()
        assert await agent.ask("leave", reason="going home") == {}
        assert (await wire.events.until(agent.agent_id, "stopped"))["reason"] == "going home"
        task = await wire.get(task_id)
        assert (task["state"], task["attempts"][0]["outcome"]) == ("queued", "released")
        assert await agent_state(wire, agent) == "stopped"
        assert (await agent.refusal("complete", **held(offer), result=1)).code in {
            "stale_attempt",
            "unknown_incarnation",
        }
        new = agent.another()
        await new.listen()
        await new.register()
        await new.complete(await new.offered(task_id))
        await new.vanish()
        await new.leave()


async def test_agents_events_tell_their_story_in_order(wire: Wire) -> None:
    async with online(wire) as agent:
        await wire.ask("agents.drain", agent_id=agent.agent_id)
        await wire.ask("agents.resume", agent_id=agent.agent_id)
        await agent.leave()
        await wire.events.until(agent.agent_id, "stopped")
    story = wire.events.of(agent.agent_id)
    assert [state for state, _ in story] == ["online", "draining", "online", "stopped"]
    for state, body in story:
        assert (body["agent_id"], body["pool"], body["state"]) == (agent.agent_id, "default", state)
        assert body["at"].endswith("Z")


# -- list --------------------------------------------------------------------------------------------------------------


async def test_agents_are_listed_filtered_and_paged(wire: Wire) -> None:
    skill = unique("skill")
    agents = [HandAgent(wire, capabilities=[skill]) for _ in range(5)]
    for agent in agents:
        await agent.register()
    await wire.ask("agents.drain", agent_id=agents[0].agent_id)

    async def listed(**fields: object) -> list[str]:
        page = await wire.ask("agents.list", **fields)
        return [agent["agent_id"] for agent in page["agents"]]

    everyone = {agent.agent_id for agent in agents}
    assert set(await listed(capability=skill)) == everyone
    assert await listed(capability=skill, state="draining") == [agents[0].agent_id]
    assert await listed(capability=unique("none")) == []
    paged: list[str] = []
    cursor = None
    for _ in range(3):
        page = await wire.ask("agents.list", capability=skill, limit=2, cursor=cursor)
        assert len(page["agents"]) <= 2
        paged += [agent["agent_id"] for agent in page["agents"]]
        cursor = page.get("cursor")
    assert cursor is None
    assert len(paged) == 5
    assert set(paged) == everyone
    [shown] = [each for each in (await wire.ask("agents.list", capability=skill))["agents"]
               if each["agent_id"] == agents[1].agent_id]  # fmt: skip
    alone = await wire.ask("agents.get", agent_id=agents[1].agent_id)
    assert set(shown) == set(alone)
    for agent in agents:
        await agent.leave()


async def test_a_page_ends_where_the_next_agent_would_not_fit(wire: Wire) -> None:
    skill = unique("skill")
    agents = [HandAgent(wire, capabilities=[skill], metadata={"m": "x" * 32_000}) for _ in range(40)]
    for agent in agents:
        await agent.register()
    pages: list[list[str]] = []
    cursor = None
    while cursor is not None or not pages:
        page = await wire.ask("agents.list", capability=skill, limit=40, cursor=cursor)
        pages.append([agent["agent_id"] for agent in page["agents"]])
        cursor = page.get("cursor")
    assert [agent_id for page in pages for agent_id in page] == sorted(agent.agent_id for agent in agents)
    assert all(10 <= len(page) < 40 for page in pages[:-1]), "as many as fit"
    for agent in agents:
        await agent.leave()


@pytest.mark.parametrize(
    "bad",
    [{"limit": 0}, {"limit": 501}, {"state": "asleep"}, {"capability": "a b"}, {"cursor": "not one of ours"}],
    ids=str,
)
async def test_agents_list_refuses(wire: Wire, bad: Json) -> None:
    error = await wire.refusal("agents.list", **bad)
    assert (error.code, error.details["path"]) == ("invalid_request", next(iter(bad)))


# -- drain, resume, shutdown -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["get", "drain", "resume", "shutdown"])
async def test_there_is_no_such_agent(wire: Wire, verb: str) -> None:
    error = await wire.refusal(f"agents.{verb}", agent_id=unique("nobody"))
    assert error.code == "agent_not_found"


async def test_a_drained_agent_finishes_and_takes_nothing_new_until_it_is_resumed(wire: Wire) -> None:
    async with online(wire, slots=2) as agent:
        _, offer = await run_one(wire, agent)
        mine = {"agent_id": agent.agent_id}
        answer = await wire.ask("agents.drain", **mine)
        assert answer == {**mine, "state": "draining", "changed": True}
        assert await wire.ask("agents.drain", **mine) == {**answer, "changed": False}
        assert await agent.told("drain") == {"epoch": offer["epoch"]}
        assert (await agent.beat())["drain"] is True
        task_id = await wire.submit(requires=mine)
        await agent.complete(offer)
        # The drain is the operator's word on the agent, and outlives its processes.
        await agent.vanish()
        new = agent.another()
        await new.listen()
        assert (await new.register())["drain"] is True
        new.start_beating()
        assert (await wire.get(task_id))["state"] == "queued"
        assert await agent_state(wire, agent) == "draining"
        answer = await wire.ask("agents.resume", **mine)
        assert answer == {**mine, "state": "online", "changed": True}
        assert await wire.ask("agents.resume", **mine) == {**answer, "changed": False}
        await new.complete(await new.offered(task_id))
        assert (await new.beat())["drain"] is False
        await new.vanish()
        await new.leave()


async def test_when_the_grace_of_a_drain_is_over_its_tasks_are_released(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent, max_attempts=1)
        await wire.ask("agents.drain", agent_id=agent.agent_id, grace_ms=100)
        assert held(await agent.told("cancel")) == held(offer)
        task = await wire.state(task_id, "queued")
        assert task["attempts"][0]["outcome"] == "released"
        assert await agent_state(wire, agent) == "draining"


@pytest.mark.parametrize("how", ["register", "heartbeat"])
async def test_an_agent_drains_by_its_own_will(wire: Wire, how: str) -> None:
    async with online(wire) as agent:
        await agent.stop_beating()
        await (agent.register(draining=True) if how == "register" else agent.beat(draining=True))
        assert await agent_state(wire, agent) == "draining"
        task_id = await wire.submit(requires={"agent_id": agent.agent_id})
        # An operator's `resume` does not end what the agent itself decided.
        assert (await wire.ask("agents.resume", agent_id=agent.agent_id))["changed"] is False
        await agent.beat()
        assert (await wire.get(task_id))["state"] == "queued"
        await (agent.register(draining=False) if how == "register" else agent.beat(draining=False))
        await agent.complete(await agent.offered(task_id))


async def test_an_agent_that_is_shut_down_finishes_and_leaves(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        mine = {"agent_id": agent.agent_id}
        answer = await wire.ask("agents.shutdown", **mine, grace_ms=30_000, reason="bedtime")
        assert (answer["agent_id"], answer["changed"]) == (agent.agent_id, True)
        assert (await wire.ask("agents.shutdown", **mine))["changed"] is False
        assert await agent.told("shutdown") == {"epoch": offer["epoch"], "reason": "bedtime", "grace_ms": 30_000}
        waiting = await wire.submit(requires=mine)
        await agent.complete(offer)
        assert not agent.has_offers
        await agent.leave()
        assert await agent_state(wire, agent) == "stopped"
        assert await wire.ask("agents.shutdown", **mine) == {**mine, "state": "stopped", "changed": False}
        assert [(await wire.get(task))["state"] for task in (task_id, waiting)] == ["succeeded", "queued"]


async def test_an_agent_that_does_not_go_is_given_up_after_its_grace(wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, _ = await run_one(wire, agent, max_attempts=1)
        await wire.ask("agents.shutdown", agent_id=agent.agent_id, grace_ms=100)
        await wire.events.until(agent.agent_id, "stopped")
        task = await wire.state(task_id, "queued")
        assert task["attempts"][0]["outcome"] == "released"


async def test_a_fleet_registers_at_once(wire: Wire) -> None:
    agents = [HandAgent(wire, incarnation=str(uuid.uuid4())) for _ in range(50)]
    answers = await asyncio.gather(*(agent.register() for agent in agents))
    assert [answer["agent_id"] for answer in answers] == [agent.agent_id for agent in agents]
    await asyncio.gather(*(agent.ask("leave", **agent.description) for agent in agents))
