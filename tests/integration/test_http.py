"""The HTTP side over real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from callboard.orchestrator import http
from callboard.orchestrator.http import HttpServer
from callboard.orchestrator.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio

PATIENCE_S = 20


async def _well() -> dict[str, str]:
    return {}


@asynccontextmanager
async def _serving(**options: Any) -> AsyncIterator[HttpServer]:  # noqa: ANN401 - the server's own options
    defaults: dict[str, Any] = {"registry": Metrics().registry, "ready": _well}
    server = HttpServer("127.0.0.1", 0, **(defaults | options))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def _get(server: HttpServer, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


async def test_a_free_port_is_known_after_start() -> None:
    async with _serving() as server:
        assert server.port > 0
        assert server.url == f"http://127.0.0.1:{server.port}"


async def test_healthz_is_alive_also_while_nothing_is_ready() -> None:
    async with _serving(ready=asyncio.Event().wait) as server:
        status, _, body = await _get(server, "/healthz")
    assert (status, json.loads(body)) == (200, {"alive": True})


async def test_metrics_are_set_right_before_they_are_shown() -> None:
    metrics = Metrics()
    scraped = []

    def refresh() -> None:
        scraped.append(1)
        metrics.bus_connected.set(len(scraped))

    async with _serving(registry=metrics.registry, before_scrape=refresh) as server:
        await _get(server, "/metrics")
        status, headers, body = await _get(server, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {s.name: s.value for family in text_string_to_metric_families(body.decode()) for s in family.samples}
    assert samples["callboard_bus_connected"] == 2


async def test_readyz_answers_the_round_trip() -> None:
    reasons: dict[str, str] = {}

    async def ready() -> dict[str, str]:
        return reasons

    async with _serving(ready=ready) as server:
        status, _, body = await _get(server, "/readyz")
        assert (status, json.loads(body)) == (200, {"ready": True, "reasons": {}})
        reasons["database"] = "connection refused"
        status, _, body = await _get(server, "/readyz")
        assert (status, json.loads(body)) == (503, {"ready": False, "reasons": {"database": "connection refused"}})


async def test_readyz_of_a_check_that_fails_tells_no_secrets() -> None:
    async def ready() -> dict[str, str]:
        raise RuntimeError("password=hunter2")

    async with _serving(ready=ready) as server:
        status, _, body = await _get(server, "/readyz")
    assert status == 503
    assert json.loads(body)["reasons"] == {"orchestrator": "the check failed, see the log"}


async def test_readyz_of_a_check_that_hangs_answers_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READY_TIMEOUT_S", 0.01)
    async with _serving(ready=asyncio.Event().wait) as server:
        status, _, body = await _get(server, "/readyz")
    assert status == 503
    assert "no answer within" in json.loads(body)["reasons"]["orchestrator"]


@pytest.mark.parametrize(("path", "method", "expected"), [("/", "GET", 404), ("/metrics", "POST", 405)])
async def test_what_is_not_served(path: str, method: str, expected: int) -> None:
    async with _serving() as server:
        status, headers, _ = await _get(server, path, method)
    assert status == expected
    assert "server" not in headers


async def test_start_and_stop_may_be_called_twice() -> None:
    async with _serving() as server:
        port = server.port
        await server.start()
        assert server.port == port
        await server.stop()
        await server.stop()
        with pytest.raises(ConnectionRefusedError):
            await _get(server, "/healthz")
        await server.start()
        assert server.port == port
        assert (await _get(server, "/healthz"))[0] == 200


async def test_a_taken_port_is_an_error_of_the_system() -> None:
    async with _serving() as server:
        taken = HttpServer("127.0.0.1", server.port, registry=Metrics().registry, ready=_well)
        with pytest.raises(OSError, match="in use"):
            await taken.start()


async def test_signals_stay_with_the_process() -> None:
    def handlers() -> list[Callable[..., Any] | int | None]:
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    before = handlers()
    async with _serving() as server:
        await _get(server, "/healthz")
        assert handlers() == before


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x00\xa5\x01", b"400"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * 100_000), b"400"),
        (b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", b"200"),
    ],
    ids=["no HTTP", "TLS", "no host", "long", "chunk", "upgrade"],
)
async def test_a_bad_request_is_answered_and_leaves_no_line_in_the_log(
    request_bytes: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with _serving() as server, asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(request_bytes)
        assert (await reader.readline()).split()[1] == status
        writer.close()
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []


async def test_a_bug_of_ours_leaves_its_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def refresh() -> None:
        raise RuntimeError("a bug")

    async with _serving(before_scrape=refresh) as server:
        assert (await _get(server, "/metrics"))[0] == 500
    assert "RuntimeError: a bug" in caplog.text


async def test_requests_leave_no_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with _serving() as server:
        await _get(server, "/healthz")
    assert "/healthz" not in caplog.text
