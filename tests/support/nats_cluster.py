"""Three nats-servers that are one cluster, each a process of its own, and where in it somebody is connected."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio

from callboard.bus.embedded import FREE_PORT, HOST, EmbeddedNats

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from callboard.bus.child import Account

WITHIN_S: Final = 30.0
LAME_DUCK: Final = {"lame_duck_grace_period": "1s", "lame_duck_duration": "30s"}
"""A second until the first client is sent away, one client a second after that: the shortest that the server allows."""


class Node(EmbeddedNats):
    """One server; its ports stay the same over restarts."""

    def __init__(self, directory: Path, others: list[Node]) -> None:
        super().__init__(directory, token=None, jetstream=False)
        self.cluster_port = FREE_PORT
        self._monitoring_port = FREE_PORT
        self._others = others
        """All nodes; this one among them does no harm."""

    def _write_configuration(self, account: Account | None) -> None:
        super()._write_configuration(account)
        file = self.data / "nats.conf"
        routes = [f"nats-route://{HOST}:{node.cluster_port}" for node in self._others if node.cluster_port != FREE_PORT]
        cluster = {"name": "test", "listen": f"{HOST}:{self.cluster_port}", "routes": routes}
        more = {"server_name": self.directory.name, "cluster": cluster, "http": f"{HOST}:{self._monitoring_port}"}
        file.write_text(json.dumps(json.loads(file.read_bytes()) | more | LAME_DUCK))

    async def _is_ready(self) -> bool:
        if not await super()._is_ready():
            return False
        [ports] = [json.loads(file.read_bytes()) for file in self.data.glob("*.ports")]
        self.cluster_port = urlsplit(ports["cluster"][0]).port
        self._monitoring_port = urlsplit(ports["monitoring"][0]).port
        return True

    async def tells(self, what: str) -> dict[str, Any]:
        """The server's own account: `connz`, `routez`."""
        async with await anyio.connect_tcp(HOST, self._monitoring_port) as stream:
            await stream.send(f"GET /{what} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
            text = b"".join([chunk async for chunk in stream])
        told: dict[str, Any] = json.loads(text.partition(b"\r\n\r\n")[2])
        return told

    async def connected(self) -> set[str]:
        """The names of those who are connected to it."""
        return {one["name"] for one in (await self.tells("connz"))["connections"]}

    def lame_duck(self) -> None:
        """As `nats-server --signal ldm=<pid>`: send everyone away, one after the other, and end."""
        os.kill(self.pid, signal.SIGUSR2)


class NatsCluster:
    """A cluster from `async with` to its end."""

    def __init__(self, directory: Path, *, size: int = 3) -> None:
        self.nodes: list[Node] = []
        self.nodes += [Node(directory / f"nats{number}", self.nodes) for number in range(size)]
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """All servers, as `NATS_URL` takes them."""
        return ",".join(node.url for node in self.nodes)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for node in self.nodes:
                await stack.enter_async_context(node)
            await self.until_whole()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def until_whole(self) -> None:
        """Wait until each node knows all others; a server has no signal for this."""
        async with asyncio.timeout(WITHIN_S):
            for node in self.nodes:
                while await _known(node) < len(self.nodes) - 1:  # noqa: ASYNC110 - see above
                    await asyncio.sleep(0.05)

    async def of(self, name: str) -> Node:
        """The node that whoever calls itself `name` is connected to.

        Raises:
            LookupError: none of them.
        """
        for node in self.nodes:
            if name in await node.connected():
                return node
        raise LookupError(f"{name} is connected to no node")


async def _known(node: Node) -> int:
    return len({route["remote_id"] for route in (await node.tells("routez"))["routes"]})
