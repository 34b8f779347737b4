"""Connections to Postgres: few, bounded in time, and thrown away after any doubt.

Rules:
- Whatever goes wrong inside `use`, the connection is discarded: nothing is ever cancelled inside a transaction and
  then used again.
- Every wait ends: for a free connection, for a new one, for a lock, for a statement, for an answer.
- What the database could not do is a `StoreUnavailableError`; what is wrong with the data (`DATA_ERRORS`) stays as it
  is, for whoever can tell which row it was.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from callboard.orchestrator.store.driver import PgConnection
from callboard.orchestrator.store.port import StoreUnavailableError
from callboard.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_MS: Final = 5_000
LOCK_TIMEOUT_MS: Final = 2_000
ANSWER_TIMEOUT_S: Final = 6.0
"""Longer than a statement may take: without an answer by then, the connection is dead."""
CLOSE_TIMEOUT_S: Final = 1.0

DATA_ERRORS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
"""SQLSTATE classes 22, 23 and 54: the fault of a row."""

_LIMITS: Final = {
    "application_name": "callboard",
    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    "idle_in_transaction_session_timeout": str(STATEMENT_TIMEOUT_MS),
    "timezone": "UTC",
    # Compiling a statement takes longer than any of ours runs.
    "jit": "off",
}

READING: Final[dict[str, str]] = {
    **_LIMITS,
    # A plan that was cached when the tables were empty would go on scanning them.
    "enable_seqscan": "off",
}
WRITING: Final[dict[str, str]] = {
    **_LIMITS,
    # The plan of a batch is cached when the tables are small. Without these two it would scan the tables after a burst,
    # or compare each of 500 rows with each of 500; with them it always finds the ids by index and joins by hash.
    "enable_seqscan": "off",
    "enable_nestloop": "off",
}
"""Only for statements that find every row by an index."""
DISPATCHING: Final[dict[str, str]] = {
    **_LIMITS,
    # The same for reads in the order of an index: without these a plan that was cached when the tables were small, or
    # that takes a class for a small one, would fetch a whole queue to sort it.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
}
"""Only for statements that walk an index from a place on."""


@dataclass(slots=True)
class Lent:
    """A connection in use; `handed_over` says whether a statement that writes may have reached the database."""

    pg: PgConnection
    handed_over: bool = False


class Connections:
    """At most `limit` connections with the same settings; the one used last is used first, as its plans are warm."""

    def __init__(self, url: str, settings: dict[str, str], *, limit: int) -> None:
        self._url = url
        self._settings = settings
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[PgConnection] = []
        self._busy: set[PgConnection] = set()
        self._closed = False

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Lent]:
        """Lend a connection, in autocommit mode.

        Raises:
            StoreUnavailableError: none could be had in time, or the database failed.
            ConfigurationError: the URL is none.
        """
        lent = None
        await self._take_turn()
        try:
            lent = Lent(await self._take())
            self._busy.add(lent.pg)
            yield lent
            if self._closed:
                lent.pg.terminate()
            else:
                self._idle.append(lent.pg)
        except BaseException as error:
            if lent is not None:
                lent.pg.terminate()
            problem = _as_unavailable(error, handed_over=lent is not None and lent.handed_over)
            if problem is not None:
                raise problem from error
            raise
        finally:
            if lent is not None:
                self._busy.discard(lent.pg)
            self._slots.release()

    async def _take_turn(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # at once, and nearly always: a timer would cost more
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._slots.acquire()
        except TimeoutError:
            raise StoreUnavailableError("the database is too busy to answer", handed_over=False) from None

    async def _take(self) -> PgConnection:
        if self._closed:
            raise StoreUnavailableError("the store is closed", handed_over=False)
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await connect(
            self._url,
            command_timeout=ANSWER_TIMEOUT_S,
            server_settings=self._settings,
            # A batch has a statement for each of its shapes; none is worth preparing twice.
            statement_cache_size=200,
            max_cached_statement_lifetime=0,
            max_cacheable_statement_size=0,
        )

    async def close(self) -> None:
        """Let go of all; those in use are broken off. May be called twice."""
        self._closed = True
        for connection in self._busy:
            connection.terminate()
        while self._idle:
            connection = self._idle.pop()
            try:
                await connection.close(timeout=CLOSE_TIMEOUT_S)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                connection.terminate()


async def connect(url: str, **options: Any) -> PgConnection:  # noqa: ANN401 - asyncpg's own options
    """A new connection, within `CONNECT_TIMEOUT_S`.

    Raises:
        ConfigurationError: the URL is none.
        OSError, asyncpg.PostgresError: as asyncpg raises them.
    """
    try:
        return await asyncpg.connect(plain_url(url), timeout=CONNECT_TIMEOUT_S, **options)
    except ValueError as error:
        raise ConfigurationError(f"database_url is not an address of Postgres: {error}", path="database_url") from error


def plain_url(url: str) -> str:
    """The URL as asyncpg takes it: SQLAlchemy's form names the driver too."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"


def _as_unavailable(error: BaseException, *, handed_over: bool) -> Exception | None:
    """What the caller is told instead of `error`, or `None` when it is not the database's being away."""
    if isinstance(error, DATA_ERRORS):
        return None
    if isinstance(error, asyncpg.PostgresError):
        # After an ordinary error the transaction is rolled back for certain; after a fatal one nobody knows.
        unknown = handed_over and getattr(error, "severity_en", None) != "ERROR"
        sqlstate = getattr(error, "sqlstate", None)
        return StoreUnavailableError(f"the database failed: {error} ({sqlstate})", handed_over=unknown)
    if isinstance(error, TimeoutError):
        return StoreUnavailableError("the database did not answer in time", handed_over=handed_over)
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return StoreUnavailableError(f"the database is away: {error}", handed_over=handed_over)
    return None
