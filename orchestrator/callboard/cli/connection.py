"""Where a command connects to, and its connection.

The address is, in this order: `--nats-url`, `--context` or `--data-dir`; the `NATS_*` variables that the `nats` command
reads; what a `callboard dev` wrote into its data directory; the context selected for `nats`; the local server. An
address that nobody gave is tried once, so that nobody waits for what was never started; a given one is tried for the
whole `--timeout`.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
from cyclopts import Group, Parameter

from callboard.cli.exits import UsageError
from callboard.cli.output import print_note
from callboard.cli.values import DurationMs, FilePath, Text
from callboard.schemas.errors import UnavailableError
from callboard.schemas.names import is_name, is_pool
from callboard.schemas.subjects import DEFAULT_POOL, DEFAULT_PREFIX

if TYPE_CHECKING:
    from callboard.bus.client import Client
    from callboard.bus.connection import BusChange
    from callboard.bus.options import BusOptions

T = TypeVar("T")

_ADDRESS_FILE: Final = "callboard.json"
_NATS_VARIABLES: Final = ("NATS_URL", "NATS_CONTEXT")


@Parameter(name="*", group=Group("Connection", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class Connection:
    """The options that every client command has."""

    nats_url: Text | None = None
    """Address of NATS, nats://host:port; several with commas. Else NATS_URL, NATS_CONTEXT, ..., or a running `dev`."""
    context: Text | None = None
    """A context of the `nats` command to take address and credentials from. [env var: NATS_CONTEXT]"""
    pool: Annotated[str, Parameter(env_var="CALLBOARD_POOL")] = DEFAULT_POOL
    """The pool whose tasks and agents are meant."""
    prefix: Annotated[str, Parameter(env_var="CALLBOARD_PREFIX")] = DEFAULT_PREFIX
    """The first token of all subjects."""
    data_dir: Annotated[FilePath | None, Parameter(env_var="CALLBOARD_DATA_DIR")] = None
    """Where `callboard dev` keeps its state; its address is used when none is given."""
    timeout: DurationMs = 10_000
    """How long NATS and the orchestrator may be away before the command gives up."""

    @property
    def timeout_s(self) -> float:
        """`timeout` in seconds."""
        return self.timeout / 1000


HERE: Final = Connection()
"""Nothing given."""


class _DevAddresses(msgspec.Struct):
    """What `callboard dev` writes when it is ready."""

    nats_url: str
    pid: int


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part."""
    return asyncio.run(work)


def default_data_dir() -> Path:
    """Where `callboard dev` keeps its state unless told otherwise."""
    from platformdirs import user_data_path  # noqa: PLC0415 - only when it is asked for

    return user_data_path("callboard", appauthor=False)


@asynccontextmanager
async def connected(to: Connection) -> "AsyncIterator[Client]":
    """A client of the pool that the options mean.

    Raises:
        UsageError: the options contradict one another or cannot be used.
        UnavailableError: NATS cannot be reached; the message says where and what to do.
    """
    _quieten()
    from callboard.bus.client import Client  # noqa: PLC0415 - nats is not needed for --help
    from callboard.bus.messages import NoRespondersError  # noqa: PLC0415 - the same
    from callboard.bus.refusals import is_refusal  # noqa: PLC0415 - the same

    options, advice = options_of(to)
    connection = Client.connect(
        options,
        pool=to.pool,
        prefix=to.prefix,
        timeout_s=0 if advice else to.timeout_s,
        on_change=_report if sys.stderr.isatty() and not advice else None,
    )
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(connection)
        except UnavailableError as error:
            # A refusal says itself what to mend.
            advice = advice or ("" if is_refusal(error.message) else "is this its address, and is it running?")
            raise UnavailableError(f"{error.message} ({advice})" if advice else error.message) from None
        try:
            yield client
        except NoRespondersError:
            where = ", ".join(options.addresses)
            raise UnavailableError(
                f"no orchestrator answers for pool {to.pool!r} at {where}; start one with: callboard dev (or serve)"
            ) from None


def options_of(to: Connection) -> "tuple[BusOptions, str]":
    """How to connect; and when the address was not given but guessed, advice in case it fails (else empty).

    Raises:
        UsageError: the options contradict one another, or there is no address where one should be.
        ConfigurationError: a context file or a credential cannot be used.
    """
    if not is_pool(to.pool):
        raise UsageError(f"--pool {to.pool!r}: lower case letters, digits, _ and -, at most 32")
    if not is_name(to.prefix):
        raise UsageError(f"--prefix {to.prefix!r}: letters, digits, _ and -, 1 to 64 of them")
    from callboard.bus.context import options_from_environment  # noqa: PLC0415 - not needed for --help
    from callboard.bus.options import DEFAULT_URL, BusOptions  # noqa: PLC0415 - not needed for --help

    if sum(map(bool, (to.nats_url, to.context, to.data_dir))) > 1:
        raise UsageError("give one of --nats-url, --context and --data-dir")
    if to.context:
        return options_from_environment({**os.environ, "NATS_CONTEXT": to.context}), ""
    if to.nats_url or (not to.data_dir and any(os.environ.get(name) for name in _NATS_VARIABLES)):
        return options_from_environment(url=to.nats_url), ""
    dev = _read_addresses(to.data_dir or default_data_dir())
    if dev is not None:
        advice = f"callboard dev, process {dev.pid}, left this address; start it again"
        return BusOptions(servers=(dev.nats_url,)), advice
    if to.data_dir:
        raise UsageError(f"--data-dir {to.data_dir}: there is no {_ADDRESS_FILE}; start: callboard dev")
    options = options_from_environment()
    guessed = options.servers == (DEFAULT_URL,)
    return options, "no address is given: use --nats-url, or start: callboard dev" if guessed else ""


def _read_addresses(data_dir: Path) -> _DevAddresses | None:
    file = data_dir / _ADDRESS_FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=_DevAddresses)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None


def _quieten() -> None:
    """Keep the bus's log out of the output: its news is told as errors and notes."""
    import structlog  # noqa: PLC0415 - not needed for --help

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )


def _report(change: "BusChange") -> None:
    if change.state in {"failed", "disconnected", "reconnected"}:
        print_note(f"NATS {change.state}: {change.reason}")
