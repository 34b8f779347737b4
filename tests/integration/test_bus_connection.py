"""The kept connection against a real nats-server, and against peers that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.support.wire import greet, peer, publish, publish_with_headers, send_raw

from callboard.bus import connection
from callboard.bus.connection import Bus, BusChange, BusMessage, BusOptions, BusState, NoRespondersError
from callboard.bus.context import options_from_environment
from callboard.bus.embedded import EmbeddedNats
from callboard.schemas.errors import (
    ConfigurationError,
    InvalidRequestError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


class Changes:
    """What a bus told, and a way to await it."""

    def __init__(self) -> None:
        self.seen: list[BusChange] = []
        self._more = asyncio.Event()

    def __call__(self, change: BusChange) -> None:
        self.seen.append(change)
        self._more.set()

    @property
    def states(self) -> list[BusState]:
        return [change.state for change in self.seen]

    async def so_many(self, number: int) -> None:
        async with asyncio.timeout(20):
            while len(self.seen) < number:
                self._more.clear()
                await self._more.wait()

    async def until(self, state: BusState) -> BusChange:
        async with asyncio.timeout(20):
            while True:
                for change in self.seen:
                    if change.state is state:
                        return change
                self._more.clear()
                await self._more.wait()


@pytest.fixture
async def bus(nats_server: EmbeddedNats) -> AsyncIterator[Bus]:
    async with await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus:
        yield bus


@pytest.fixture(scope="module")
async def token_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedNats]:
    token = "right"  # noqa: S105 - a token of these tests alone
    async with EmbeddedNats(tmp_path_factory.mktemp("token"), token=token, jetstream=False) as server:
        yield server


async def settled(*buses: Bus) -> None:
    """Everything published before on the first bus has been delivered to the last one."""
    for bus in buses:
        await bus.flush()


async def test_a_request_is_answered(bus: Bus, nats_server: EmbeddedNats) -> None:
    async with await Bus.connect(BusOptions(servers=(nats_server.url,))) as asker:
        await bus.subscribe("echo", lambda message: bus.send(message.reply, message.data, headers={"X": "y"}))
        await bus.flush()
        answer = await asker.request("echo", b"hi", timeout_s=5, headers={"A": "b"})
    assert (answer.data, answer.headers, answer.status) == (b"hi", {"X": "y"}, None)


async def test_malformed_messages_are_dropped_and_the_connection_lives(bus: Bus, nats_server: EmbeddedNats) -> None:
    got: list[BusMessage] = []
    await bus.subscribe("raw.>", got.append)
    await bus.flush()
    await send_raw(
        nats_server.url,
        publish(b"raw.\xff", b"1"),
        publish(b"raw.a", b"2", reply=b"_INBOX.\xfe\xff"),
        publish(b"raw.a", b"vertical tab", reply=b"_INBOX.a\x0bb"),
        publish(b"raw.form\x0cfeed", b"form feed"),
        publish_with_headers(b"raw.a", b"NATS/1.0 \xff\xfe\xfd\r\n\r\n", b"status"),
        publish_with_headers(b"raw.a", b"NATS/1.0\r\n\xff: a\r\nB: \xff\r\nno colon\r\n\r\n", b"headers"),
        publish_with_headers(b"raw.a", b"NATS/1.0", b"stub"),
        publish_with_headers(b"raw.a", b"?", b"not a version"),
        publish(b"raw.a", b"\xff\x00"),
        publish(b"raw.last", b"last"),
    )
    await settled(bus)
    assert [message.data for message in got] == [
        b"vertical tab",
        b"form feed",
        b"status",
        b"headers",
        b"stub",
        b"not a version",
        b"\xff\x00",
        b"last",
    ]
    assert got[0].reply == "_INBOX.a\x0bb"
    assert got[2].status is None
    assert got[3].headers == {"B": "\ufffd"}
    assert bus.malformed == 2
    assert bus.connected


async def test_order_holds_across_subscriptions(bus: Bus, nats_server: EmbeddedNats) -> None:
    got: list[bytes] = []
    for subject in ("order.a", "order.b"):
        await bus.subscribe(subject, lambda message: got.append(message.data))
    await bus.flush()
    async with await Bus.connect(BusOptions(servers=(nats_server.url,))) as other:
        for number in range(1000):
            other.send(f"order.{'ab'[number % 2]}", b"%d" % number)
        await settled(other, bus)
    assert got == [b"%d" % number for number in range(1000)]


async def test_a_failing_delivery_stops_nothing(bus: Bus) -> None:
    got: list[bytes] = []

    def deliver(message: BusMessage) -> None:
        got.append(message.data)
        raise ZeroDivisionError

    await bus.subscribe("failing", deliver)
    bus.send("failing", b"1")
    bus.send("failing", b"2")
    await bus.flush()
    assert got == [b"1", b"2"]


async def test_nothing_is_delivered_after_unsubscribe(bus: Bus) -> None:
    got: list[BusMessage] = []
    subscription = await bus.subscribe("ended", got.append)
    await subscription.unsubscribe()
    await subscription.unsubscribe()
    bus.send("ended", b"")
    await bus.flush()
    assert got == []


async def test_no_responders(bus: Bus) -> None:
    with pytest.raises(NoRespondersError):
        await bus.request("nobody.listens", b"", timeout_s=5)


async def test_a_late_answer_is_ignored_after_the_time_out(bus: Bus) -> None:
    asked: list[BusMessage] = []
    await bus.subscribe("slow", asked.append)
    with pytest.raises(OutcomeUnknownError, match=r"no answer within 0\.05 s"):
        await bus.request("slow", b"", timeout_s=0.05)
    bus.send(asked[0].reply, b"late")
    await bus.flush()
    with pytest.raises(NoRespondersError):
        await bus.request("nobody.listens", b"", timeout_s=5)
    assert len(bus._requests) == 0


async def test_a_cancelled_request_leaves_nothing(bus: Bus) -> None:
    asked = asyncio.Event()
    await bus.subscribe("mute", lambda _: asked.set())
    request = asyncio.create_task(bus.request("mute", b"", timeout_s=30))
    async with asyncio.timeout(5):
        await asked.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    assert len(bus._requests) == 0


@pytest.mark.parametrize(
    "subject", ["", "a b", "a..b", ".a", "a.", "a.*", "a.>", "a\r\nPUB b", "a\x00", "\ud800", "a" * 1025]
)
async def test_what_is_no_subject_is_refused(bus: Bus, subject: str) -> None:
    with pytest.raises(InvalidRequestError):
        await bus.publish(subject, b"")
    with pytest.raises(InvalidRequestError):
        await bus.request(subject, b"", timeout_s=5)
    await bus.rtt()
    assert len(bus._requests) == 0


async def test_the_largest_message_passes_and_one_byte_more_is_refused(bus: Bus) -> None:
    got: list[int] = []
    await bus.subscribe("large", lambda message: got.append(len(message.data)))
    headers = {"A": "b"}
    room = bus.max_payload - len(b"NATS/1.0\r\nA: b\r\n\r\n")
    await bus.publish("large", bytes(room), headers=headers)
    await bus.publish("large", bytes(bus.max_payload))
    with pytest.raises(PayloadTooLargeError) as refused:
        await bus.publish("large", bytes(room + 1), headers=headers)
    assert refused.value.details == {"path": "", "bytes": bus.max_payload + 1, "limit": bus.max_payload}
    with pytest.raises(PayloadTooLargeError):
        await bus.publish("large", bytes(bus.max_payload + 1))
    await bus.flush()
    assert got == [room, bus.max_payload]


async def test_a_line_break_in_a_header_starts_no_command(bus: Bus) -> None:
    got: list[BusMessage] = []
    await bus.subscribe("injected", got.append)
    await bus.publish("injected", b"", headers={"A": "b\r\nC: d\r\n\r\nPUB injected 0\r\n\r\n"})
    with pytest.raises(InvalidRequestError):
        await bus.publish("injected", b"", headers={"A: b\r\nC": "d"})
    await bus.flush()
    assert len(got) == 1
    assert got[0].headers is not None
    assert list(got[0].headers) == ["A"]


async def test_a_restart_keeps_subscriptions_and_replays_nothing(tmp_path: Path) -> None:
    changes = Changes()
    got: list[bytes] = []
    async with EmbeddedNats(tmp_path, token=None) as server:
        options = BusOptions(servers=(server.url,), retry_max_s=0.2)
        async with await Bus.connect(options, on_change=changes) as bus:
            await bus.subscribe("restart", lambda message: got.append(message.data))
            await bus.subscribe("mute", lambda _: None)
            await bus.publish("restart", b"before")
            await bus.flush()
            in_flight = asyncio.ensure_future(bus.request("mute", b"", timeout_s=60))
            await asyncio.sleep(0)  # until it is sent
            await server.stop()
            await changes.until(BusState.DISCONNECTED)
            with pytest.raises(OutcomeUnknownError, match="lost before the answer"):
                await in_flight
            assert not bus.connected
            for refused in (
                bus.publish("restart", b"while away"),
                bus.request("restart", b"while away", timeout_s=60),
                bus.flush(),
                bus.rtt(),
            ):
                with pytest.raises(UnavailableError):
                    await refused
            await bus.subscribe("made.while.away", lambda message: got.append(message.data))
            await changes.until(BusState.FAILED)
            await server.start()
            await changes.until(BusState.RECONNECTED)
            await bus.publish("restart", b"after")
            await bus.publish("made.while.away", b"new")
            await bus.flush()
    assert got == [b"before", b"after", b"new"]
    assert [s for s in changes.states if s is not BusState.FAILED] == [
        BusState.CONNECTED,
        BusState.DISCONNECTED,
        BusState.RECONNECTED,
        BusState.CLOSED,
    ]


async def test_a_limit_that_was_lowered_and_raised_again_is_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = Changes()
    message = bytes(10_000)
    async with EmbeddedNats(tmp_path, token=None, jetstream=False) as server:
        options = BusOptions(servers=(server.url,), retry_max_s=0.2)
        async with await Bus.connect(options, on_change=changes) as bus:
            before = bus.max_payload
            reload_with(server, max_payload=8192)
            with pytest.raises(PayloadTooLargeError):
                await until_refused(bus, message)
            reload_with(server, max_payload=before)
            async with asyncio.timeout(20):
                while await limit_of(server) != before:
                    pass
            changes.seen.clear()
            monkeypatch.setattr(connection, "ASK_LIMIT_AGAIN_S", 0.0)
            with pytest.raises(PayloadTooLargeError):
                await bus.publish("raised", message)
            await changes.until(BusState.RECONNECTED)
            await bus.publish("raised", message)
            with pytest.raises(PayloadTooLargeError):  # one that has never passed asks for nothing
                await bus.publish("raised", bytes(before + 1))
            await bus.flush()
            assert changes.states == [BusState.DISCONNECTED, BusState.RECONNECTED]


def reload_with(server: EmbeddedNats, *, max_payload: int) -> None:
    file = server.data / "nats.conf"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_payload": max_payload}))
    os.kill(server.pid, signal.SIGHUP)


async def until_refused(bus: Bus, message: bytes) -> None:
    """Publish until the bus refuses it: until the server has closed a connection over it, it passes."""
    async with asyncio.timeout(20):
        while True:
            try:
                await bus.publish("lowered", message)
                await bus.flush()
            except UnavailableError:
                await asyncio.sleep(0)  # the connection is being dialled again


async def limit_of(server: EmbeddedNats) -> int:
    """What the server tells who connects now."""
    async with await Bus.connect(BusOptions(servers=(server.url,))) as bus:
        return bus.max_payload


async def test_a_complaint_of_the_server_is_reported_and_survived(nats_server: EmbeddedNats) -> None:
    changes = Changes()
    options = BusOptions(servers=(nats_server.url,))
    async with await Bus.connect(options, on_change=changes) as bus:
        assert bus._link is not None
        bus._link.post(b"NONSENSE\r\n")
        lost = await changes.until(BusState.DISCONNECTED)
        assert "Unknown Protocol Operation" in lost.reason
        await changes.until(BusState.RECONNECTED)
        await bus.rtt()


async def test_the_server_that_was_lost_is_tried_last(nats_server: EmbeddedNats, tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path, token=None) as other:
        changes = Changes()
        options = BusOptions(servers=(nats_server.url, other.url))
        async with await Bus.connect(options, on_change=changes) as bus:
            assert bus._link is not None
            bus._link.lose("by this test")
            again = await changes.until(BusState.RECONNECTED)
        assert {changes.seen[0].reason, again.reason} == set(options.addresses)


def test_a_cluster_is_shared() -> None:
    options = BusOptions(servers=("nats://a", "nats://b"))
    assert {Bus(options, None)._servers[0] for _ in range(64)} == set(options.servers)


async def test_without_waiting_the_reason_is_raised() -> None:
    async with peer(lambda *_: asyncio.Event().wait()) as mute:  # type: ignore[arg-type]  # waits for ever
        options = BusOptions(servers=("127.0.0.1:1", mute), connect_timeout_s=0.2)
        with pytest.raises(UnavailableError) as failed:
            await Bus.connect(options, wait=False)
    assert "127.0.0.1:1: " in failed.value.message
    assert f"{mute.removeprefix('nats://')}: no answer within 0.2 s" in failed.value.message


async def test_waiting_reports_every_failure_and_can_be_cancelled(tmp_path: Path) -> None:
    changes = Changes()
    async with EmbeddedNats(tmp_path, token="right") as server:  # noqa: S106 - a token of this test alone
        options = BusOptions(servers=(f"nats://wrong@127.0.0.1:{server.port}",))
        connecting = asyncio.create_task(Bus.connect(options, on_change=changes))
        failed = await changes.until(BusState.FAILED)
        assert failed.reason == f"127.0.0.1:{server.port}: authorization failed: mend the token in the address"
        assert "wrong" not in failed.reason
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        assert connecting.cancelled()
        async with await Bus.connect(BusOptions(servers=(server.url,)), wait=False) as bus:
            assert bus.connected


@pytest.mark.parametrize(
    ("user", "variables", "remedy"),
    [
        ("u:wrong@", {}, "mend the user and the password in the address"),
        ("", {"NATS_USER": "u", "NATS_PASSWORD": "wrong"}, "mend NATS_USER and NATS_PASSWORD"),
        ("", {"NATS_TOKEN": "wrong"}, "mend NATS_TOKEN"),
        ("wrong@", {"NATS_USER": "u", "NATS_PASSWORD": "wrong"}, "mend NATS_USER and NATS_PASSWORD"),
        ("", {}, "give NATS_CREDS, NATS_NKEY, NATS_TOKEN, or NATS_USER and NATS_PASSWORD"),
    ],
)
async def test_credentials_that_are_not_taken_are_named_by_their_setting(
    token_server: EmbeddedNats, user: str, variables: dict[str, str], remedy: str
) -> None:
    url = f"nats://{user}127.0.0.1:{token_server.port}"
    with pytest.raises(UnavailableError) as failed:
        await Bus.connect(options_from_environment(variables, url=url), wait=False)
    where = f"127.0.0.1:{token_server.port}"
    assert failed.value.message == f"NATS cannot be reached: {where}: authorization failed: {remedy}"


async def test_attempts_that_fail_alike_are_logged_less_and_less() -> None:
    changes = Changes()

    async def closes(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with capture_logs() as logs:
        async with peer(closes) as url:
            options = BusOptions(servers=(url,), retry_min_s=0.001, retry_max_s=0.001)
            connecting = asyncio.create_task(Bus.connect(options, on_change=changes))
            await changes.so_many(17)
        closed = len(changes.seen)
        await changes.so_many(closed + 1)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
    reasons = [change.reason for change in changes.seen]
    alike = reasons.count(reasons[0])
    assert len(set(reasons)) == 2
    assert [(line["reason"], line["attempts"]) for line in logs][:5] == [(reasons[0], n) for n in (1, 2, 4, 8, 16)]
    assert (reasons[alike], 1) in [(line["reason"], line["attempts"]) for line in logs]
    assert len(logs) <= 8


async def test_a_configuration_that_cannot_work_is_not_retried(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.pem"):
        await Bus.connect(BusOptions(tls_ca=tmp_path / "absent.pem"))


async def test_silence_loses_the_connection() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await reader.read()

    changes = Changes()
    async with peer(deaf) as url:
        options = BusOptions(servers=(url,), ping_interval_s=0.05)
        async with await Bus.connect(options, on_change=changes) as bus:
            with pytest.raises(UnavailableError):
                await bus.rtt(0.05)
            lost = await changes.until(BusState.DISCONNECTED)
    assert "stale" in lost.reason.lower()


async def test_a_pong_after_its_waiter_gave_up_stops_nothing() -> None:
    late = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await reader.readuntil(b"PING\r\n")
        await late.wait()
        writer.write(b"PONG\r\n")
        await greet(reader, writer, pings=1)
        await reader.read()

    async with peer(slow) as url, await Bus.connect(BusOptions(servers=(url,))) as bus:
        with pytest.raises(UnavailableError, match=r"silent for 0\.05 s"):
            await bus.rtt(0.05)
        late.set()
        await bus.rtt()
        assert bus.connected


async def test_a_broken_frame_loses_the_connection_with_its_reason() -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        writer.write(b"MSG a b c d e\r\n")
        await reader.read()

    changes = Changes()
    async with peer(broken) as url, await Bus.connect(BusOptions(servers=(url,)), on_change=changes):
        assert "not a message's line" in (await changes.until(BusState.DISCONNECTED)).reason


async def flood(bus: Bus) -> None:
    for _ in range(1000):
        bus.send("flood", bytes(bus.max_payload))
        await asyncio.sleep(0)  # lets the writer write


async def test_a_peer_that_reads_nothing_fills_no_memory_and_delays_no_close() -> None:
    async def stalled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await asyncio.Event().wait()

    async with peer(stalled) as url:
        bus = await Bus.connect(BusOptions(servers=(url,)))
        with pytest.raises(UnavailableError, match="unread"):
            await flood(bus)
        async with asyncio.timeout(5):
            await bus.close()


async def test_closing_twice_is_closing_once(nats_server: EmbeddedNats) -> None:
    changes = Changes()
    bus = await Bus.connect(BusOptions(servers=(nats_server.url,)), on_change=changes)
    waiting = asyncio.ensure_future(bus.request(bus.new_inbox(), b"", timeout_s=60))
    await asyncio.sleep(0)  # until it is sent
    await bus.close()
    await bus.close()
    assert changes.states == [BusState.CONNECTED, BusState.CLOSED]
    with pytest.raises((OutcomeUnknownError, NoRespondersError)):
        await waiting
    with pytest.raises(UnavailableError, match="closed"):
        bus.send("a", b"")


async def test_what_was_sent_before_close_arrives(bus: Bus, nats_server: EmbeddedNats) -> None:
    got: list[bytes] = []
    await bus.subscribe("goodbye", lambda message: got.append(message.data))
    await bus.flush()
    other = await Bus.connect(BusOptions(servers=(nats_server.url,)))
    other.send("goodbye", b"1")
    await other.close()
    await bus.flush()
    assert got == [b"1"]


async def test_what_was_sent_before_the_connection_was_given_up_arrives(bus: Bus, nats_server: EmbeddedNats) -> None:
    """In one turn: what `send` has accepted is on its way, whatever is found out about the connection after it."""
    arrived = asyncio.Event()
    async with await Bus.connect(BusOptions(servers=(nats_server.url,))) as side:
        await side.subscribe("last.word", lambda _message: arrived.set())
        await side.flush()
        bus.send("last.word", b"")
        assert bus._link is not None
        bus._link.lose("asking for the limit again")
        async with asyncio.timeout(5):
            await arrived.wait()
