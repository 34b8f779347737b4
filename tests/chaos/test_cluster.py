"""A cluster of three nats-servers: whoever loses its node goes to another one, and nobody notices."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from tests.chaos.facts import gather
from tests.chaos.figures import extra_count
from tests.chaos.rig import Rig
from tests.chaos.under_load import Run
from tests.support.nats_cluster import NatsCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from callboard.orchestrator.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[NatsCluster]:
    async with NatsCluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def run(
    tmp_path: Path, cluster: NatsCluster, postgres_server: EmbeddedPostgres, database_url: str
) -> AsyncIterator[Run]:
    database = urlsplit(database_url).path.removeprefix("/")
    async with Rig(tmp_path, cluster.nodes, postgres_server, database) as rig:
        started = Run(rig)
        yield started
        await started.close()


async def test_a_node_is_killed_and_started_again_and_another_one_ends_in_lame_duck(
    run: Run, cluster: NatsCluster
) -> None:
    """Each time it is the node that the owner is connected to."""
    run.begin_load()
    await run.more()
    owner = await run.rig.owner()
    name = f"callboard {owner.replica}"
    killed = await cluster.of(name)
    async with run.faults.nats_killed(killed):
        await run.more()
    await cluster.until_whole()
    leaving = await cluster.of(name)
    assert leaving is not killed
    async with run.faults.nats_lame_duck(leaving):
        await run.more()
    await run.more()
    assert await run.rig.owner() is owner
    facts = gather(await run.finish())
    assert extra_count(facts) == 0
    assert run.clients.errors == {}
