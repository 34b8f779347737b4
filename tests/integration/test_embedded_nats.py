"""The embedded nats-server: restarts, crashes, one owner, awkward paths, secrets."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

import nats
import pytest
from tests.support.processes import arguments_of, listening_addresses, uid_of

from callboard.bus import embedded
from callboard.bus.child import EmbeddedServerError
from callboard.bus.embedded import EmbeddedNats

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

AWKWARD = f'with space, comma, quote" and ünïcödé/{"long" * 30}'


async def stored(url: str) -> int:
    """Publish one message to the stream T and count what it holds."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        stream = client.jetstream()
        await stream.add_stream(name="T", subjects=["t"])
        await stream.publish("t", b"x")
        return (await stream.stream_info("T")).state.messages
    finally:
        await client.close()


async def greeting(port: int, connect: str) -> str:
    """What the server answers to CONNECT and PING."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        assert (await reader.readline()).startswith(b"INFO ")
        writer.write(f"CONNECT {connect}\r\nPING\r\n".encode())
        return (await reader.readline()).decode()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_restart_keeps_port_and_data(tmp_path: Path) -> None:
    server = EmbeddedNats(tmp_path, token="secret-1")  # noqa: S106 - a token of this test alone
    async with server:
        await server.start()
        first = (server.url, server.pid)
        assert await stored(server.url) == 1
    await server.stop()
    async with server:
        assert server.url == first[0]
        assert server.pid != first[1]
        assert await stored(server.url) == 2


async def test_a_killed_server_starts_again_on_its_port(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path, token=None) as server:
        port = server.port
        assert await stored(server.url) == 1
        await server.kill()
        assert await server.wait_exit() == -9
        await server.start()
        assert server.port == port
        assert await stored(server.url) == 2


async def test_an_awkward_path(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path / AWKWARD, token=None) as server:
        assert await stored(server.url) == 1


async def test_the_token_is_asked_for_and_kept_from_other_users(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path, token="secret-2") as server:  # noqa: S106 - a token of this test alone
        assert server.url == f"nats://secret-2@127.0.0.1:{server.port}"
        assert "Authorization Violation" in await greeting(server.port, '{"verbose": false}')
        assert "PONG" in await greeting(server.port, '{"verbose": false, "auth_token": "secret-2"}')
        assert b"secret-2" not in arguments_of(server.pid)
        assert stat.S_IMODE((server.data / "nats.conf").stat().st_mode) == 0o600
        assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    with pytest.raises(ValueError, match="token"):
        EmbeddedNats(tmp_path, token="a b")  # noqa: S106 - refused


async def test_it_is_never_root_and_listens_on_loopback_only(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path, token=None) as server:
        assert uid_of(server.pid) == (os.geteuid() or server.data.stat().st_uid)
        assert uid_of(server.pid) != 0
        assert os.getsid(server.pid) == server.pid
        assert listening_addresses(server.port) == ["0100007F"]


async def test_a_second_owner_is_refused_by_name(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path, token=None) as server:
        with pytest.raises(EmbeddedServerError, match=f"in use by process {os.getpid()}:"):
            await EmbeddedNats(tmp_path, token=None).start()
        assert await stored(server.url) == 1
    async with EmbeddedNats(tmp_path, token=None) as server:
        assert await stored(server.url) == 2


async def test_a_port_in_use_is_one_line_with_the_reason(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with taken:
        server = EmbeddedNats(tmp_path, port=taken.sockets[0].getsockname()[1], token=None)
        with pytest.raises(EmbeddedServerError, match="address already in use") as refused:
            await server.start()
    assert "\n" not in str(refused.value)
    assert str(server.log) in str(refused.value)
    async with server:
        assert await stored(server.url) == 1


async def test_the_session_server_is_shared(nats_server: EmbeddedNats) -> None:
    assert "PONG" in await greeting(nats_server.port, '{"verbose": false}')


async def test_a_missing_wheel_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "callboard-no-such-package")
    with pytest.raises(EmbeddedServerError, match=r"install callboard\[embedded\] or set NATS_URL and DATABASE_URL"):
        await EmbeddedNats(tmp_path, token=None).start()
