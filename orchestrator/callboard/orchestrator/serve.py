"""The processes: `callboard serve` and `callboard migrate`, and what `dev` shares with them."""

import asyncio
import gc
import signal
import sys
from pathlib import Path
from typing import Final

import structlog
import uvloop

from callboard.orchestrator.config import load_config
from callboard.orchestrator.logs import configure_logs
from callboard.orchestrator.service import Orchestrator
from callboard.schemas.errors import ConfigurationError

log = structlog.get_logger("callboard.orchestrator")

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def spare_collector() -> None:
    """Have the garbage collector look seldom: what is loaded stays, and a message leaves nothing in cycles."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


async def until_signal() -> signal.Signals:
    """Wait for Ctrl-C, SIGTERM or the end of the terminal; a second one ends the process as if nobody listened."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()

    def receive(number: signal.Signals) -> None:
        if not received.done():
            received.set_result(number)
        for each in SIGNALS:
            loop.remove_signal_handler(each)

    for number in SIGNALS:
        loop.add_signal_handler(number, receive, number)
    return await received


def run_serve(*, config_file: Path | None = None) -> int:
    """Run until a signal; the exit status.

    Raises:
        ConfigurationError: With every mistake at once; or the database's schema does not fit, or does so no more.
    """
    config = load_config(file=config_file).config
    missing = [
        name
        for name, given in (
            ("NATS_URL or NATS_CONTEXT", config.nats.url or config.nats.context),
            ("DATABASE_URL", config.database_url or not config.enable_database_persistence),
        )
        if not given
    ]
    if missing:
        raise ConfigurationError(f"serve needs existing servers: set {' and '.join(missing)}, or run `callboard dev`")
    configure_logs(config)
    spare_collector()
    return uvloop.run(_serve(Orchestrator(config)))


async def _serve(orchestrator: Orchestrator) -> int:
    stopped = asyncio.create_task(until_signal())
    starting = asyncio.create_task(orchestrator.start())
    unfit = asyncio.create_task(orchestrator.until_unfit())
    try:
        await asyncio.wait([stopped, starting, unfit], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            log.info("ready", replica=orchestrator.config.replica, http_url=orchestrator.http_url)
            await asyncio.wait([stopped, unfit], return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            log.info("stopping", signal=stopped.result().name)
    finally:
        for task in (stopped, starting, unfit):
            task.cancel()
        await asyncio.gather(stopped, starting, unfit, return_exceptions=True)
    await orchestrator.shutdown()
    if not unfit.cancelled():
        raise unfit.result()
    return 0


def run_migrate(*, database_url: str | None = None, config_file: Path | None = None) -> int:
    """Bring the schema up to date; the exit status.

    Raises:
        ConfigurationError: No database is given.
    """
    url = database_url or load_config(file=config_file).config.database_url
    if url is None:
        raise ConfigurationError("no database is given: set DATABASE_URL or use --database-url", path="database_url")
    # A sixth of a server's memory is what migrations import, and serving needs none of it.
    from callboard.orchestrator.store.migrate import migrate  # noqa: PLC0415 - see above

    report = asyncio.run(migrate(url))
    sys.stdout.write(f"schema: {report.before or 'none'} -> {report.after}\n")
    return 0
