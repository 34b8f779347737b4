"""An agent: handlers for task types, and its life from signing in to leaving.

agent = Agent("reviewer-1", capabilities=["python"], slots=4)

@agent.task("review")
async def review(ctx: TaskContext) -> dict[str, int]:
    await ctx.progress(50, "half-way")
    return {"lines": len(ctx.payload["text"].splitlines())}

asyncio.run(agent.run())
"""

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from callboard.agents.handlers import Handler, HandlerHost, Handlers
from callboard.agents.runtime import Runtime
from callboard.agents.session import events as ev
from callboard.agents.session.effects import Exit
from callboard.agents.settings import AgentSettings
from callboard.agents.signals import ending_on_signals
from callboard.bus.context import options_from_environment
from callboard.bus.logs import default_to_standard_error
from callboard.bus.options import BusOptions
from callboard.schemas.errors import ConfigurationError, from_body
from callboard.schemas.labels import LabelValue

H = TypeVar("H", bound=Handler)

_COMMON_INBOX: Final = "_INBOX"


class Agent:
    """One agent of one pool. What is not given comes of the environment.

    Args:
        agent_id: `CALLBOARD_AGENT_ID`, else a new one. A newer process with the same id replaces this one.
        capabilities: `CALLBOARD_CAPABILITIES`, comma separated.
        role: `CALLBOARD_ROLE`.
        slots: how many handlers may run at once; `CALLBOARD_SLOTS`, else 1.
        labels: `CALLBOARD_LABELS`, a JSON object.
        pool: `CALLBOARD_POOL`, else `default`.
        prefix: of all subjects; `CALLBOARD_PREFIX`, else `callboard`.
        version: of the agent's program, shown to operators.
        metadata: shown to operators.

    Raises:
        ConfigurationError: something of this cannot be used.
    """

    def __init__(
        self,
        agent_id: str | None = None,
        *,
        capabilities: Iterable[str] | None = None,
        role: str | None = None,
        slots: int | None = None,
        labels: Mapping[str, LabelValue] | None = None,
        pool: str | None = None,
        prefix: str | None = None,
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        settings = AgentSettings(
            agent_id=agent_id,
            role=role,
            capabilities=capabilities,
            labels=labels,
            slots=slots,
            pool=pool,
            prefix=prefix,
            version=version,
            metadata=metadata,
        )
        self._identity = settings.identity()
        self._handlers = Handlers()
        self._runtime: Runtime | None = None
        self._host: HandlerHost | None = None
        self._end: ev.DrainRequested | ev.StopRequested | None = None
        """The last wish to end, which may come before there is anything that could."""

    @property
    def agent_id(self) -> str:
        """The name that it signs in with."""
        return self._identity.agent_id

    @property
    def incarnation(self) -> str:
        """The UUID of this process's turn as that agent."""
        return self._identity.incarnation

    def task(self, task_type: str) -> Callable[[H], H]:
        """Decorate the handler of a task type, or of every other type with `"*"`.

        An asynchronous handler runs on the loop that runs the agent, a synchronous one in a thread. What it returns is
        the result, any JSON value; what it raises fails the attempt (see `TaskFailed`). A cancel cancels the coroutine,
        or sets `ctx.cancelled`.

        Raises:
            ConfigurationError: the type is not a name, or has a handler already.
        """

        def decorate(handler: H) -> H:
            self._handlers.add(task_type, handler)
            return handler

        return decorate

    async def run(self, url: str | BusOptions | None = None) -> None:
        """Serve until drained by SIGTERM or SIGINT, shut down, or stopped; a second signal stops within a second.

        Args:
            url: as `start`.

        Raises:
            ConfigurationError: NATS cannot be reached as configured, for good.
            IncarnationReplacedError: a newer process has this agent's id.
            OrchestratorError: the orchestrator refused the registration for good.
        """
        with ending_on_signals(self.request_drain, self.request_stop):
            try:
                await self.start(url)
                await self.wait()
            finally:
                await self.stop()

    async def start(self, url: str | BusOptions | None = None) -> None:
        """Sign in and serve in the background of this event loop; returns when the orchestrator has taken the agent in.

        While NATS or the orchestrator is away it waits, logging why. May be called twice.

        Args:
            url: `nats://…`, or all options; `None`: as the `NATS_*` variables and context files say.

        Raises:
            The same as `run`.
        """
        if self._runtime is None:
            self._begin(url)
        runtime = self._running()
        either: list[asyncio.Future[Any]] = [
            asyncio.wrap_future(runtime.registered),
            asyncio.wrap_future(runtime.finished),
        ]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if runtime.finished.done():
            _raise_for(runtime.finished.result())

    async def wait(self) -> None:
        """Until the agent is over; raises the same as `run`."""
        _raise_for(await _ended(self._running()))

    async def drain(self) -> None:
        """Take nothing new, finish what runs, have it recorded, leave."""
        self.request_drain()
        await self.wait()

    async def stop(self, *, grace_s: float = 0.0) -> None:
        """End within `grace_s` seconds and one more: what is not finished then is cancelled and given back.

        May be called twice, and without `start`.
        """
        if self._runtime is None or self._host is None:
            return
        self._runtime.post(ev.StopRequested(round(grace_s * 1000)))
        try:
            # How it ended is for `wait` to tell; here it only matters that it did.
            await asyncio.gather(_ended(self._runtime), return_exceptions=True)
        finally:
            await self._host.close()

    async def abandon(self) -> None:
        """End without a word, as if the process had died: what it ran is `crashed` when its lease is over.

        For whoever stands for something that died itself. May be called twice, and without `start`.
        """
        if self._runtime is None or self._host is None:
            return
        self._runtime.post(ev.AbandonRequested())
        try:
            await asyncio.gather(_ended(self._runtime), return_exceptions=True)
        finally:
            await self._host.close()

    def request_drain(self) -> None:
        """Begin to `drain`, from any thread; an agent that is not started yet ends when it is."""
        self._request_end(ev.DrainRequested())

    def request_stop(self) -> None:
        """Begin to `stop`, from any thread; an agent that is not started yet ends when it is."""
        self._request_end(ev.StopRequested())

    def _request_end(self, wish: ev.DrainRequested | ev.StopRequested) -> None:
        # In this order: a signal may come in the midst of `_begin`, which looks for a wish when there is a runtime.
        self._end = wish
        if self._runtime is not None:
            self._runtime.post(wish)

    def _begin(self, url: str | BusOptions | None) -> None:
        if self._handlers.types == frozenset():
            raise ConfigurationError("the agent has no handler: decorate one with @agent.task(...)")
        default_to_standard_error()
        options = url if isinstance(url, BusOptions) else options_from_environment(url=url)
        if options.inbox_prefix == _COMMON_INBOX:
            # The one inbox that an agent's user may listen to (protocol, section 1).
            options = dataclasses.replace(options, inbox_prefix=f"_INBOX.{self.agent_id}")
        options = dataclasses.replace(options, name=f"callboard agent {self.agent_id}")
        host = HandlerHost(self._handlers, self.agent_id)
        runtime = Runtime(
            self._identity,
            options,
            self._handlers.types,
            start_handler=lambda effect: host.start(effect, runtime.post),
            cancel_handler=host.cancel,
            answer_handler=host.answer,
        )
        self._host, self._runtime = host, runtime
        runtime.start()
        if self._end is not None:
            runtime.post(self._end)

    def _running(self) -> Runtime:
        if self._runtime is None:
            raise RuntimeError("the agent was not started")
        return self._runtime


async def _ended(runtime: Runtime) -> Exit:
    # Shielded: whoever gives up waiting must not cancel the future that others wait for.
    return await asyncio.shield(asyncio.wrap_future(runtime.finished))


def _raise_for(exit_: Exit) -> None:
    if exit_.error is not None:
        raise from_body(exit_.error)
