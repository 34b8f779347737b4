"""What `callboard.bus.link` relies on inside nats-py: when one fails, read that module before raising the pin."""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect

import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser

from callboard.bus.link import Link

pytestmark = pytest.mark.anyio


def source(member: object) -> str:
    assert callable(member)
    return inspect.getsource(member)


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("nats-py").startswith("2.16.")


@pytest.mark.parametrize(
    "method", ["_select_next_server", "_process_info", "_read_loop", "_process_op_err", "_send_ping"]
)
def test_what_is_replaced_exists_with_the_same_parameters(method: str) -> None:
    ours, theirs = (inspect.signature(getattr(kind, method)).parameters for kind in (Link, Client))
    assert list(ours) == list(theirs)


def test_the_handshake_starts_our_read_loop_and_the_ping_and_flusher_tasks() -> None:
    handshake = source(Client._process_connect_init)
    for call in ("_reading_task", "self._read_loop()", "self._ping_interval()", "self._flusher()"):
        assert call in handshake


def test_the_greeting_is_judged_before_it_is_looked_at_for_tls_and_before_credentials_are_sent() -> None:
    handshake = source(Client._process_connect_init)
    steps = (
        "self._server_info = srv_info",
        "await self._process_info(srv_info, initial_connection=True)",
        '"tls_required" in self._server_info',
        "await self._transport.connect_tls(",
        "self._transport.write(connect_cmd)",
    )
    places = [handshake.rindex(step) for step in steps]
    assert places == sorted(places)
    assert handshake.count("self._transport.write(") == 2  # CONNECT, and the PING after it


def test_connecting_without_reconnection_tries_once_and_raises() -> None:
    connect = source(Client.connect)
    assert "await self._select_next_server()" in connect
    assert 'if not self.options["allow_reconnect"]:\n                    raise e' in connect


def test_silence_ends_in_process_op_err() -> None:
    pinging = source(Client._ping_interval)
    assert "await self._process_op_err(ErrStaleConnection())" in pinging
    assert "await self._send_ping()" in pinging


def test_the_flusher_writes_what_is_pending_when_it_is_woken() -> None:
    flusher = source(Client._flusher)
    for part in ("await self._flush_queue.get()", "self._transport.writelines(self._pending[:])", "self._pending = []"):
        assert part in flusher


async def test_the_attributes_that_we_touch_exist() -> None:
    client = Client()
    for name in (
        "_pending",
        "_pending_data_size",
        "_flush_queue",
        "_pongs",
        "_pings_outstanding",
        "_status",
        "_server_info",
        "_max_payload",
        "_reading_task",
        "_ping_interval_task",
        "_flusher_task",
        "_transport",
        "_server_pool",
        "_current_server",
    ):
        assert hasattr(client, name)
    assert "self._io_writer" in source(TcpTransport.__init__)
    assert "self._io_writer.write(payload)" in source(TcpTransport.write)


class Listener:
    """What nats-py's parser calls."""

    async def _process_msg(self, *_message: object) -> None:
        return


async def test_their_parser_still_breaks_at_a_vertical_tab() -> None:
    """When this fails, the upstream parser may serve again and ours go."""
    with pytest.raises(Exception, match="nats"):
        await Parser(Listener()).parse(b"MSG foo 1 _INBOX.a\x0bb 2\r\nhi\r\n")


async def test_their_pong_still_breaks_on_a_waiter_that_gave_up() -> None:
    """When this fails, the upstream `_process_pong` may serve again."""
    client = Client()
    gave_up: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    gave_up.cancel()
    client._pongs.append(gave_up)
    with pytest.raises(asyncio.InvalidStateError):
        await client._process_pong()
