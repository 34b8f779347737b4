"""What is read for requests and effects; a database that is away costs a repetition, never a decision."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from msgspec.structs import replace

from callboard.orchestrator.core.changes import WindowAsked
from callboard.orchestrator.core.effects import LookUp, SendOffer
from callboard.orchestrator.core.events import Event, WindowRead
from callboard.orchestrator.store.port import OfferContent, Store, StoreUnavailableError
from callboard.orchestrator.tickets import Ticket
from callboard.schemas.errors import UnavailableError
from callboard.schemas.tasks import TaskDocument

log = structlog.get_logger("callboard.orchestrator")

RETRY_AFTER_MS: Final = 1_000
REPEAT_S: Final = 0.2


@contextmanager
def unavailable_while_away() -> Iterator[None]:
    """What the store says of a database that is away, in the protocol's words.

    Raises:
        UnavailableError: the database is away.
    """
    try:
        yield
    except StoreUnavailableError as error:
        raise UnavailableError(str(error), retry_after_ms=RETRY_AFTER_MS) from error


class Reads:
    """Reads of one pool."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._pool = pool

    async def documents(self, task_ids: list[str]) -> dict[str, TaskDocument]:
        """Documents by task id.

        Raises:
            UnavailableError: the database is away.
        """
        with unavailable_while_away():
            return await self._store.documents(self._pool, task_ids)

    async def offer(
        self, offers: list[SendOffer], send: Callable[[list[tuple[SendOffer, OfferContent]]], None]
    ) -> None:
        """Read what these offers carry and `send` them; one whose task is no longer live is dropped."""
        try:
            contents = await self._store.offers([offer.task_id for offer in offers])
        except StoreUnavailableError as error:
            log.info("offers wait for the database", pool=self._pool, reason=str(error))
            return  # the core repeats them
        send([(offer, contents[offer.task_id]) for offer in offers if offer.task_id in contents])

    async def window(self, asked: WindowAsked, post: Callable[[Event], None]) -> None:
        """Read waiting tasks, again and again until the database answers, and hand them in."""
        while True:
            try:
                lanes = await self._store.lanes(self._pool, asked.lanes) if asked.lanes else []
                agenda = [] if asked.agenda is None else await self._store.agenda(self._pool, asked.agenda)
            except StoreUnavailableError as error:
                log.info("the window waits for the database", pool=self._pool, reason=str(error))
                await asyncio.sleep(REPEAT_S)  # a database that is away tells nobody when it is back
            else:
                post(WindowRead(asked=asked, lanes=tuple(map(tuple, lanes)), agenda=tuple(agenda)))
                return

    async def look_up(self, effect: LookUp, post: Callable[[Event], None]) -> None:
        """Read the task of an event and hand the event in again."""
        event = effect.event
        try:
            with unavailable_while_away():
                looked = await self._store.look_up(self._pool, event.task_id)
        except UnavailableError as error:
            if isinstance(event.ticket, Ticket):
                event.ticket.refuse(error)
            return
        post(replace(event, looked=looked))
