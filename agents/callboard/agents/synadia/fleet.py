"""The agents of the protocol as agents of a pool: each peer signs in as one, and its tasks become prompts.

Rules:
- A peer's comings and goings are the pool's: it signs in when it is discovered, and leaves when it is gone. A peer that
  is gone with work in hand falls silent instead, so that the work is `crashed` as that of any agent that dies; one that
  was restarted signs in as a new incarnation, which has the same effect at once.
- A prompt that reached nobody costs nothing: the agent leaves, and the task is released.
- One process dispatches for a pool. A second one takes the agents over, as any newer process with their ids does.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog

from callboard.agents.agent import Agent
from callboard.agents.handlers import ANY
from callboard.agents.synadia import discovery
from callboard.agents.synadia.dispatch import DEFAULT_IDLE_S
from callboard.agents.synadia.peers import Peer, UnfitError, peer_of
from callboard.agents.synadia.proxy import Proxy
from callboard.agents.synadia.roster import Change, Joined, Left, Restarted, Roster
from callboard.agents.synadia.running import run_until_signalled
from callboard.agents.synadia.wire import (
    DEFAULT_INTERVAL_S,
    HEARTBEATS,
    MalformedError,
    ServiceInfo,
    read_beat,
)
from callboard.bus.connection import Bus, BusChange, BusMessage, BusState
from callboard.bus.context import options_from_environment
from callboard.bus.options import BusOptions
from callboard.schemas.errors import ConfigurationError, OrchestratorError
from callboard.schemas.names import is_name
from callboard.schemas.subjects import DEFAULT_PREFIX

log = structlog.get_logger("callboard.agents.synadia")

MOST: Final = 500
"""Agents that one process stands for, each with a connection and a thread: anybody on NATS may say that he is one."""
REMEMBERED: Final = 10_000
"""Instances that are no agents for us, so that nobody is asked at each heartbeat."""


class SynadiaFleet:
    """Dispatches a pool's tasks to every agent of the protocol that is there.

    Args:
        slots: tasks at once, for each agent.
        capabilities: of all of them, beside their own.
        only: metadata that an agent must have, e.g. `{"owner": "rene"}`.
        task_types: the types to take; any by default.
        idle_s: how long an agent may say nothing while it works.
        pool, prefix: as `Agent`.

    Raises:
        ConfigurationError: something of this cannot be used.
    """

    def __init__(
        self,
        *,
        slots: int | None = None,
        capabilities: Iterable[str] | None = None,
        only: Mapping[str, str] | None = None,
        task_types: Iterable[str] = (ANY,),
        idle_s: float = DEFAULT_IDLE_S,
        pool: str | None = None,
        prefix: str | None = None,
    ) -> None:
        self._slots = 1 if slots is None else slots
        self._capabilities = tuple(capabilities or ())
        wrong = [capability for capability in self._capabilities if not is_name(capability)]
        if wrong:
            raise ConfigurationError(f"not a capability: {wrong[0]!r}; use 1 to 64 letters, digits, '-' and '_'")
        self._only = dict(only or {})
        self._task_types = tuple(task_types)
        self._idle_s = idle_s
        self._pool, self._prefix = pool, prefix
        self._roster = Roster()
        self._proxies: dict[str, Proxy] = {}
        self._asked: set[str] = set()
        self._unfit: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._options: BusOptions | None = None
        self._bus: Bus | None = None
        self._watching: asyncio.Task[None] | None = None
        self._is_draining = False

    @property
    def agents(self) -> dict[str, str]:
        """The prompt subjects of those that are there now, by their ids in the pool."""
        return {proxy.peer.agent_id: subject for subject, proxy in self._proxies.items()}

    async def run(self, url: str | BusOptions | None = None) -> None:
        """Dispatch until SIGTERM or SIGINT; prompts under way are finished then, or given up at a second signal.

        Raises:
            ConfigurationError: NATS cannot be reached as configured, for good.
        """
        await run_until_signalled(lambda: self.start(url), drain=self.drain, stop=self.stop)

    async def start(self, url: str | BusOptions | None = None) -> None:
        """Discover, and dispatch in the background of this event loop. May be called twice.

        Raises:
            ConfigurationError: as `run`.
        """
        if self._bus is not None:
            return
        self._options = url if isinstance(url, BusOptions) else options_from_environment(url=url)
        self._bus = await Bus.connect(self._options, on_change=self._bus_changed)
        # Heartbeats first: who begins between the two would be missed (section 8.5).
        await self._bus.subscribe(HEARTBEATS, self._beat)
        with suppress(OrchestratorError):
            await self._bus.flush()
        self._watching = asyncio.create_task(self._watch(), name="synadia-watch")
        self._spawn(self._discover())

    async def drain(self) -> None:
        """Take nothing new, finish what runs, leave."""
        self._is_draining = True
        await self._end_watching()
        await asyncio.gather(*(proxy.drain() for proxy in self._proxies.values()), return_exceptions=True)

    async def stop(self) -> None:
        """End now: what runs is given back. May be called twice, and without `start`."""
        self._is_draining = True
        await self._end_watching()
        proxies, self._proxies = list(self._proxies.values()), {}
        await asyncio.gather(*(proxy.release() for proxy in proxies), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._bus is not None:
            await self._bus.close()

    async def _end_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    # Who is there.

    def _bus_changed(self, change: BusChange) -> None:
        if change.state is BusState.RECONNECTED:
            self._roster.resumed(_now_ms())
            self._spawn(self._discover())

    def _beat(self, message: BusMessage) -> None:
        try:
            beat = read_beat(message.data)
        except MalformedError as error:
            log.debug("heartbeat not understood", subject=message.subject, why=str(error))
            return
        if self._roster.knows(beat.instance_id):
            self._roster.beat(beat.instance_id, beat.interval_s, _now_ms())
        elif beat.instance_id not in self._unfit and beat.instance_id not in self._asked and is_name(beat.instance_id):
            self._asked.add(beat.instance_id)
            self._spawn(self._ask(beat.instance_id, beat.interval_s))

    async def _ask(self, instance_id: str, interval_s: float) -> None:
        """Somebody new beats: who is it? Should nobody answer, its next heartbeat asks again."""
        try:
            info = await discovery.one(self._require_bus(), instance_id)
        finally:
            self._asked.discard(instance_id)
        if info is not None:
            await self._introduce(info, interval_s)

    async def _discover(self) -> None:
        with suppress(OrchestratorError):
            for info in await discovery.all_there(self._require_bus()):
                await self._introduce(info)

    async def _introduce(self, info: ServiceInfo, interval_s: float = DEFAULT_INTERVAL_S) -> None:
        try:
            peer = self._fitting(info)
        except UnfitError as error:
            if info.id not in self._unfit:
                log.info("not dispatched to", instance_id=info.id, metadata=info.metadata, why=str(error))
            self._unfit[info.id] = str(error)
            if len(self._unfit) > REMEMBERED:
                del self._unfit[next(iter(self._unfit))]
            return
        if len(self._roster) >= MOST and not self._roster.knows(peer.instance_id):
            log.warning("not dispatched to: too many agents", subject=peer.subject, limit=MOST)
            return
        self._apply(self._roster.introduce(peer, _now_ms(), interval_s=interval_s))
        # An older instance at the same place may have died: then this one is its successor.
        for other in self._roster.others(peer):
            await self._look_after(other)

    def _fitting(self, info: ServiceInfo) -> Peer:
        peer = peer_of(info, prefix=self._prefix or DEFAULT_PREFIX)
        missing = [f"{key}={value}" for key, value in self._only.items() if peer.metadata.get(key) != value]
        if missing:
            raise UnfitError(f"it has not {missing[0]}")
        return peer

    async def _watch(self) -> None:
        """Ask those that fell silent whether they live."""
        while True:
            self._changed.clear()
            due_ms = self._roster.next_due_ms()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due_ms is None else max(0, due_ms - _now_ms()) / 1000):
                    await self._changed.wait()
            bus = self._require_bus()
            if not bus.connected:
                self._roster.resumed(_now_ms())  # who could be heard?
                continue
            for instance_id in self._roster.silent(_now_ms()):
                await self._look_after(instance_id)

    async def _look_after(self, instance_id: str) -> None:
        bus = self._require_bus()
        if await discovery.lives(bus, instance_id):
            self._roster.beat(instance_id, DEFAULT_INTERVAL_S, _now_ms())
        elif bus.connected:
            self._apply(self._roster.gone(instance_id))

    # What follows from it.

    def _apply(self, changes: list[Change]) -> None:
        for change in changes:
            match change:
                case Joined(peer):
                    self._spawn(self._sign_in(peer))
                case Restarted(peer):
                    log.info("agent restarted", subject=peer.subject, instance_id=peer.instance_id)
                    self._spawn(self._sign_in(peer, self._proxies.pop(peer.subject, None)))
                case Left(subject):
                    log.info("agent is gone", subject=subject)
                    if (proxy := self._proxies.pop(subject, None)) is not None:
                        self._spawn(proxy.bury())
        self._changed.set()

    async def _sign_in(self, peer: Peer, predecessor: Proxy | None = None) -> None:
        if predecessor is not None:
            await predecessor.abandon()
        if self._is_draining:
            return
        log.info("agent found", subject=peer.subject, agent_id=peer.agent_id, instance_id=peer.instance_id)
        agent = Agent(
            peer.agent_id,
            capabilities=[*peer.capabilities, *self._capabilities],
            slots=self._slots,
            labels=peer.labels,
            pool=self._pool,
            prefix=self._prefix,
            version=peer.version,
            metadata=peer.metadata,
        )
        proxy = Proxy(
            peer,
            agent,
            self._require_bus(),
            task_types=self._task_types,
            idle_s=self._idle_s,
            on_nobody=lambda proxy: self._spawn(self._release(proxy)),
        )
        self._proxies[peer.subject] = proxy
        await proxy.serve(self._options)

    async def _release(self, proxy: Proxy) -> None:
        """Its prompt subject has no listener: it is gone, and has got nothing of what it was to do."""
        subject = proxy.peer.subject
        log.info("nobody listens", subject=subject)
        if self._proxies.get(subject) is proxy:
            del self._proxies[subject]
            self._roster.vacate(subject)
        await proxy.release()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _require_bus(self) -> Bus:
        if self._bus is None:
            raise RuntimeError("the fleet was not started")
        return self._bus


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.exception("a step of the dispatcher failed")


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
