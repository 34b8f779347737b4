"""Two databases for one pool on one NATS: real processes, real servers; the later one leaves, the other goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import pytest
from tests.support.databases import new_database
from tests.support.replica import WITHIN_S, replica

from callboard.bus.client import Client
from callboard.bus.connection import Bus, BusMessage, BusOptions
from callboard.orchestrator.config import NatsSettings, OrchestratorConfig, OrchestratorMode
from callboard.orchestrator.replicas import Replicas, replicas_subject
from callboard.orchestrator.service import Orchestrator
from callboard.orchestrator.spread import Standing
from callboard.orchestrator.store.migrate import migrate
from callboard.schemas.codec import encode
from callboard.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from callboard.bus.embedded import EmbeddedNats
    from callboard.orchestrator.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio


@pytest.fixture
async def other_url(postgres_server: EmbeddedPostgres, database_names: Iterator[str]) -> AsyncIterator[str]:
    """A second database with our tables."""
    async with new_database(postgres_server, next(database_names)) as url:
        await migrate(url)
        yield url


def orchestrator(nats_server: EmbeddedNats, database_url: str | None, *, pool: str = "default") -> Orchestrator:
    config = OrchestratorConfig(
        mode=OrchestratorMode.TEST,
        nats=NatsSettings(url=nats_server.url),
        database_url=database_url,
        enable_database_persistence=database_url is not None,
        allow_relaxed_durability=True,
        pools=(pool,),
        http_port=0,
    )
    return Orchestrator(config)


def imposter(*, since_ms: int, pool: str = "default", would: bool = False, store: str = "elsewhere") -> bytes:
    pools, nothing = frozenset({pool}), frozenset[str]()
    return encode(
        Standing(
            holder="imposter",
            owns=nothing if would else pools,
            would_serve=pools if would else nothing,
            may_move=nothing,
            store=store,
            since_ms=since_ms,
        )
    )


async def test_who_finds_a_pool_served_from_another_database_does_not_begin(
    nats_server: EmbeddedNats, database_url: str, other_url: str
) -> None:
    async with replica(nats_server.url, database_url), Client.connect(nats_server.url) as client:
        for wrong in (other_url, None):
            with pytest.raises(ConfigurationError, match="pool default is served from another database, by replica"):
                await orchestrator(nats_server, wrong).start()
        assert (await client.submit("noop")).created


async def test_who_answers_first_does_not_hide_the_others(
    nats_server: EmbeddedNats, database_url: str, other_url: str
) -> None:
    bus = await Bus.connect(BusOptions(servers=(nats_server.url,)))
    friend = imposter(since_ms=1, pool="elsewhere")
    async with bus, replica(nats_server.url, database_url):
        # It is nearer than a process that has to decode: its answer comes first.
        def answer(message: BusMessage) -> None:
            if message.reply:
                bus.send(message.reply, friend)

        await bus.subscribe(replicas_subject("callboard"), answer)
        await bus.flush()
        with pytest.raises(ConfigurationError, match="pool default is served from another database, by replica"):
            await orchestrator(nats_server, other_url).start()


async def test_one_that_is_met_while_it_starts_does_not_start(nats_server: EmbeddedNats, database_url: str) -> None:
    bus = await Bus.connect(BusOptions(servers=(nats_server.url,)))
    await migrate(database_url)
    async with bus:

        def claim(message: BusMessage) -> None:
            # Not an answer to the question, but news: as of one that began at the same time.
            if not message.reply and b"imposter" not in message.data:
                bus.send(replicas_subject("callboard"), imposter(since_ms=1))

        await bus.subscribe(replicas_subject("callboard"), claim)
        await bus.flush()
        with pytest.raises(ConfigurationError, match="by replica imposter"):
            async with orchestrator(nats_server, database_url) as started, asyncio.timeout(WITHIN_S):
                raise await started.until_unfit()


async def test_with_pools_of_their_own_they_are_strangers_that_do_no_harm(
    nats_server: EmbeddedNats, database_url: str, other_url: str
) -> None:
    async with (
        replica(nats_server.url, database_url),
        orchestrator(nats_server, other_url, pool="elsewhere") as stranger,
        Client.connect(nats_server.url) as client,
    ):
        assert (await client.submit("noop")).created
        assert (await stranger.client.submit("noop")).created


async def test_the_later_of_two_leaves_and_says_why(nats_server: EmbeddedNats, database_url: str) -> None:
    bus = await Bus.connect(BusOptions(servers=(nats_server.url,)))
    async with bus, replica(nats_server.url, database_url, stderr=asyncio.subprocess.PIPE) as later:
        bus.send(replicas_subject("callboard"), imposter(since_ms=1))
        async with asyncio.timeout(WITHIN_S):
            _, told = await later.process.communicate()
        assert later.process.returncode == 2
        assert b"pool default is served from another database, by replica imposter" in told
        # Its lease was given up, so that whoever has the right database need not wait for it.
        pg = await asyncpg.connect(database_url)
        assert await pg.fetchval("SELECT holder FROM pool_lease WHERE pool = 'default'") is None
        await pg.close()


async def test_the_first_of_two_stays(nats_server: EmbeddedNats, database_url: str) -> None:
    bus = await Bus.connect(BusOptions(servers=(nats_server.url,)))
    async with bus, replica(nats_server.url, database_url) as first, Client.connect(nats_server.url) as client:
        bus.send(replicas_subject("callboard"), imposter(since_ms=2**52))
        bus.send(replicas_subject("callboard"), imposter(since_ms=1, pool="elsewhere"))
        answer = await bus.request(replicas_subject("callboard"), imposter(since_ms=2**52), timeout_s=WITHIN_S)
        assert msgspec.json.decode(answer.data, type=Standing).owns == {"default"}
        assert (await client.submit("noop")).created
        assert await first.stop() == 0


class Ready:
    """A stand for a pool that nobody has, and that we could serve."""

    pool = "default"
    holds_lease = False
    would_serve = True
    may_move = False

    def try_now(self) -> None:
        """Nothing: the test asks who is the heir."""

    async def hand_over(self) -> None:
        raise AssertionError("there is nothing to hand over")


async def test_a_stranger_is_nobodys_heir(nats_server: EmbeddedNats) -> None:
    async with await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus:
        met: list[ConfigurationError] = []
        replicas = Replicas(
            bus, prefix="heirs", holder="we", store="ours", reply_prefixes=("_INBOX.",), on_conflict=met.append
        )
        replicas.attach([Ready()])
        await replicas.start()
        bus.send(replicas_subject("heirs"), imposter(since_ms=2**52, would=True))
        await bus.flush()
        assert replicas.is_heir("default")
        bus.send(replicas_subject("heirs"), imposter(since_ms=2**52, would=True, store="ours"))
        await bus.flush()
        assert not replicas.is_heir("default")
        assert met == []
        # It has heard of one who shares its database, and began before us.
        bus.send(replicas_subject("heirs"), imposter(since_ms=1, would=True))
        bus.send(replicas_subject("heirs"), imposter(since_ms=1, would=True))
        await bus.flush()
        assert len(met) == 1
        await replicas.stop()


async def test_an_identity_is_given_once_and_an_old_database_gets_one(database_url: str) -> None:
    await migrate(database_url)
    pg = await asyncpg.connect(database_url)
    read = "SELECT obj_description('pool_lease'::regclass)"
    given = await pg.fetchval(read)
    await migrate(database_url)
    assert await pg.fetchval(read) == given
    await pg.execute("COMMENT ON TABLE pool_lease IS NULL")
    await migrate(database_url)
    assert await pg.fetchval(read) not in (None, given)
    await pg.close()
