"""One spawned agent: its process, started again with back-off whenever it dies, until it leaves or is stopped.

One task owns the process from start to end; everything else only sets events. How it ends:
- exit status 0 without being asked: the agent left on purpose; it is not started again;
- any other end without being asked: back-off, then a new process with the same agent id;
- `stop`: SIGTERM, and SIGKILL of its group when the grace is over.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from callboard.orchestrator.agent_output import AgentOutput
from callboard.orchestrator.agent_process import AgentProcess
from callboard.orchestrator.logs import get_logger
from callboard.schemas.vocabulary import AgentState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """The back-off between a death and the next start."""

    first_ms: int = 500
    max_ms: int = 30_000
    stable_ms: int = 60_000
    """A process that lived this long starts with the first back-off again."""

    def delay_ms(self, deaths: int) -> int:
        """The wait after this many deaths in a row (at least 1)."""
        # The exponent is capped first: it grows with every death of an agent that never comes up.
        return min(self.first_ms << min(deaths - 1, 20), self.max_ms)


class SupervisedAgent:
    """Keeps one agent running; `start` once, then `stop`, which may be called again (the shortest grace holds).

    Args:
        pool: The agent's pool.
        agent_id: Its id.
        role: Its role.
        argv: What to start; the first entry is a path.
        env: The whole environment of the process.
        restart: The back-off.
        on_restart: Called when a process that died is replaced; must neither block nor raise.
    """

    def __init__(
        self,
        *,
        pool: str,
        agent_id: str,
        role: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        restart: RestartPolicy,
        on_restart: Callable[[], None],
    ) -> None:
        self.pool = pool
        self.agent_id = agent_id
        self.role = role
        self.restarts = 0
        self.last_status: int | None = None
        """Exit status of the last process that ended by itself, `-N` after signal N."""
        self._argv = argv
        self._env = env
        self._restart = restart
        self._on_restart = on_restart
        self._log = get_logger(pool=pool, agent_id=agent_id)
        self._online = asyncio.Event()
        self._stopping = asyncio.Event()
        self._process: AgentProcess | None = None
        self._running: asyncio.Task[None] | None = None
        self._grace_over = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The running process's id; none between two of them."""
        return None if self._process is None else self._process.pid

    @property
    def state(self) -> AgentState:
        """`starting`, `online`, `draining` while it is being stopped, `stopped`."""
        if self._running is not None and self._running.done():
            return AgentState.STOPPED
        if self.is_stopping:
            return AgentState.DRAINING
        return AgentState.ONLINE if self._online.is_set() else AgentState.STARTING

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping.is_set()

    def start(self, on_end: Callable[[], None]) -> None:
        """Begin; `on_end` is called once, when no process will be started any more."""
        self._running = asyncio.create_task(self._run(), name=f"agent {self.agent_id}")
        self._running.add_done_callback(lambda _: on_end())

    def came_online(self) -> None:
        """The orchestrator saw the agent register."""
        self._online.set()

    async def until_online(self) -> bool:
        """Wait until the agent is online (true) or has ended (false)."""
        if self._running is not None:
            await _either(self._running, self._online)
        return self._online.is_set()

    async def stop(self, grace_s: float) -> None:
        """End the agent and wait for it."""
        self._stopping.set()
        if self._running is not None and not self._running.done():
            timer = asyncio.get_running_loop().call_later(grace_s, self._grace_over.set)
            await asyncio.wait([self._running])
            timer.cancel()

    async def _run(self) -> None:
        deaths = 0
        while not self._stopping.is_set():
            lived_ms = await self._run_process()
            if self._stopping.is_set() or self.last_status == 0:
                return
            deaths = 1 if lived_ms >= self._restart.stable_ms else deaths + 1
            delay_ms = self._restart.delay_ms(deaths)
            self._log.warning("agent died, starting it again", status=self.last_status, delay_ms=delay_ms)
            await self._pause(delay_ms)

    async def _run_process(self) -> float:
        """Start a process, see it to its end; how long it lived, in ms."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            process = await AgentProcess.start(self._argv, env=self._env, output=self._output())
        except OSError as error:
            self._log.error("agent could not be started", error=str(error))
            self.last_status = None
            return 0
        self._process = process
        self._log.info("agent started", pid=process.pid, role=self.role)
        ended = asyncio.create_task(process.wait())
        try:
            await _either(ended, self._stopping)
            if ended.done():
                self.last_status = ended.result()
            else:
                process.terminate()
                await _either(ended, self._grace_over)
            if not ended.done():
                process.kill()
            status = await ended
        finally:
            if not ended.done():
                # This task is being cancelled: no process may be left behind.
                process.kill()
            self._process = None
            self._online.clear()
        self._log.info("agent ended", status=status)
        return (loop.time() - started) * 1000

    async def _pause(self, delay_ms: int) -> None:
        try:
            async with asyncio.timeout(delay_ms / 1000):
                await self._stopping.wait()
        except TimeoutError:
            self.restarts += 1
            self._on_restart()

    def _output(self) -> AgentOutput:
        return AgentOutput(
            on_line=lambda line: self._log.info("agent output", line=line),
            on_dropped=lambda count: self._log.warning("agent output dropped", lines=count),
        )


async def _either(task: asyncio.Task[Any], event: asyncio.Event) -> None:
    """Wait until `task` is done or `event` is set; cancels neither."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
