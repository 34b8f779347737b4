"""`callboard dev`: everything on this machine, in one process group, on loopback, behind a generated token.

When it is ready it prints its addresses, writes `<data-dir>/callboard.json`, which goes when it stops, and a context
for the `nats` command. The context is the first one's while it runs: another `callboard dev` leaves it alone, and says
how else it is reached.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from callboard.bus.child import EmbeddedServerError
from callboard.bus.context import context_path, write_context
from callboard.bus.lock import DirectoryLock
from callboard.orchestrator.config import OrchestratorMode, load_config
from callboard.orchestrator.logs import configure_logs
from callboard.orchestrator.serve import until_signal
from callboard.orchestrator.service import Orchestrator

ADDRESS_FILE: Final = "callboard.json"
CONTEXT: Final = "callboard-dev"
"""The context that the `nats` command finds us by: `nats --context callboard-dev …`."""


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """What `callboard.json` holds: where everything is, and the process that started it."""

    nats_url: str
    http_url: str | None
    database_url: str | None
    pid: int


def run_dev(*, data_dir: Path, nats_port: int, http_port: int, config_file: Path | None = None) -> int:
    """Run until a signal; the exit status.

    Raises:
        ConfigurationError: With every mistake at once.
        EmbeddedServerError: The data directory belongs to another process, or a server does not start.
    """
    # What the environment says of other servers is not meant: this command brings its own.
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("NATS_") and name != "DATABASE_URL"
    }
    arguments = {"data_dir": str(data_dir), "http_port": http_port, "http_host": "127.0.0.1"}
    config = load_config(file=config_file, environ=environ, arguments=arguments).config
    if config.mode is OrchestratorMode.PRODUCTION:
        config = msgspec.structs.replace(config, mode=OrchestratorMode.DEVELOPMENT)
    configure_logs(config)
    return uvloop.run(_dev(Orchestrator(config, nats_port=nats_port), data_dir))


async def _dev(orchestrator: Orchestrator, data_dir: Path) -> int:
    stopped = asyncio.create_task(until_signal())
    starting = asyncio.create_task(orchestrator.start())
    await asyncio.wait([stopped, starting], return_when=asyncio.FIRST_COMPLETED)
    file = data_dir / ADDRESS_FILE
    context = DirectoryLock(context_path(CONTEXT).with_suffix(".lock"))
    try:
        if starting.done():
            starting.result()
            addresses = Addresses(
                nats_url=orchestrator.nats_url or "",
                http_url=orchestrator.http_url,
                database_url=orchestrator.database_url,
                pid=os.getpid(),
            )
            _write(file, addresses)
            ours = await _claim(context, addresses)
            sys.stdout.write(_welcome(addresses, file, has_context=ours))
            sys.stdout.flush()
            await stopped
        else:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
    finally:
        stopped.cancel()
        if starting.done() and not starting.cancelled() and starting.exception() is None:
            file.unlink(missing_ok=True)
        await orchestrator.shutdown()
        context.release()
    return 0


async def _claim(context: DirectoryLock, addresses: Addresses) -> bool:
    """Write the context for the `nats` command, unless it is that of a `callboard dev` that runs."""
    context.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        await context.acquire(wait_s=0)
    except EmbeddedServerError:
        return False
    write_context(CONTEXT, url=addresses.nats_url, description="Callboard's development servers")
    return True


def _write(file: Path, addresses: Addresses) -> None:
    """The token is in it: for our eyes only, and never half written."""
    draft = file.with_suffix(".tmp")
    draft.touch(mode=0o600)
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(addresses)))
    draft.replace(file)


def _welcome(addresses: Addresses, file: Path, *, has_context: bool) -> str:
    lines = [
        "Callboard is ready. Ctrl-C stops it.",
        f"  NATS      {addresses.nats_url}",
        f"  HTTP      {addresses.http_url}  (/metrics, /healthz, /readyz)",
        f"  Postgres  {addresses.database_url}",
        f"  {file}",
    ]
    if has_context:
        lines.append(f"  nats --context {CONTEXT} micro ls")
    else:
        lines += [
            f"The context {CONTEXT} is that of another callboard dev, which runs. Here:",
            f"  nats --server {addresses.nats_url} micro ls",
            f"  callboard status --data-dir {file.parent}",
        ]
    return "\n".join([*lines, ""])
