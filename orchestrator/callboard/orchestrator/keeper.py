"""One replica's stand for one pool: take the lease whenever it is free, and own the pool as long as it lasts.

The protocol of ownership:

1. `acquire` raises the epoch; whoever held the pool before is fenced by its next write. Nobody who is deaf on the bus
   tries: the pool would be kept from those who could serve it.
2. The committed state is loaded; the lease is renewed meanwhile.
3. `event.owner` is published, then the pool's subjects are subscribed: a former owner in doubt that hears it lets go,
   and the first answer comes from an owner that everyone can know.
4. At a graceful stop or hand-over the subjects go first, then what is decided is finished, then the lease is released.
   Who hands over steps back from the pool for a moment, and so does everyone who is not its heir (`replicas`).
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from callboard.bus.connection import Bus, BusMessage, BusSubscription
from callboard.bus.micro import MicroService
from callboard.bus.replies import DropReason
from callboard.bus.serve import Server
from callboard.orchestrator.agent_requests import AgentRequests
from callboard.orchestrator.carriers import carrier_of
from callboard.orchestrator.clock import steady_s
from callboard.orchestrator.config import LateResults, OrchestratorConfig
from callboard.orchestrator.core.events import SpawnAbandoned
from callboard.orchestrator.core.settings import CoreSettings
from callboard.orchestrator.endpoints import endpoints_of
from callboard.orchestrator.fleet_requests import FleetRequests
from callboard.orchestrator.ids import TaskIds
from callboard.orchestrator.intake import Intake
from callboard.orchestrator.launcher import Launcher
from callboard.orchestrator.metrics import Metrics
from callboard.orchestrator.owner import PoolOwner
from callboard.orchestrator.pool_telemetry import PoolTelemetry
from callboard.orchestrator.replicas import Replicas
from callboard.orchestrator.status import ProcessFacts, system_status
from callboard.orchestrator.store.port import FencedError, Lease, Store, StoreUnavailableError
from callboard.orchestrator.submissions import Submissions
from callboard.orchestrator.task_requests import TaskRequests
from callboard.orchestrator.telemetry import Telemetry
from callboard.schemas.errors import ConfigurationError, OrchestratorError, UnavailableError
from callboard.schemas.events import Envelopes, OwnerChanged
from callboard.schemas.status import OwnerEvent
from callboard.schemas.subjects import Subjects
from callboard.schemas.times import to_instant
from callboard.schemas.vocabulary import AgentState, Durability

log = structlog.get_logger("callboard.orchestrator")

ACQUIRE_EVERY_S: Final = 0.3
"""How often a replica in waiting tries for the lease: a crash is noticed when it has expired, so that fail-over takes
the lease's length and this."""
STEP_BACK_S: Final = 1.2
"""How often a replica tries that is not the pool's heir: the heir has that much of a start."""
REST_S: Final = 60.0
"""How long a pool stays that we handed over and had to take back, because whoever should have taken it did not."""
HEAR_S: Final = 1.0
"""How long NATS may take to answer a replica that wants the lease."""
_OWNER_EVENT = msgspec.json.Decoder(OwnerChanged)
_SIGNED_IN = frozenset({AgentState.ONLINE, AgentState.DRAINING, AgentState.QUARANTINED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Premises:
    """What all pools of a process share."""

    config: OrchestratorConfig
    bus: Bus
    store: Store
    launcher: Launcher
    metrics: Metrics
    ids: TaskIds
    facts: ProcessFacts
    holder: str
    """Unique to this process: whoever has the lease."""
    replicas: Replicas
    on_unfit: Callable[[ConfigurationError], None]
    """Called when this process can serve no pool any more: the database was migrated beyond its version."""


class PoolKeeper:
    """Stands for one pool until `stop`."""

    def __init__(self, pool: str, premises: Premises) -> None:
        self.pool = pool
        self.owner: PoolOwner | None = None
        """The owner, while the pool is ours."""
        self.owned = asyncio.Event()
        """Set once the pool was ours and served."""
        self.is_held_elsewhere = False
        """Whether another replica had the lease when we tried last: it serves, or loads and will."""
        self._premises = premises
        self._subjects = Subjects(pool, premises.config.prefix)
        self._server: Server | None = None
        self._loading: PoolOwner | None = None
        self._waiting_for: str | None = None
        self._lease: Lease | None = None
        self._is_well = False
        self._leaving: int | None = None
        self._rests_until_s = 0.0
        self._wake = asyncio.Event()
        self._stopping = False

    @property
    def holds_lease(self) -> bool:
        """Whether the pool is ours, be it still being loaded."""
        return self._lease is not None

    @property
    def would_serve(self) -> bool:
        """Whether the pool is not ours, and could be served by us at once: bus and database answered when we tried."""
        return self._lease is None and self._is_well and not self._stopping

    @property
    def may_move(self) -> bool:
        """Whether the pool is ours and can be handed over; not while it has agents that only this process can stop."""
        if self.owner is None or self._lease is None or not self.owner.is_active or self._stopping:
            return False
        if self._leaving == self._lease.epoch or steady_s() < self._rests_until_s:
            return False
        if self._premises.store.durability is Durability.MEMORY:
            return False  # there is nothing to take it over from
        return all(agent.pool != self.pool for agent in self._premises.launcher.agents())

    @property
    def is_loading(self) -> bool:
        """Whether the pool is ours and will be served once its state is loaded."""
        return self._loading is not None

    async def run(self) -> None:
        """Take, own, lose, and take again, until `stop`."""
        while not self._stopping:
            is_well = False
            try:
                # A connection may be up and carry nothing: only an answer shows that we are heard.
                await self._premises.bus.rtt(HEAR_S)
                await self._take_and_own()
                is_well = True
            except UnavailableError as error:
                self._wait_for("bus", error.message)
            except StoreUnavailableError as error:
                self._wait_for("database", str(error))
            except ConfigurationError as error:
                self._premises.on_unfit(error)
                return
            except FencedError as error:
                log.warning("pool was taken meanwhile", pool=self.pool, reason=str(error))
            except Exception:
                # A bug must not leave the pool without anyone who stands for it: the state is committed, so begin anew.
                log.exception("owning the pool failed", pool=self.pool)
            self._note_health(is_well=is_well)
            await self._pause()

    async def _take_and_own(self) -> None:
        began_s = steady_s()
        lease = await self._premises.store.acquire(
            self.pool,
            holder=self._premises.holder,
            replica=self._premises.config.replica,
            lease_ms=self._premises.config.pool_lease_ms,
        )
        self._waiting_for = None
        self.is_held_elsewhere = lease is None
        if lease is not None:
            await self._own(lease, began_s)

    def try_now(self) -> None:
        """Try for the lease without waiting."""
        self._wake.set()

    async def hand_over(self) -> None:
        """Serve no more, finish what is decided, release the lease; then step back."""
        owner, server = self.owner, self._server
        if owner is not None and server is not None:
            self._leaving = owner.lease.epoch
            await server.drain()
            owner.stop()

    def step_down(self) -> None:
        """Take the pool no more: `stop` follows."""
        self._stopping = True
        self._wake.set()

    async def stop(self) -> None:
        """Serve no more, finish what is decided, release the lease. May be called twice."""
        self.step_down()
        if self._server is not None:
            await self._server.drain()
        if self._loading is not None:
            self._loading.lose("stopped while loading")
        if self.owner is not None:
            self.owner.stop()

    def agent_ended(self, agent_id: str) -> None:
        """An agent that was spawned here has ended for good: what it held need not wait for its lease."""
        if self.owner is not None:
            self.owner.post(SpawnAbandoned(agent_id=agent_id))

    def _note_health(self, *, is_well: bool) -> None:
        if is_well != self._is_well:
            self._is_well = is_well
            self._premises.replicas.changed()

    def _wait_for(self, what: str, reason: str) -> None:
        """Say once what is missing, not at each try."""
        if self._waiting_for != what:
            self._waiting_for = what
            log.warning("pool waits", pool=self.pool, waiting_for=what, reason=reason)

    async def _pause(self) -> None:
        if self._stopping:
            return
        pause_s = ACQUIRE_EVERY_S if self._premises.replicas.is_heir(self.pool) else STEP_BACK_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        self._wake.clear()

    async def _own(self, lease: Lease, began_s: float) -> None:
        premises, config = self._premises, self._premises.config
        measured = config.enable_performance_monitoring
        telemetry = PoolTelemetry(premises.metrics, self.pool) if measured else Telemetry()
        owner = PoolOwner(
            bus=premises.bus,
            store=premises.store,
            lease=lease,
            began_s=began_s,
            subjects=self._subjects,
            settings=core_settings(config),
            carrier=carrier_of(config, premises.bus, telemetry),
            telemetry=telemetry,
            lease_ms=config.pool_lease_ms,
            max_waiters=config.max_waiters,
            on_agent=self._on_agent,
            on_stop_process=self._on_stop_process,
            seed=secrets.randbits(64),
        )
        self._take_note(lease)
        reason = "could not start"
        try:
            await self._load(owner)
            reason = owner.lost or await self._serve(owner)
        except OrchestratorError as error:
            reason = error.message
        finally:
            self.owner = self._server = None
            premises.metrics.forget_pool(self.pool)
            log.info("pool let go", pool=self.pool, epoch=lease.epoch, reason=reason)
            await self._release(owner)
            self._lease = None
            premises.replicas.changed()

    def _take_note(self, lease: Lease) -> None:
        self._lease = lease
        self._premises.replicas.changed()
        if self._leaving is not None and lease.epoch == self._leaving + 1:
            # Nobody had the pool between: moving it again at once would only interrupt it again.
            self._rests_until_s = steady_s() + REST_S
            log.warning("nobody took the pool that we handed over", pool=self.pool)

    async def _load(self, owner: PoolOwner) -> None:
        self._loading = owner
        try:
            if not self._stopping:
                await owner.load()
        finally:
            self._loading = None

    async def _serve(self, owner: PoolOwner) -> str:
        premises, lease = self._premises, owner.lease
        task = TaskRequests(owner, premises.config.limits, premises.ids)
        fleet = FleetRequests(owner, premises.launcher)
        agent = AgentRequests(owner, premises.config.limits)
        server = Server(
            premises.bus,
            endpoints_of(owner, task, fleet, agent, lambda: system_status(owner, premises.facts)),
            own_root=self._subjects.root,
            reply_prefixes=premises.config.reply_prefixes,
            on_drop=self._on_drop,
            on_answer=owner.telemetry.answered,
        )
        micro = MicroService(
            premises.bus,
            "callboard" if self.pool == "default" else f"callboard_{self.pool}",
            premises.facts.version,
            f"Callboard: the agents and tasks of pool {self.pool}",
            metadata={"pool": self.pool, "replica": lease.replica, "api": "v1"},
            server=server,
        )
        rivals = await self._announce(owner)
        self.owner, self._server = owner, server
        running = asyncio.create_task(owner.run())
        running.add_done_callback(lambda _: owner.decided_last.set())
        try:
            self._take_in(owner)
            await server.start()
            await micro.start()
            self.owned.set()
            premises.replicas.changed()
            log.info("pool owned", pool=self.pool, epoch=lease.epoch, replica=lease.replica)
            if self._stopping:
                owner.stop()
            # An operation that hangs may hold up the owner's end; another one may serve by then.
            await owner.decided_last.wait()
            await server.stop()
            return await running
        finally:
            owner.lose("serving ended")
            await server.stop()
            await micro.stop()
            await rivals.unsubscribe()
            await asyncio.gather(running, return_exceptions=True)

    def _take_in(self, owner: PoolOwner) -> None:
        """Have the messages of the intake's stream become tasks, if they are this pool's."""
        settings = self._premises.config.intake
        if settings.stream is not None and settings.pool == self.pool:
            submissions = Submissions(self._premises.config.limits, self._premises.ids, owner.clock)
            owner.spawn(Intake(self._premises.bus, owner, submissions, settings, stream=settings.stream).run())

    async def _announce(self, owner: PoolOwner) -> BusSubscription:
        lease = owner.lease

        def hear(message: BusMessage) -> None:
            try:
                event = _OWNER_EVENT.decode(message.data).data
            except msgspec.MsgspecError:
                return
            # While the lease is trusted nobody else can have it: a forged announcement must not end our ownership, and
            # the next write or renewal shows any other truth.
            if event.pool == self.pool and event.epoch > lease.epoch and not owner.is_active:
                owner.lose(f"{event.replica} owns the pool with epoch {event.epoch}")

        subscription = await self._premises.bus.subscribe(self._subjects.owner_event, hear)
        event = OwnerEvent(pool=self.pool, replica=lease.replica, epoch=lease.epoch, at=to_instant(lease.now_ms))
        message = Envelopes(self._subjects).of_owner(event)
        try:
            self._premises.bus.send_ready(message.subject, message.block, message.body)
        except BaseException:
            await subscription.unsubscribe()
            raise
        return subscription

    async def _release(self, owner: PoolOwner) -> None:
        try:
            await self._premises.store.release(owner.lease, published=owner.publisher.to_forget)
        except StoreUnavailableError as error:
            log.info("lease not released: it will expire", pool=self.pool, reason=str(error))

    def _on_agent(self, agent_id: str, state: AgentState) -> None:
        if state in _SIGNED_IN:
            self._premises.launcher.came_online(self.pool, agent_id)

    def _on_stop_process(self, agent_id: str, grace_ms: int) -> None:
        async def stop() -> None:
            await self._premises.launcher.stop(self.pool, agent_id, grace_ms)

        if self.owner is not None:
            self.owner.spawn(stop())

    def _on_drop(self, reason: DropReason) -> None:
        self._premises.metrics.dropped_messages.labels(reason).inc()


def core_settings(config: OrchestratorConfig) -> CoreSettings:
    """What the core is told of the configuration."""
    return CoreSettings(
        strategy=config.default_task_assignment_strategy,
        heartbeat_interval_ms=int(config.heartbeat_interval_seconds * 1000),
        lease_intervals=config.lease_intervals,
        offer_repeats_ms=config.offer_repeat_ms,
        ageing_ms=config.ageing_seconds * 1000,
        quarantine_failures=config.agent_quarantine_failures,
        max_tasks=config.max_queued_tasks,
        window=config.queue_window,
        adopt_late_results=config.late_results is LateResults.ADOPT,
        max_agents=config.max_registered_agents,
        batch_tasks=config.batch_max,
    )
