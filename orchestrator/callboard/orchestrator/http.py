"""The HTTP side: `/metrics` for Prometheus, `/healthz` and `/readyz` for whatever restarts and routes.

Rules:
- `/healthz` says that the event loop answers, and nothing else: a replica waiting for its database must not be killed.
- `/readyz` does a real round trip through bus and database, given by the orchestrator, within a bound.
- A request that is none is answered as such and leaves no line in the log: a scanner must not fill it.
- uvicorn runs inside our loop and takes no signal over: stopping is the orchestrator's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any, Final

import h11
import uvicorn
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from callboard.orchestrator.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from prometheus_client import CollectorRegistry
    from starlette.requests import Request

    Readiness = Callable[[], Awaitable[Mapping[str, str]]]

READY_TIMEOUT_S: Final = 5.0
SHUTDOWN_S: Final = 2
"""How long requests under way may take to finish at a stop, in seconds."""

_SETTINGS: Final = "set CALLBOARD_HTTP_PORT (of dev: --http-port), where 0 takes a free one, or CALLBOARD_HTTP_HOST"

_log = get_logger()


class HttpServer:
    """Serves the three endpoints from `start` to `stop`; each may be called twice.

    Args:
        host: The address to listen on.
        port: Its port; 0 takes a free one.
        registry: What `/metrics` shows.
        ready: A round trip; answers what is not well, part (`bus`, `database`) to reason, or nothing.
        before_scrape: Called before `/metrics` is answered, to set gauges; must neither block nor raise.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        registry: CollectorRegistry,
        ready: Readiness,
        before_scrape: Callable[[], None] = lambda: None,
    ) -> None:
        self.host = host
        self.port = port
        self._registry = registry
        self._ready = ready
        self._before_scrape = before_scrape
        self._server: _EmbeddedUvicorn | None = None
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; `port` is the real one afterwards.

        Raises:
            OSError: The address cannot be listened on; the text names the settings to mend.
        """
        if self._running is not None:
            return
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listener = socket.create_server((self.host, self.port), family=family)
        except OSError as error:
            # Python's words end with the address; said once, with the settings that it is made of, is enough.
            what = (error.strerror or str(error)).partition(" (while ")[0]
            raise OSError(error.errno, f"{self.url} cannot be listened on: {what}; {_SETTINGS}") from error
        self.port = listener.getsockname()[1]
        self._server = _EmbeddedUvicorn(self._application())
        # The listener holds connections from now on: nobody has to wait for uvicorn.
        self._running = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")

    async def stop(self) -> None:
        """Answer what is under way, then close."""
        running, self._running = self._running, None
        if running is not None and self._server is not None:
            self._server.should_exit = True
            await running

    @property
    def url(self) -> str:
        """`http://host:port`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def _application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/metrics", self._metrics),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
            ]
        )

    async def _metrics(self, request: Request) -> Response:
        self._before_scrape()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"Content-Type": content_type})

    async def _healthz(self, _: Request) -> Response:
        return JSONResponse({"alive": True})

    async def _readyz(self, _: Request) -> Response:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                reasons = dict(await self._ready())
        except TimeoutError:
            reasons = {"orchestrator": f"no answer within {READY_TIMEOUT_S:g} s"}
        except Exception:  # noqa: BLE001 - a check that fails in any way means: not ready
            _log.exception("the readiness check failed")
            reasons = {"orchestrator": "the check failed, see the log"}
        return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether an error is a bug here: an answer to a request that turned out to be none cannot be sent, either."""
    return record.exc_info is None or not isinstance(record.exc_info[1], h11.ProtocolError)


_bugs = logging.getLogger(f"{__name__}.bugs")
_bugs.setLevel(logging.ERROR)
_bugs.addFilter(_is_ours)


class _Connection(H11Protocol):
    """uvicorn's, with a log of our own: another uvicorn of this process keeps its own settings."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **options)
        self.logger = _bugs


class _EmbeddedUvicorn(uvicorn.Server):
    """uvicorn without what makes it the owner of a process: signal handlers, log set-up, access log."""

    def __init__(self, application: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                access_log=False,
                http=_Connection,
                lifespan="off",
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=SHUTDOWN_S,
                ws="none",
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
