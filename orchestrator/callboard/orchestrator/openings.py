"""Opening what may not be there yet: tried again for as long as it takes, each failure logged with its reason."""

import stamina
import structlog

from callboard.orchestrator.carriers import StreamCarrier
from callboard.orchestrator.store.port import Store, StoreUnavailableError
from callboard.schemas.errors import OutcomeUnknownError, UnavailableError

log = structlog.get_logger("callboard.orchestrator")


async def open_when_reachable(store: Store) -> None:
    """Open a store, however long its database is away; each failure is logged with its reason.

    Raises:
        ConfigurationError: It can be reached, and does not fit.
    """
    retries = stamina.retry_context(
        on=StoreUnavailableError, attempts=None, timeout=None, wait_initial=0.2, wait_max=5.0, wait_jitter=0.5
    )
    async for attempt in retries:
        with attempt:
            try:
                await store.open()
            except StoreUnavailableError as error:
                log.warning("database cannot be reached: trying again", reason=str(error), attempt=attempt.num)
                raise


async def open_when_there(carrier: StreamCarrier) -> None:
    """Make or verify the events' stream, however long JetStream has no leader; each failure is logged.

    Raises:
        ConfigurationError: It is not enabled, or does not allow the stream.
    """
    retries = stamina.retry_context(
        on=(UnavailableError, OutcomeUnknownError), attempts=None, timeout=None, wait_initial=0.2, wait_max=5.0
    )
    async for attempt in retries:
        with attempt:
            try:
                await carrier.open()
            except (UnavailableError, OutcomeUnknownError) as error:
                log.warning("the events' stream cannot be reached", reason=error.message, attempt=attempt.num)
                raise
