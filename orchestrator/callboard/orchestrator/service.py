"""The orchestrator as an object: for embedding it, and for the processes that `serve` and `dev` run.

What it asks of itself it asks over NATS, as any client would: the same answers, the same errors.
"""

import asyncio
import importlib.metadata
import os
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import structlog
from platformdirs import user_data_path

from callboard.bus.client import Client
from callboard.bus.connection import Bus
from callboard.bus.context import options_from_environment
from callboard.orchestrator.carriers import StreamCarrier
from callboard.orchestrator.chores import Chores, set_gauges
from callboard.orchestrator.config import (
    NatsSettings,
    OrchestratorConfig,
    OrchestratorMode,
    complete_addresses,
    load_config,
)
from callboard.orchestrator.fitness import Fitness
from callboard.orchestrator.http import HttpServer
from callboard.orchestrator.ids import TaskIds
from callboard.orchestrator.keeper import PoolKeeper, Premises
from callboard.orchestrator.launcher import Launcher, SpawnedAgent
from callboard.orchestrator.metrics import Metrics
from callboard.orchestrator.openings import open_when_reachable, open_when_there
from callboard.orchestrator.readiness import Readiness
from callboard.orchestrator.replicas import Replicas
from callboard.orchestrator.servers import EmbeddedServers
from callboard.orchestrator.status import ProcessFacts
from callboard.orchestrator.store.memory import MemoryStore
from callboard.orchestrator.store.port import Store
from callboard.orchestrator.store.postgres import PostgresStore
from callboard.orchestrator.telemetry import Telemetry
from callboard.schemas.errors import ConfigurationError, DatabaseOperationError
from callboard.schemas.labels import LabelValue
from callboard.schemas.status import SystemStatus
from callboard.schemas.tasks import TaskChange, TaskDocument
from callboard.schemas.vocabulary import TaskAssignmentStrategy, TaskPriority

log = structlog.get_logger("callboard.orchestrator")

READY_S: Final = 30.0
"""How long `start` waits until every pool has an owner."""
_NOT_STARTED: Final = "the orchestrator is not started: call start() first"


def create_orchestrator(config: OrchestratorConfig | None = None) -> "Orchestrator":
    """An orchestrator that `start` brings to life.

    Args:
        config: Every setting; without one, the TOML file that `CALLBOARD_CONFIG` names and the environment say it.

    Raises:
        ConfigurationError: With every mistake at once; in production, also when an address is missing.
    """
    config = load_config().config if config is None else complete_addresses(config)
    return Orchestrator(config)


class Orchestrator:
    """One replica: it stands for its pools, from `start` to `shutdown`; also an asynchronous context manager.

    Without an address of NATS or Postgres (not in production) it starts its own servers, in `data_dir`: by default
    in the user's data directory, in the mode `test` in a temporary one.
    """

    def __init__(self, config: OrchestratorConfig, *, nats_port: int = 0) -> None:
        self.config = config
        self.nats_url: str | None = None
        self.database_url: str | None = config.database_url
        self.http_url: str | None = None
        self._nats_port = nats_port
        self._stack = AsyncExitStack()
        self._client: Client | None = None
        self._starting = asyncio.Lock()
        self._fitness = Fitness()

    async def start(self) -> None:
        """Start; when this returns, every pool has an owner and serves. May be called twice.

        Raises:
            ConfigurationError: The servers' settings, the schema or the durability do not fit, or somebody serves a
                pool from another database.
            EmbeddedServerError: An embedded server does not start.
            DatabaseOperationError: A pool found no owner within 30 s, and nobody was loading it.
        """
        async with self._starting:
            if self._client is not None:
                return
            try:
                await self._start()
            except BaseException:
                await self._stack.aclose()
                raise

    async def shutdown(self) -> None:
        """Stop spawned agents, finish what is decided, hand the pools over. May be called twice."""
        async with self._starting:
            self._client = None
            await self._stack.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    async def until_unfit(self) -> ConfigurationError:
        """Wait until this process can serve no more; and why.

        Another version migrated the database, or a pool of ours is served from another database.
        """
        return await self._fitness.until_lost()

    @property
    def client(self) -> Client:
        """A client of the first pool, over the orchestrator's own connection.

        Raises:
            ConfigurationError: Not started.
        """
        if self._client is None:
            raise ConfigurationError(_NOT_STARTED)
        return self._client

    # -- what it does for its embedder -------------------------------------------------------------------------------

    async def spawn_agent(
        self,
        role: str,
        capabilities: Sequence[str] = (),
        *,
        agent_id: str | None = None,
        slots: int | None = None,
        labels: Mapping[str, LabelValue] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Start a process of `role` and return its agent id once it is online; errors as `Client.spawn`."""
        answer = await self.client.spawn(
            role, capabilities=list(capabilities), agent_id=agent_id, slots=slots, labels=labels, env=env
        )
        return answer.agent_id

    async def shutdown_agent(self, agent_id: str, *, grace_seconds: float | None = None) -> bool:
        """Have an agent finish and leave; whether that was new.

        Raises:
            AgentNotFoundError: There is no such agent.
        """
        grace_ms = None if grace_seconds is None else int(grace_seconds * 1000)
        return (await self.client.shutdown_agent(agent_id, grace_ms=grace_ms)).changed

    async def delegate_task(
        self,
        task_description: str,
        task_type: str,
        *,
        priority: TaskPriority = TaskPriority.NORMAL,
        payload: object = None,
        required_capabilities: Sequence[str] | None = None,
        role: str | None = None,
        strategy: TaskAssignmentStrategy | None = None,
        **options: Any,  # noqa: ANN401 - typed by SubmitOptions, whose keys these are
    ) -> str:
        """Submit a task and return its id; when this returns, the task is committed. Further options: `SubmitOptions`.

        Raises:
            TaskDelegationError: No agent could ever take it, and `on_unsatisfiable` is `reject`.
            ResourceLimitError: Too many tasks wait.
        """
        answer = await self.client.submit(
            task_type,
            payload,
            description=task_description,
            priority=priority,
            capabilities=required_capabilities,
            role=role,
            strategy=strategy,
            **options,
        )
        return answer.task_id

    async def complete_task(self, task_id: str, result: object = None) -> TaskChange:
        """Finish a task with `result`, unless it succeeded already (then `changed` is false).

        Raises:
            InvalidTransitionError: It ended without success.
            TaskNotFoundError: There is no such task.
        """
        return await self.client.complete(task_id, result)

    async def get_task(self, task_id: str) -> TaskDocument:
        """A task as it stands."""
        return await self.client.get(task_id)

    async def wait_for_task(self, task_id: str, *, timeout_seconds: float | None = None) -> TaskDocument:
        """A task once it is final, or as it stands after `timeout_seconds`."""
        return await self.client.wait(task_id, timeout_s=timeout_seconds)

    async def cancel_task(self, task_id: str, *, reason: str | None = None) -> TaskChange:
        """Cancel a task that is not final."""
        return await self.client.cancel(task_id, reason=reason)

    async def get_system_status(self) -> SystemStatus:
        """The state of the first pool."""
        return await self.client.status()

    # -- starting ----------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        config, stack = self.config, self._stack
        nats = await self._addresses(stack)
        environment = nats_environment(nats)
        bus = await Bus.connect(
            options_from_environment({**os.environ, **environment}, name=f"callboard {config.replica}")
        )
        stack.push_async_callback(bus.close)
        store = self._store()
        stack.push_async_callback(store.close)
        await open_when_reachable(store)
        metrics = Metrics()
        version = importlib.metadata.version("callboard")
        metrics.set_build(version, config.mode)
        metrics.bus_connected.set_function(lambda: bus.connected)
        loop = asyncio.get_running_loop()
        metrics.event_loop_tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        if config.events.stream is not None:
            await open_when_there(StreamCarrier(bus, config.events, config.prefix, Telemetry()))
        keepers: dict[str, PoolKeeper] = {}

        def agent_ended(agent: SpawnedAgent) -> None:
            keepers[agent.pool].agent_ended(agent.agent_id)

        holder = f"{config.replica}-{secrets.token_hex(8)}"
        leaving: list[asyncio.Task[None]] = []

        def leave(error: ConfigurationError) -> None:
            leaving.extend(asyncio.create_task(_stop_keeper(keeper)) for keeper in keepers.values())
            self._fitness.lose(error)

        if store.identity is None:
            log.warning("the database has no identity: run callboard migrate; else nobody notices a second database")
        replicas = Replicas(
            bus,
            prefix=config.prefix,
            holder=holder,
            store=store.identity,
            reply_prefixes=config.reply_prefixes,
            on_conflict=leave,
        )
        premises = Premises(
            config=config,
            bus=bus,
            store=store,
            launcher=Launcher(
                config,
                agent_environment=environment,
                on_restart=lambda _: metrics.agent_restarts.inc(),
                on_end=agent_ended,
            ),
            metrics=metrics,
            ids=TaskIds(),
            facts=ProcessFacts(mode=config.mode, version=version, started_ms=int(time.time() * 1000)),
            holder=holder,
            replicas=replicas,
            on_unfit=self._fitness.lose,
        )
        keepers.update({pool: PoolKeeper(pool, premises) for pool in config.pools})
        replicas.attach(list(keepers.values()))
        await replicas.start()
        stack.push_async_callback(replicas.stop)
        running = [asyncio.create_task(keeper.run()) for keeper in keepers.values()]
        stack.push_async_callback(_stop_keepers, list(keepers.values()), running)
        chores = Chores(premises, list(keepers.values()))
        stack.push_async_callback(chores.stop)
        chores.start()
        http = HttpServer(
            config.http_host,
            config.http_port,
            registry=metrics.registry,
            ready=Readiness(bus, store),
            before_scrape=lambda: set_gauges(keepers.values()),
        )
        await http.start()
        stack.push_async_callback(http.stop)
        self.http_url = http.url
        # Spawned agents leave while there is still an owner to say goodbye to.
        stack.push_async_callback(premises.launcher.stop_all)
        for pool in config.pools:
            client = Client(bus, pool=pool, prefix=config.prefix)
            await self._fitness.unless_lost(_until_owned(client, keepers[pool]))
        self._client = Client(bus, pool=config.pools[0], prefix=config.prefix)

    async def _addresses(self, stack: AsyncExitStack) -> NatsSettings:
        """Where NATS is; what has no address is started here."""
        config = self.config
        wants_nats = config.nats.url is None and config.nats.context is None
        wants_postgres = config.enable_database_persistence and config.database_url is None
        if not wants_nats and not wants_postgres:
            return config.nats
        servers = EmbeddedServers(
            self._directory(stack), nats=wants_nats, postgres=wants_postgres, nats_port=self._nats_port
        )
        await servers.start()
        stack.push_async_callback(servers.stop)
        if servers.database_url is not None:
            # A sixth of a server's memory is what migrations import, and serving needs none of it.
            from callboard.orchestrator.store.migrate import migrate  # noqa: PLC0415 - see above

            await migrate(servers.database_url)
            self.database_url = servers.database_url
        self.nats_url = servers.nats_url or config.nats.url
        return config.nats if servers.nats_url is None else msgspec.structs.replace(config.nats, url=servers.nats_url)

    def _directory(self, stack: AsyncExitStack) -> Path:
        if self.config.data_dir is not None:
            return Path(self.config.data_dir)
        if self.config.mode is OrchestratorMode.TEST:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callboard-")))
        # Not that of `callboard dev`, which may be running.
        return user_data_path("callboard", appauthor=False) / "embedded"

    def _store(self) -> Store:
        config = self.config
        if not config.enable_database_persistence:
            return MemoryStore(key_retention_ms=config.key_retention_seconds * 1000)
        if self.database_url is None:
            raise ConfigurationError("no database is given: set DATABASE_URL", path="database_url")
        return PostgresStore(
            self.database_url,
            key_retention_ms=config.key_retention_seconds * 1000,
            allow_relaxed_durability=config.allow_relaxed_durability,
        )


def nats_environment(nats: NatsSettings) -> dict[str, str]:
    """The variables by which a process connects as `nats` says: for ourselves, and for agents that we spawn."""
    names = ("url", "context", "creds", "nkey", "user", "password", "token", "cert", "key", "ca", "inbox_prefix")
    values = {f"NATS_{name.upper()}": getattr(nats, name) for name in names}
    return {variable: value for variable, value in values.items() if value is not None}


async def _until_owned(client: Client, keeper: PoolKeeper) -> None:
    """Wait until the pool has an owner; a deep queue that is being loaded may take longer than `READY_S`.

    Raises:
        DatabaseOperationError: nobody owns it within `READY_S`, nor is anybody about to.
    """
    while True:
        try:
            await client.status(timeout_s=READY_S)
        except DatabaseOperationError:
            if not (keeper.is_loading or keeper.is_held_elsewhere):
                raise
        else:
            return


async def _stop_keeper(keeper: PoolKeeper) -> None:
    try:
        await keeper.stop()
    except Exception:
        log.exception("a pool could not be let go", pool=keeper.pool)


async def _stop_keepers(keepers: list[PoolKeeper], running: list[asyncio.Task[None]]) -> None:
    for keeper in keepers:
        keeper.step_down()
    for keeper in keepers:
        await keeper.stop()
    await asyncio.gather(*running)
