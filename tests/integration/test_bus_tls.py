"""TLS with a real nats-server, and what a server without it gets to see when TLS was asked for: nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.support.tls import Authority, TlsNats
from tests.support.wire import INFO, greet, peer

from callboard.bus.client import Client
from callboard.bus.connection import Bus, BusChange, BusOptions, BusState
from callboard.bus.context import options_from_environment
from callboard.bus.embedded import EmbeddedNats
from callboard.schemas.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

TOKEN = "a-token-of-this-test"  # noqa: S105 - see its text


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
async def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TlsNats]:
    async with TlsNats(tmp_path_factory.mktemp("tls"), authority, token=TOKEN) as server:
        yield server


class Eavesdropper:
    """Greets as a server without TLS, and keeps what it is told."""

    def __init__(self) -> None:
        self.greeted = asyncio.Event()
        self.heard = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        self.greeted.set()
        while data := await reader.read(1024):
            self.heard += data
            if b"PING" in data:
                writer.write(b"PONG\r\n")


def encrypted(bus: Bus) -> bool:
    assert bus._link is not None
    return bus._link._transport._io_writer.get_extra_info("cipher") is not None  # type: ignore[union-attr]  # nats-py's


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_a_private_authority_is_all_that_is_needed(server: TlsNats, authority: Authority, scheme: str) -> None:
    options = options_from_environment(
        {"NATS_URL": f"{scheme}://{TOKEN}@127.0.0.1:{server.port}", "NATS_CA": str(authority.ca)}
    )
    async with asyncio.timeout(20), await Bus.connect(options, wait=False) as bus:
        assert encrypted(bus)
        await bus.subscribe("echo", lambda message: bus.send(message.reply, message.data))
        large = bytes(bus.max_payload)
        assert (await bus.request("echo", large, timeout_s=10)).data == large


async def test_a_server_that_asks_for_a_certificate_gets_it(tmp_path: Path, authority: Authority) -> None:
    variables = {"NATS_TOKEN": TOKEN, "NATS_CA": str(authority.ca)}
    pair = {"NATS_CERT": str(authority.client.certificate), "NATS_KEY": str(authority.client.key)}
    async with asyncio.timeout(30), TlsNats(tmp_path, authority, token=TOKEN, verify=True) as server:
        url = f"tls://127.0.0.1:{server.port}"
        async with await Bus.connect(options_from_environment(variables | pair, url=url), wait=False) as bus:
            await bus.rtt()
        with pytest.raises(UnavailableError):
            await Bus.connect(options_from_environment(variables, url=url), wait=False)


async def test_a_certificate_of_an_unknown_authority_is_refused(server: TlsNats) -> None:
    with pytest.raises(UnavailableError, match=f"127.0.0.1:{server.port}: .* not trusted .*: give .* NATS_CA"):
        await Bus.connect(BusOptions(servers=(f"tls://{TOKEN}@127.0.0.1:{server.port}",)), wait=False)


async def test_a_server_where_tls_is_optional_is_spoken_to_by_it(tmp_path: Path, authority: Authority) -> None:
    async with asyncio.timeout(20), TlsNats(tmp_path, authority, token=TOKEN, optional=True) as server:
        url = f"tls://{TOKEN}@127.0.0.1:{server.port}"
        async with await Bus.connect(BusOptions(servers=(url,), tls_ca=authority.ca), wait=False) as bus:
            assert encrypted(bus)
            await bus.rtt()


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_a_server_without_tls_is_refused(tmp_path: Path, authority: Authority, scheme: str) -> None:
    async with asyncio.timeout(20), EmbeddedNats(tmp_path, token=TOKEN, jetstream=False) as server:
        options = BusOptions(servers=(f"{scheme}://{TOKEN}@127.0.0.1:{server.port}",), tls_ca=authority.ca)
        with pytest.raises(ConfigurationError) as refused:
            async with Client.connect(options):
                pass
    assert refused.value.message.startswith(f"127.0.0.1:{server.port}: the server offers no TLS")
    assert TOKEN not in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(("scheme", "by_ca"), [("tls", False), ("TLS", False), ("nats", True)])
async def test_a_server_without_tls_is_told_nothing(authority: Authority, scheme: str, *, by_ca: bool) -> None:
    eavesdropper = Eavesdropper()
    async with peer(eavesdropper) as plain:
        url = plain.replace("nats://", f"{scheme}://{TOKEN}@")
        async with asyncio.timeout(20):
            with pytest.raises(ConfigurationError):
                await Bus.connect(BusOptions(servers=(url,), tls_ca=authority.ca if by_ca else None))
    assert eavesdropper.greeted.is_set()
    assert eavesdropper.heard == b""


async def test_a_server_that_comes_back_without_tls_is_told_nothing(tmp_path: Path, authority: Authority) -> None:
    states: asyncio.Queue[BusChange] = asyncio.Queue()
    eavesdropper = Eavesdropper()

    async def until(state: BusState, reason: str) -> None:
        while True:
            change = await states.get()
            if change.state is state and reason in change.reason:
                return

    async with asyncio.timeout(30), TlsNats(tmp_path, authority, token=TOKEN) as server:
        options = BusOptions(servers=(f"tls://{TOKEN}@127.0.0.1:{server.port}",), tls_ca=authority.ca, retry_max_s=0.2)
        async with await Bus.connect(options, on_change=states.put_nowait) as bus:
            await server.stop()
            async with peer(eavesdropper, server.port):
                await until(BusState.FAILED, f"127.0.0.1:{server.port}: the server offers no TLS")
            assert eavesdropper.heard == b""
            await server.start()
            await until(BusState.RECONNECTED, "")
            assert encrypted(bus)


async def test_what_a_server_gossips_is_not_dialled() -> None:
    learned = Eavesdropper()
    states: asyncio.Queue[BusState] = asyncio.Queue()
    connections = 0

    async with peer(learned) as elsewhere:

        async def gossips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            others = elsewhere.removeprefix("nats://").encode()
            await greet(reader, writer, greeting=INFO.replace(b"}", b',"connect_urls":["%s"]}' % others))
            if connections > 1:
                await reader.read()

        async with asyncio.timeout(20), peer(gossips) as url:
            options = BusOptions(servers=(url,), retry_max_s=0.1)
            async with await Bus.connect(options, on_change=lambda change: states.put_nowait(change.state)):
                while await states.get() is not BusState.RECONNECTED:
                    pass
    assert not learned.greeted.is_set()
