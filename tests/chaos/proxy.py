"""A TCP proxy whose links can be spoiled: one direction silent, slow, reset, or cut after a COMMIT was passed on.

Rules:
- A silent direction keeps its bytes, as a network does whose packets are sent again and again; when it heals they
  arrive. Whoever wants them lost resets the links.
- New connections are taken also while a direction is silent: whoever dials then waits for an answer that does not come.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.chaos.commit_watch import CommitWatch

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

HOST: Final = "127.0.0.1"
CHUNK: Final = 64 * 1024
Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Flow:
    """One direction of all links of a proxy."""

    def __init__(self) -> None:
        self.latency_s = 0.0
        self._clear = asyncio.Event()
        self._clear.set()

    def silence(self) -> None:
        """Pass nothing on."""
        self._clear.clear()

    def heal(self) -> None:
        """As if nothing had been."""
        self._clear.set()
        self.latency_s = 0.0

    async def passage(self) -> None:
        """Wait until what was read may be passed on."""
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        await self._clear.wait()


class Link:
    """One connection through a proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.commits = CommitWatch()
        self.is_doomed = False
        """The next answer of the server is not passed on: the link is cut instead."""

    def reset(self) -> None:
        """Cut it, at once and on both sides."""
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Passes connections on, from a fixed port for each of `dials` to what that reaches; spoilt are all at once."""

    def __init__(self, *dials: Dial) -> None:
        self.up, self.down = Flow(), Flow()
        """From client to server, and back."""
        self.ports: list[int] = []
        self.links: set[Link] = set()
        self.cut = asyncio.Event()
        """Set when a link was cut after a COMMIT."""
        self._cut_after_commit = False
        self._cut_after_bytes: int | None = None
        self._dials = dials
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        for dial in self._dials:
            server = await asyncio.start_server(partial(self._take, dial), HOST, 0)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        self.heal()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def silence(self) -> None:
        """Pass nothing on, in both directions."""
        self.up.silence()
        self.down.silence()

    def slow(self, latency_s: float) -> None:
        """Delay every piece of data, in both directions."""
        self.up.latency_s = self.down.latency_s = latency_s

    def heal(self) -> None:
        """As if nothing had been."""
        self.up.heal()
        self.down.heal()
        self._cut_after_commit = False
        self._cut_after_bytes = None

    def reset(self) -> None:
        """Cut all links, and whatever is on its way is lost."""
        for link in self.links:
            link.reset()

    def cut_after_commit(self) -> None:
        """Pass the next COMMIT on, and cut its link instead of passing the answer on; then `cut` is set."""
        self.cut.clear()
        self._cut_after_commit = True

    def cut_after_bytes(self, count: int) -> None:
        """Cut the link on which the `count`th byte from now would pass to its server, in the midst of a message."""
        self.cut.clear()
        self._cut_after_bytes = count

    def _take(self, dial: Dial, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(dial, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, dial: Dial, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, server = await dial()
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, server)
        self.links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump_up(link, reader))
                group.create_task(self._pump_down(link, upstream))
        finally:
            self.links.discard(link)
            link.reset()

    async def _pump_up(self, link: Link, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self.up.passage()
                if link.commits.sees_commit(data) and self._cut_after_commit:
                    self._cut_after_commit = False
                    link.is_doomed = True
                if self._cut_after_bytes is not None:
                    data, rest = data[: self._cut_after_bytes], self._cut_after_bytes - len(data)
                    self._cut_after_bytes = rest if rest > 0 else None
                    link.is_doomed = link.is_doomed or rest <= 0
                link.server.write(data)
                await link.server.drain()
        # A half-closed link is of no use to any of our protocols.
        link.reset()

    async def _pump_down(self, link: Link, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if link.is_doomed:
                    self.cut.set()
                    break
                await self.down.passage()
                link.client.write(data)
                await link.client.drain()
        link.reset()
