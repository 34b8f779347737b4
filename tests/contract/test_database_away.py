"""`unavailable` and `outcome_unknown`: what is answered while Postgres refuses connections, or holds a commit up."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from tests.contract.conftest import Served, connected, serving
from tests.contract.hand_agent import HandAgent, held, online, run_one
from tests.contract.support import Json, Wire, fail_after, pause, unique

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from callboard.bus.embedded import EmbeddedNats
    from callboard.orchestrator.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio

ROOT = "fragile.v1.default"


@pytest.fixture(scope="module")
async def fragile(
    contract_nats: EmbeddedNats,
    postgres_server: EmbeddedPostgres,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Served]:
    log: Path = tmp_path_factory.mktemp("fragile") / "serve.log"
    settings = {"CALLBOARD_PREFIX": "fragile", "CALLBOARD_POOLS": "default"}
    async with serving(contract_nats.url, postgres_server, next(database_names), log, **settings) as served:
        yield served


@pytest.fixture
async def wire(fragile: Served) -> AsyncIterator[Wire]:
    async with connected(fragile.nats_url, ROOT) as connection:
        yield connection
    fragile.assert_alive()


async def until_health(wire: Wire, database: str) -> Json:
    """The first status that shows the database so. Heartbeats and `status` are all that is answered meanwhile."""
    status: Json = {}
    async with fail_after(lambda: f"health stays {status['health']}"):
        while True:
            status = await wire.ask("status")
            if status["health"]["database"] == database and status["health"]["degraded"] is (database == "down"):
                return status
            await pause()


@asynccontextmanager
async def no_database(served: Served) -> AsyncIterator[None]:
    """Postgres ends every connection to the orchestrator's database and takes no new ones."""
    name = served.database["database"]
    admin = await asyncpg.connect(**{**served.database, "database": "postgres"})
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await admin.close()


@asynccontextmanager
async def locked_tables(served: Served) -> AsyncIterator[None]:
    """Somebody else holds a lock that every write has to wait for."""
    admin = await asyncpg.connect(**served.database)
    try:
        async with admin.transaction():
            tables = await admin.fetch(
                "SELECT format('%I', tablename) AS name FROM pg_tables WHERE schemaname = 'public'"
            )
            for table in tables:
                await admin.execute(f"LOCK TABLE {table['name']} IN EXCLUSIVE MODE")
            yield
    finally:
        await admin.close()


async def test_without_a_database_nothing_new_is_accepted_and_nothing_is_forgotten(fragile: Served, wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        waiting = await wire.submit(requires={"agent_id": agent.agent_id})
        key = unique("key")
        requests: list[tuple[str, dict[str, Any]]] = [
            ("tasks.submit", {"type": "x", "key": key}),
            ("tasks.get", {"task_id": task_id}),
            ("tasks.list", {}),
            ("tasks.wait", {"task_id": task_id, "timeout_ms": 0}),
            ("tasks.cancel", {"task_id": task_id}),
            ("tasks.complete", {"task_id": task_id}),
            ("tasks.retry", {"task_id": task_id}),
            ("agents.drain", {"agent_id": agent.agent_id}),
            ("agents.resume", {"agent_id": agent.agent_id}),
            ("agents.shutdown", {"agent_id": agent.agent_id}),
            ("agents.spawn", {"role": "echoer"}),
            (f"agent.{agent.agent_id}.complete", {**held(offer), "incarnation": agent.incarnation, "result": 1}),
            (f"agent.{agent.agent_id}.leave", {"incarnation": agent.incarnation}),
            (f"agent.{unique('new')}.register", {"incarnation": str(uuid.uuid4())}),
        ]
        async with no_database(fragile):
            status = await until_health(wire, "down")
            assert status["health"]["since"].endswith("Z")
            assert status["tasks"]["by_state"]["running"] == 1
            for verb, fields in requests:
                error = await wire.refusal(verb, **fields)
                assert error.code == "unavailable", verb
                assert error.retry_after_ms is not None
            # Heartbeats and what is in memory are answered; nothing is cancelled by an agent that lists too much.
            answer = await agent.beat(running=[held(offer), {**held(offer), "attempt": 7}])
            assert (answer["database"], answer["cancel"]) == ("down", [])
            assert (await wire.ask("agents.get", agent_id=agent.agent_id))["tasks"] == [held(offer)]
        status = await until_health(wire, "ok")
        assert "since" not in status["health"]
        assert (await wire.refusal("tasks.get", key=key)).code == "task_not_found"
        assert await agent.complete(offer, "kept") == {"recorded": True}
        assert (await wire.get(task_id))["result"] == "kept"
        await agent.complete(await agent.offered(waiting))


async def test_a_commit_that_hangs_is_an_unknown_outcome_and_repeats_are_safe(fragile: Served, wire: Wire) -> None:
    async with online(wire) as agent:
        task_id, offer = await run_one(wire, agent)
        key = unique("key")
        specification: Json = {"type": "x", "key": key, "requires": {"role": unique("none")}}
        async with locked_tables(fragile):
            refusals = await asyncio.gather(
                wire.refusal("tasks.submit", **specification),
                agent.refusal("complete", **held(offer), result="done"),
            )
            assert {error.code for error in refusals} <= {"outcome_unknown", "unavailable"}
            assert "outcome_unknown" in {error.code for error in refusals}
            # Handed to no transaction: refused for certain.
            assert (await wire.refusal("tasks.submit", type="x")).code in {"unavailable", "outcome_unknown"}
        await until_health(wire, "ok")
        answer = await wire.accepted("tasks.submit", **specification)
        assert (await wire.ask("tasks.get", key=key))["task_id"] == answer["task_id"]
        assert (await wire.ask("tasks.submit", **specification))["created"] is False
        mine = {**held(offer), "incarnation": agent.incarnation, "result": "done"}
        assert await wire.accepted(f"agent.{agent.agent_id}.complete", **mine) == {"recorded": True}
        agent.unlist(offer)
        task = await wire.get(task_id)
        assert (task["result"], len(task["attempts"])) == ("done", 1)


async def test_an_agent_is_not_given_up_while_nobody_could_hear_it(fragile: Served, wire: Wire) -> None:
    agent = HandAgent(wire)
    await agent.listen()
    lease_s = (await agent.register())["lease_ms"] / 1000
    task_id, offer = await run_one(wire, agent)
    loop = asyncio.get_running_loop()
    silent_since_s = loop.time()
    async with no_database(fragile):
        # Silent for longer than its lease, which would be over at once if the orchestrator counted on meanwhile.
        while loop.time() < silent_since_s + 2 * lease_s:
            await until_health(wire, "down")
            await pause()
    status = await until_health(wire, "ok")
    assert "offline" not in status["agents"]["by_state"]
    # Its lease began anew with the database's return.
    await agent.beat()
    assert await agent.complete(offer) == {"recorded": True}
    assert [attempt["outcome"] for attempt in (await wire.get(task_id))["attempts"]] == ["succeeded"]
    await agent.vanish()
    await agent.leave()
